"""From a bundle and a device to the two stages, ready to run. Nothing heavy is imported before engines are loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, get_args

from sharpose.engines.device import UNTRIED, Device, engine_of, parse_device
from sharpose.engines.precision import RunPrecision, choose_precision, graphs_for, graphs_of, on_cpu
from sharpose.errors import EngineError

if TYPE_CHECKING:
    from sharpose.bundle import Bundle
    from sharpose.engines.base import FixInputs, Runner
    from sharpose.engines.tensorrt.load import TensorRtSettings
    from sharpose.engines.two_stage import TwoStage

STAGES = ("coarse", "fine")
_log = logging.getLogger("sharpose.onnxruntime")


@dataclass(frozen=True)
class OnnxRuntimeSettings:
    """How to run with ONNX Runtime on a GPU."""

    tf32: bool = False  # whether matrix products in float32 may round their factors to TF32 (10 bits of mantissa)
    engine_cache: Path | None = None  # of device `ort-tensorrt`: folder of engines; `cache_folder()` if None
    say: Callable[[str], None] | None = None  # called with a line of text; logged if None


def load_two_stage(
    bundle: Bundle,
    device: str = "cpu",
    *,
    precision: str = "auto",
    threads: int | None = None,
    tensorrt: TensorRtSettings | None = None,
    onnxruntime: OnnxRuntimeSettings | None = None,
) -> TwoStage:
    """Both stages of a bundle, loaded on a device.

    Args:
        bundle: An opened bundle.
        device: What `parse_device` takes.
        precision: To compute in: `fp32`, `fp16`, `bf16`, `int8`, or `auto` (see `choose_precision`).
        threads: CPU threads inside an operator; the backend's own choice if None.
        tensorrt: How to build, find and run engines where the device is `tensorrt`.
        onnxruntime: How to run on the other GPU devices.

    Raises:
        InputError: `precision` isn't one.
        BundleError: the bundle doesn't have the precision asked for.
        EngineError: the device is not there, hasn't that precision, or can't load a graph.
    """
    where = parse_device(device)
    chosen = choose_precision(bundle, where, precision)
    if where.kind == "tensorrt":
        from sharpose.engines.tensorrt.load import TensorRtSettings, load_tensorrt_two_stage

        return load_tensorrt_two_stage(bundle, where, graphs_of(chosen), tensorrt or TensorRtSettings())
    from sharpose.engines.batches import BatchCache
    from sharpose.engines.two_stage import HostTwoStage

    settings = onnxruntime or OnnxRuntimeSettings()
    say = settings.say or _log.info
    coarse, fine = load_runners(bundle, where, chosen, threads=threads, onnxruntime=settings)
    why = ""
    if precision == "auto" and on_cpu(where) and chosen != "fp32" and "fp32" in bundle.precisions:
        why = ", verified as the fastest that is right on this kind of CPU"
    if where.kind == "openvino":
        say(f"OpenVINO on {where}, {chosen}{why}")
    elif where.kind in UNTRIED:
        say(
            f"ONNX Runtime on {where}, {chosen} graphs; that device is untried: "
            f"`sharpose-doctor --device {where}` compares its poses with the CPU's"
        )
    elif where.kind != "cpu":
        tf32 = "on" if settings.tf32 else "off"
        say(f"ONNX Runtime on {where}, {chosen} graphs, TF32 {tf32}")
    elif chosen != "fp32":
        slower = ", which it computes in float32, slower than fp32 graphs" if chosen == "fp16" else ""
        say(f"ONNX Runtime on {where}, {chosen} graphs{slower or why}")
    if not on_cpu(where):
        return HostTwoStage(coarse, fine, chosen)
    engine = f"{engine_of(where)} {import_module(engine_of(where)).__version__}"
    if coarse.parts > 1:
        engine += f", batches in {coarse.parts} parts"
    cache = BatchCache.of_stages(bundle, chosen, device=str(where), engine=engine, threads=threads, say=say)
    return HostTwoStage(coarse, fine, chosen, divisible=True, batch_cache=cache)


def load_runners(
    bundle: Bundle, device: Device, precision: RunPrecision, *, threads: int | None, onnxruntime: OnnxRuntimeSettings
) -> tuple[Runner, Runner]:
    """The coarse and the fine stage in ONNX Runtime or OpenVINO; raises as `load_two_stage`."""
    make: Callable[..., Runner]
    if device.kind == "openvino":
        from sharpose.engines.openvino import OpenVinoRunner, find_device

        _check_computed(bundle, device, precision, find_device(device).precisions)
        make = partial(OpenVinoRunner, precision=precision)
    else:
        from sharpose.engines.onnxrt import OnnxRuntimeRunner

        make = partial(OnnxRuntimeRunner, settings=onnxruntime)
    graphs, most = graphs_for(bundle, device, precision), bundle.manifest.max_batch
    return load_both(lambda stage: make(*bundle.graph(stage, graphs), most, device=str(device), threads=threads))


class _Closable(Protocol):
    def close(self) -> None: ...


_Engine = TypeVar("_Engine", bound=_Closable)


def load_both(load: Callable[[str], _Engine]) -> tuple[_Engine, _Engine]:
    """What `load` gives for `STAGES`; where the fine one can't be loaded, the coarse one's memory is freed."""
    coarse, fine = STAGES
    first = load(coarse)
    try:
        return first, load(fine)
    except BaseException:
        first.close()
        raise


def _check_computed(bundle: Bundle, device: Device, precision: RunPrecision, computed: Collection[str]) -> None:
    """Raise `EngineError` where a device doesn't compute in a precision, with those that the bundle has graphs for."""
    if precision in computed:
        return
    known: tuple[RunPrecision, ...] = get_args(RunPrecision)
    able = [item for item in known if item in computed and graphs_for(bundle, device, item) in bundle.precisions]
    if able:
        raise EngineError(f"precision {precision}: {device} doesn't compute in it; use {' or '.join(able)}")
    held = bundle.precisions
    raise EngineError(
        f"bundle {bundle.path}: holds {' and '.join(held)} graphs only, which {device} doesn't compute in; export it "
        f"with --precision {','.join(('fp32', *held))}, or use device cpu"
    )


def load_graph(
    path: Path,
    fix_inputs: FixInputs,
    devices: Sequence[str],
    *,
    tensorrt: TensorRtSettings | None = None,
    onnxruntime: OnnxRuntimeSettings | None = None,
) -> Runner:
    """An ONNX file that belongs to no bundle (a detector), loaded on the first of some devices that can run it.

    A device that can't run this graph is passed over, and so is one, after the first, that isn't there: each with a
    line that says why.

    Args:
        path: The ONNX file.
        fix_inputs: Gives every input a fixed shape.
        devices: As users write them, best first.
        tensorrt: How to build, find and run the engine where the device is `tensorrt`.
        onnxruntime: How to run on the other GPU devices; its `say` is called with the lines.

    Raises:
        GraphError: the graph isn't one, or the only device can't run it.
        EngineError: the first device is not there, or none of several can run the graph.
    """
    from sharpose.engines.base import GraphError

    say = _log.info if onnxruntime is None or onnxruntime.say is None else onnxruntime.say
    reasons: list[str] = []
    for text, following in zip(devices, (*devices[1:], None), strict=True):
        try:
            return _load_graph_on(path, fix_inputs, parse_device(text), tensorrt, onnxruntime)
        except EngineError as error:
            if len(devices) == 1 or not (reasons or isinstance(error, GraphError)):
                raise
            reasons.append(f"{text}: {str(error).removeprefix(f'{path}: ')}")
            if following is not None:
                say(f"{path.name} can't run on {reasons[-1]}; trying {following}")
    raise EngineError(f"{path}: can't run on {'; nor on '.join(reasons)}")


def _load_graph_on(
    path: Path,
    fix_inputs: FixInputs,
    device: Device,
    tensorrt: TensorRtSettings | None,
    onnxruntime: OnnxRuntimeSettings | None,
) -> Runner:
    if device.kind == "tensorrt":
        from sharpose.engines.tensorrt.graph import load_tensorrt_graph
        from sharpose.engines.tensorrt.load import TensorRtSettings

        return load_tensorrt_graph(path, fix_inputs, device, tensorrt or TensorRtSettings())
    if device.kind == "openvino":
        from sharpose.engines.openvino import OpenVinoRunner

        return OpenVinoRunner(path, fix_inputs, 1, device=str(device))
    from sharpose.engines.onnxrt import OnnxRuntimeRunner

    return OnnxRuntimeRunner(path, fix_inputs, 1, device=str(device), settings=onnxruntime)

"""Running a graph with OpenVINO, on a CPU, an Intel GPU or an NPU."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from sharpose.bundle import GraphEntry
from sharpose.engines import Untyped
from sharpose.engines.base import FixInputs, GraphError, HostArray, Runner, TensorSpec, Value, check_signature, specs
from sharpose.engines.device import Device, parse_device
from sharpose.engines.locks import EngineLock
from sharpose.errors import EngineError, how_to_install, one_line
from sharpose.files import cache_folder

_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
"""OpenVINO's name of what is computed in."""
_FIXED_SIZES = (1, 2, 4, 8)
"""Batch sizes that are compiled where all shapes are fixed."""
_ANY = 0
"""As a batch size: whatever has no model of its own."""
_MANY = -1
"""As a batch size: whatever is divided among OpenVINO's streams."""
_NOISE = re.compile(r"Exception from|Check '|While validating|FrontEnd API failed|Summary:|$")


def import_openvino() -> Untyped:
    """The module `openvino`. Unless it was imported before, its telemetry stays out of this process.

    Imported plainly, it writes an id for its makers into the user's home and sends them an event.

    Raises:
        EngineError: it isn't installed, or doesn't load.
    """
    with _without("openvino_telemetry"):
        try:
            import openvino
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == "openvino"
            problem = "is not installed" if missing else f"doesn't load ({one_line(error)})"
            raise EngineError(f"OpenVINO {problem}: {how_to_install('openvino')}") from None
    return openvino


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """While importing a module fails, as where it isn't installed."""
    before = sys.modules.get(module)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
        if before is not None:
            sys.modules[module] = before


def openvino_core() -> Untyped:
    """OpenVINO's `Core`: one for the process, to its end.

    Its CPU plugin moves this thread's alternate signal stack into memory that it frees with its last `Core`. With
    several, the stack of one that is gone comes back, and the next signal, such as Ctrl-C, ends the process by SIGSEGV.

    Raises:
        EngineError: as `import_openvino`, or this process was forked after it was made.
    """
    core, process = _core_and_process()
    if os.getpid() != process:
        raise EngineError(
            f"OpenVINO was started in process {process}, from which this one was forked, and has no threads here: fork "
            "before it is used, or start processes by `spawn`"
        )
    return core


@functools.cache
def _core_and_process() -> tuple[Untyped, int]:
    return import_openvino().Core(), os.getpid()


@dataclass(frozen=True)
class OpenVinoDevice:
    """A device that OpenVINO sees."""

    name: str  # as users write it, after `openvino:`
    full_name: str
    precisions: tuple[str, ...]  # that it computes in, of `fp32`, `fp16`, `bf16` and `int8`


def visible_devices() -> list[OpenVinoDevice]:
    """The devices that OpenVINO sees here; raises as `import_openvino`."""
    core = openvino_core()
    found = []
    for name in core.available_devices:
        able = core.get_property(name, "OPTIMIZATION_CAPABILITIES")
        precisions = tuple(item for item in (*_HINTS, "int8") if item.upper() in able)
        found.append(OpenVinoDevice(name, str(core.get_property(name, "FULL_DEVICE_NAME")), precisions))
    return found


def find_device(device: Device) -> OpenVinoDevice:
    """A device of kind `openvino`; raises `EngineError` where OpenVINO doesn't see it, with what it sees."""
    found = visible_devices()
    for item in found:
        target, _, index = item.name.partition(".")
        if target == device.target and (target != "GPU" or int(index or 0) == device.index):
            return item
    there = ", ".join(f"{item.name} ({item.full_name})" for item in found) or "no device"
    mend = "" if device.target == "CPU" else "; install Intel's driver for it, or use device openvino:CPU"
    typed = device if device.index else device.family  # openvino:GPU is openvino:GPU.0
    raise EngineError(f"device {typed}: OpenVINO sees {there} here{mend}")


def precision_hint(precision: str, device: OpenVinoDevice) -> str:
    """OpenVINO's name of what a device computes in: `f32`, `f16` or `bf16`.

    Args:
        precision: `fp32`, `fp16`, `bf16` or `int8`. What int8 graphs leave in float is computed in float32 where the
            device can, else in float16.
        device: The device.

    Raises:
        EngineError: the device can't compute in that precision.
    """
    able = device.precisions
    if precision not in able:
        raise EngineError(
            f"precision {precision}: expected one that openvino:{device.name} ({device.full_name}) computes in: "
            f"{', '.join(able) or 'none of ours'}"
        )
    return _HINTS.get(precision) or _HINTS["fp32" if "fp32" in able else "fp16"]


@dataclass(frozen=True)
class _KeptTensor:
    """An output where OpenVINO wrote it, to be read there by another run."""

    tensor: Untyped

    def shape(self) -> Sequence[int]:
        return list(self.tensor.shape)


@dataclass(frozen=True)
class _Request:
    """An infer request, and its inputs and outputs by name."""

    raw: Untyped
    ports: Mapping[str, Untyped]

    def set(self, name: str, tensor: Untyped) -> None:
        self.raw.set_tensor(self.ports[name], tensor)

    def get(self, name: str) -> Untyped:
        return self.raw.get_tensor(self.ports[name])


class OpenVinoRunner(Runner):
    """An ONNX file, compiled by OpenVINO.

    On a CPU a model of a fixed shape, compiled for latency, serves the batch of one person, and another one larger
    batches. Where `divided` is set, the latter is compiled for throughput: OpenVINO computes in as many streams as suit
    the CPU, each with a part of its cores, and a batch is divided among them. Batches of fewer people than there are
    streams then have a third one, again for latency.
    For GPUs and NPUs, which want fixed shapes, there is a model for each of a few sizes, compiled for latency: smaller
    batches are padded, and an axis that no output has is always at its largest. Inputs that need no padding are read
    where they lie; outputs are written into arrays that no later run writes into.

    Args:
        path: The ONNX file.
        declared: What a bundle declares of it; the file must agree. Or, for any other file, what gives every input a
            fixed shape.
        max_batch: Largest size of a dynamic axis.
        device: `openvino[:CPU|GPU[.i]|NPU]`.
        precision: What to compute in, of what `precision_hint` takes; if None, float32 where the device can, else
            float16.
        threads: CPU threads inside an operator; OpenVINO's own choice if None.
        fixed_shapes: Whether all shapes are fixed, and `max_batch` is at most 8; if None, where the device is no CPU.
        divided: Whether batches are divided among OpenVINO's streams. Faster, but not to be relied on: one engine gave
            wrong poses so, for a reason that isn't found yet.

    Raises:
        GraphError: the graph can't be loaded.
        EngineError: OpenVINO or the device is not there, or can't compute in that precision; or the graph's inputs and
            outputs are not the declared ones.
    """

    def __init__(
        self,
        path: Path,
        declared: GraphEntry | FixInputs,
        max_batch: int,
        *,
        device: str = "openvino",
        precision: str | None = None,
        threads: int | None = None,
        fixed_shapes: bool | None = None,
        divided: bool = False,
    ) -> None:
        where = parse_device(device)
        found = find_device(where)
        if precision is None:
            precision = "fp32" if "fp32" in found.precisions else "fp16"
        hint = precision_hint(precision, found)
        model = _read(path)
        found_inputs, found_outputs = _specs(path, model)
        if isinstance(declared, GraphEntry):
            inputs, outputs = specs(declared)
            if any(isinstance(side, str) for spec in found_inputs if spec.name == "patches" for side in spec.shape[1:]):
                _reshape(path, model, inputs, {})
                found_inputs, found_outputs = _specs(path, model)
            check_signature(str(path), found_inputs, list(inputs.values()))
            check_signature(str(path), found_outputs, list(outputs.values()))
        else:
            inputs = {spec.name: spec for spec in declared(found_inputs)}
            _reshape(path, model, inputs, {})
            outputs = {spec.name: spec for spec in _specs(path, model)[1]}
        self._fixed_shapes = where.target != "CPU" if fixed_shapes is None else fixed_shapes
        self._batches = tuple(size for size in _FIXED_SIZES if size <= max_batch) if self._fixed_shapes else (1,)
        super().__init__(str(where), inputs, outputs, self._batches[-1] if self._fixed_shapes else max_batch)
        self._tensor = import_openvino().Tensor
        self._lock = EngineLock(f"engine of {path}")
        self._compiled: dict[int, Untyped] = {}  # by batch size
        if _dynamic_axes(inputs):
            for batch in self._batches:
                fixed = model.clone()
                _reshape(path, fixed, inputs, self._fixed_sizes(batch))
                self._compiled[batch] = _compile(path, fixed, found, hint, threads)
        self._divided = self._divided_axis() if divided else None
        if not (self._compiled and self._fixed_shapes):
            if self._divided is not None:
                many = _compile(path, model, found, hint, threads, requests=max_batch)
                self.parts = min(many.get_property("NUM_STREAMS"), max_batch)
                self._compiled[_MANY if self.parts > 1 else _ANY] = many
            if self._divided is None or self.parts > 2:  # with two streams, nothing is left between one person and many
                self._compiled[_ANY] = _compile(path, model, found, hint, threads)
        self._requests: dict[tuple[int, frozenset[str], int], _Request] = {}
        self._running: Sequence[Untyped] = ()
        self._ended = threading.Event()

    def _fixed_sizes(self, batch: int) -> dict[str, int]:
        """Sizes of the axes that aren't dynamic in the model of a batch size."""
        of_outputs = _dynamic_axes(self.outputs)
        others = _dynamic_axes(self.inputs) - of_outputs if self._fixed_shapes else ()
        return {**dict.fromkeys(of_outputs, batch), **dict.fromkeys(others, self.max_batch)}

    def _divided_axis(self) -> str | None:
        """The axis along which a batch can be divided: it is the first of all outputs, and no input's but the first."""
        axes = _dynamic_axes(self.outputs)
        if self._fixed_shapes or len(axes) != 1:
            return None
        (axis,) = axes
        inputs, outputs = self.inputs.values(), self.outputs.values()
        first = all(spec.shape[:1] == (axis,) for spec in outputs) and any(spec.shape[:1] == (axis,) for spec in inputs)
        return axis if first and all(axis not in spec.shape[1:] for spec in (*inputs, *outputs)) else None

    def _choose(self, sizes: Mapping[str, int]) -> tuple[int, Mapping[str, int]]:
        """The batch size whose model serves dynamic axes of these sizes, and their sizes as it takes them."""
        largest = max((size for axis, size in sizes.items() if axis in _dynamic_axes(self.outputs)), default=_ANY)
        batch = next((batch for batch in self._batches if batch >= largest > _ANY), _ANY)
        if batch:
            return batch, {**sizes, **self._fixed_sizes(batch)}
        return _MANY if largest >= self.parts > 1 else _ANY, sizes

    def _slices(self, batch: int, sizes: Mapping[str, int]) -> list[slice]:
        """What each stream gets of a batch; all of it where it isn't divided."""
        if batch != _MANY or self._divided is None:
            return [slice(None)]
        ends = [sizes[self._divided] * part // self.parts for part in range(self.parts + 1)]
        return [slice(start, end) for start, end in itertools.pairwise(ends)]

    def _run(
        self, inputs: Mapping[str, Value], sizes: Mapping[str, int], outputs: Sequence[str], kept: Collection[str]
    ) -> dict[str, Value]:
        batch, run_sizes = self._choose(sizes)
        with self._lock:
            # Held until the run has ended: OpenVINO itself doesn't hold the arrays that it is shown.
            read = {name: _input(value, self.inputs[name].shape_at(run_sizes)) for name, value in inputs.items()}
            written = {
                name: np.empty(spec.shape_at(run_sizes), spec.dtype)
                for name, spec in self.outputs.items()
                if name in outputs and _dynamic_axes({name: spec}) <= set(run_sizes)
            }
            slices = self._slices(batch, run_sizes)
            shared = [self._shared(read | written, of_part) for of_part in slices]
            requests = [self._request(batch, frozenset(outputs), part) for part in range(len(slices))]
            self._infer(requests, shared)
            results: dict[str, Value] = {}
            for name in outputs:
                made = [request.get(name) for request in requests]
                if name in written and all(
                    tuple(tensor.shape) == (written[name][of_part] if written[name].ndim else written[name]).shape
                    for tensor, of_part in zip(made, slices, strict=True)
                ):
                    shape = self.outputs[name].shape_at(sizes)
                    array = written[name]
                    results[name] = array[tuple(map(slice, shape))] if shape else array
                elif len(made) == 1:  # of a size that the graph found out, or a wrong one
                    results[name] = made[0].data.copy()
                else:
                    shapes = ", ".join(str(list(tensor.shape)) for tensor in made)
                    wanted = ", ".join(str(list(written[name][of_part].shape)) for of_part in slices)
                    raise EngineError(
                        f"engine output {name}: expected shapes {wanted} of the parts of a batch, got {shapes}; the "
                        "graph is damaged, export it again"
                    )
        for name in kept:
            results[name] = _KeptTensor(self._tensor(results[name], shared_memory=True))
        return results

    def _shared(self, arrays: Mapping[str, HostArray], of_part: slice) -> dict[str, Untyped]:
        """A part of inputs and outputs as tensors that share their memory."""
        specs_by_name = {**self.inputs, **self.outputs}
        return {
            name: self._tensor(
                array[of_part] if self._divided in specs_by_name[name].shape else array, shared_memory=True
            )
            for name, array in arrays.items()
        }

    def _request(self, batch: int, outputs: frozenset[str], part: int) -> _Request:
        """A request of its own for each choice of outputs: the others are written where no caller has an array."""
        key = (batch, outputs, part)
        if key not in self._requests:
            compiled = self._compiled[batch]
            ports = {name: compiled.input(name) for name in self.inputs}
            ports |= {name: compiled.output(name) for name in self.outputs}
            self._requests[key] = _Request(compiled.create_infer_request(), ports)
        return self._requests[key]

    def _infer(self, requests: Sequence[_Request], tensors: Sequence[Mapping[str, Untyped]]) -> None:
        """Run all requests at once, each with its tensors."""
        if self._ended.is_set():
            raise EngineError(f"OpenVINO on {self.device}: this engine was terminated")
        self._running = running = [request.raw for request in requests]
        try:
            for request, of_request in zip(requests, tensors, strict=True):
                for name, tensor in of_request.items():
                    request.set(name, tensor)
            for raw in running:
                raw.start_async()
            if self._ended.is_set():  # when there was nothing to cancel yet
                _cancel(running)
            for raw in running:
                raw.wait()
        except BaseException as error:  # also Ctrl-C before it waits: the arrays in use must not go
            _cancel(running)
            for raw in running:
                with contextlib.suppress(Exception):  # that it was cancelled
                    raw.wait()
            if isinstance(error, Exception):  # OpenVINO's exceptions share no public base class
                raise EngineError(f"OpenVINO failed on {self.device}: {_reason(error)}") from error
            raise
        finally:
            self._running = ()

    def terminate(self) -> None:
        """See `Runner.terminate`: OpenVINO looks between two operators."""
        self._ended.set()
        _cancel(self._running)

    def _free(self) -> None:
        self._requests.clear()
        self._compiled.clear()


def _input(value: Value, shape: tuple[int, ...]) -> HostArray:
    """An input as an array of this shape that OpenVINO can share: padded or copied where it must be."""
    array = value.tensor.data if isinstance(value, _KeptTensor) else cast(HostArray, value)
    if array.shape != shape:
        padded = np.zeros(shape, array.dtype)
        padded[tuple(map(slice, array.shape))] = array
        return padded
    return array if array.flags.writeable else array.copy()


def _cancel(requests: Sequence[Untyped]) -> None:
    for request in requests:
        request.cancel()


def _dynamic_axes(items: Mapping[str, TensorSpec]) -> set[str]:
    return {axis for spec in items.values() for axis in spec.shape if isinstance(axis, str)}


def _read(path: Path) -> Untyped:
    """By the ONNX reader alone: OpenVINO itself would try them all on a damaged file, and they print."""
    try:
        reader = import_openvino().frontend.FrontEndManager().load_by_framework("onnx")
        model = reader.convert(reader.load(str(path)))
    except Exception as error:  # OpenVINO's exceptions share no public base class
        raise GraphError(f"{path}: OpenVINO can't load it ({_reason(error)})") from error
    if not model.outputs:  # what it makes of an empty file
        raise GraphError(f"{path}: OpenVINO can't load it (it has no outputs)")
    return model


def _specs(path: Path, model: Untyped) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs and outputs of a model."""
    both: list[list[TensorSpec]] = []
    for ports in (model.inputs, model.outputs):
        found = []
        for port in ports:
            try:
                dtype = np.dtype(port.element_type.to_dtype())
            except Exception:  # numpy has no such type
                raise GraphError(
                    f"{path}: expected tensors of numbers, found {port.any_name} {port.element_type}"
                ) from None
            shape = port.partial_shape
            if shape.rank.is_dynamic:
                raise GraphError(f"{path}: {port.any_name}: expected a known number of axes")
            sizes = (axis.get_length() if axis.is_static else f"axis{place}" for place, axis in enumerate(shape))
            found.append(TensorSpec(port.any_name, dtype, tuple(sizes)))
        both.append(found)
    inputs, outputs = both
    return inputs, outputs


def _reshape(path: Path, model: Untyped, inputs: Mapping[str, TensorSpec], sizes: Mapping[str, int]) -> None:
    dynamic = dict.fromkeys(_dynamic_axes(inputs), -1)
    shapes = {name: list(spec.shape_at({**dynamic, **sizes})) for name, spec in inputs.items()}
    try:
        model.reshape(shapes)
    except Exception as error:  # OpenVINO's exceptions share no public base class
        raise GraphError(f"{path}: OpenVINO can't give it inputs {shapes} ({_reason(error)})") from error


def _compile(
    path: Path, model: Untyped, device: OpenVinoDevice, hint: str, threads: int | None, requests: int = 1
) -> Untyped:
    """Compile a model, for latency or, where several requests (at most so many) run at once, for throughput."""
    wanted: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY" if requests == 1 else "THROUGHPUT",
        "PERFORMANCE_HINT_NUM_REQUESTS": requests,
        "EXECUTION_MODE_HINT": "ACCURACY",  # nothing is quantized on the way
        # Bound to cores, as is the default, the threads of two processes would share some and leave others idle.
        "ENABLE_CPU_PINNING": False,
    }
    if threads is not None:
        wanted["INFERENCE_NUM_THREADS"] = threads
    if device.name != "CPU":  # there it would save little, and a file is as large as the weights
        wanted["CACHE_DIR"] = str(cache_folder() / "openvino")
    try:
        known = openvino_core().get_property(device.name, "SUPPORTED_PROPERTIES")
        settings = {key: value for key, value in wanted.items() if key in known}
        compiled = openvino_core().compile_model(model, device.name, settings | {"INFERENCE_PRECISION_HINT": hint})
        computes_in = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    except Exception as error:  # OpenVINO's exceptions share no public base class
        raise GraphError(f"{path}: OpenVINO can't compile it for {device.name} ({_reason(error)})") from error
    if computes_in != hint:  # it replaces what it can't do by something else, and says nothing
        raise EngineError(f"{path}: asked to compute in {hint} on {device.name}, OpenVINO chose {computes_in}")
    return compiled


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's report that isn't about its own sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    words = [line for line in lines if not _NOISE.match(line)]
    return words[-1].removeprefix("-- ").removeprefix("Caught exception: ") if words else type(error).__name__

"""The model repository of NVIDIA Triton: a folder for each model, with its `config.pbtxt`, written from a bundle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from sharpose.bundle import MANIFEST_NAME, Bundle, GraphEntry, Precision, TensorEntry
from sharpose.engines.choose import AUTO
from sharpose.engines.device import parse_device
from sharpose.engines.load import STAGES
from sharpose.engines.precision import choose_precision
from sharpose.engines.tensorrt.build import ENGINES_FOLDER
from sharpose.engines.tensorrt.cache import StoredEngine, read_engine
from sharpose.errors import EngineError
from sharpose.serving import gate_model
from sharpose.serving.contract import MODEL_NAME, ServedModel
from sharpose.serving.product_model import BUNDLE_FOLDER

Layout: TypeAlias = Literal["product", "graphs"]
"""`product`: one model, which runs this package; `graphs`: a model for each graph, and the gate that calls them."""

_CONFIG_NAME = "config.pbtxt"
CONFIG_PATH = f"{MODEL_NAME}/{_CONFIG_NAME}"
"""Of the model that clients call, in the repository."""
QUEUE_SIZE = 64
"""Requests that wait at most; Triton refuses more at once (503, UNAVAILABLE)."""

_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float16": "TYPE_FP16", "float32": "TYPE_FP32"}
_UNSERVED = "heatmaps"  # an output for evaluation

_MODEL_PY = '''"""Runs SHaRPose in Triton's Python backend.

The package `sharpose` must be installed in the Python that Triton starts (the first on PATH), with numpy < 2 where this
Triton's Python backend needs that. The bundle lies beside this file; ../config.pbtxt says how to run it.
"""

from sharpose.serving.product_model import TritonPythonModel
'''
_PRODUCT_COMMENT = """\
# Written by sharpose-export --triton. The parameters device, precision, threads and batch say how to run, as the
# options of sharpose-run of those names do; an empty text is the default. max_batch_size may be made smaller.
"""
_GATE_COMMENT = "# Written by sharpose-export --triton: the gate, which calls sharpose_coarse and sharpose_fine.\n"
_GRAPH_COMMENT = "# Written by sharpose-export --triton: a graph, which the model sharpose calls.\n"


@dataclass(frozen=True)
class HowToRun:
    """What the `product` layout's model runs on; see `load_two_stage`. Both can be edited in `config.pbtxt` later."""

    device: str = "cpu"
    precision: str = "auto"


def write_repository(bundle: Bundle, folder: Path, layout: Layout, how: HowToRun | None = None) -> list[str]:
    """Write the models that serve a bundle into an empty folder.

    The bundle's files are copied, so that the folder can be moved to a server as it is. In the `graphs` layout both
    graphs need the weights beside them: one file with two names, where the file system can.

    Args:
        bundle: The bundle.
        folder: Where to write.
        layout: Which models.
        how: For `product`, what to run on. For `graphs`, `precision` is that of the graphs; `auto` takes what both
            TensorRT engines of the bundle are in, else fp32 where the bundle has it.

    Returns:
        A line on each model, for people to read.

    Raises:
        BundleError: the bundle has no graphs of the precision.
        EngineError: the device doesn't compute in it, or an engine beside the bundle is damaged.
        OSError: a file can't be written.
    """
    how = how or HowToRun()
    served = ServedModel.of(bundle)
    version = folder / MODEL_NAME / str(served.version)
    version.mkdir(parents=True)
    if layout == "product":
        if how.device != AUTO:
            choose_precision(bundle, parse_device(how.device), how.precision)
        target = version / BUNDLE_FOLDER
        target.mkdir()
        for name in (MANIFEST_NAME, *bundle.manifest.files):
            shutil.copyfile(bundle.path / name, target / name)
        engines_folder = bundle.path / ENGINES_FOLDER
        in_tf32 = next((stage for stage, item in _stored(engines_folder).items() if item.sidecar.options.tf32), None)
        if engines_folder.is_dir() and in_tf32 is None:
            shutil.copytree(engines_folder, target / ENGINES_FOLDER)
        (version / "model.py").write_text(_MODEL_PY, "utf-8")
        running = {"device": how.device, "precision": how.precision, "threads": "", "batch": ""}
        _write_config(version.parent, _PRODUCT_COMMENT, _batching_config(served, running))
        lines = [f"{MODEL_NAME}: both stages on {how.device}, {_mebibytes(version.parent)}"]
        return lines if in_tf32 is None else [*lines, _not_served(_TF32.format(in_tf32))]
    shutil.copyfile(gate_model.__file__, version / "model.py")
    precision = _graphs_precision(bundle, how.precision)
    found = _engines(bundle, precision)
    for other in bundle.precisions if how.precision == "auto" else ():
        if isinstance(found, str) and not isinstance(of_other := _engines(bundle, other), str):
            precision, found = other, of_other
    engines = {} if isinstance(found, str) else found
    running = {"fine_batch": str(engines["fine"].sidecar.options.max_batch)} if engines else {}
    most = min([served.max_batch, *(item.sidecar.options.max_batch for item in engines.values())])
    _write_config(version.parent, _GATE_COMMENT, _batching_config(served, running) | {"max_batch_size": most})
    lines = [f"{MODEL_NAME}: the gate, {_mebibytes(version.parent)}"]
    weights: Path | None = None
    for stage in STAGES:
        model = folder / f"{MODEL_NAME}_{stage}"
        (model / "1").mkdir(parents=True)
        graph, entry = bundle.graph(stage, precision)
        engine = engines.get(stage)
        if engine is None:
            entry = getattr(bundle.manifest.graphs[precision], stage)  # with the axes that the file itself leaves open
            shutil.copyfile(graph, model / "1" / "model.onnx")
            weights = _copy_or_link(bundle.path / bundle.manifest.weights, model / "1", weights)
        else:
            (model / "1" / "model.plan").write_bytes(engine.plan)
        _write_config(model, _GRAPH_COMMENT, _graph_config(model.name, stage, entry, engine))
        what = f"TensorRT {engine.sidecar.flavour_version}" if engine else "ONNX"
        lines.append(f"{model.name}: {precision}, {what}, {_mebibytes(model)}")
    if isinstance(found, str) and found:
        lines.append(_not_served(found))
    return lines


_TF32 = "the {} one computes in TF32; build it without --tf32"


def _not_served(reason: str) -> str:
    return f"the bundle's TensorRT engines are not served: {reason}"


def _graphs_precision(bundle: Bundle, asked: str) -> Precision:
    """The precision of the graphs to copy."""
    usual = "fp32" if "fp32" in bundle.precisions else bundle.precisions[0]
    known: tuple[Precision, ...] = get_args(Precision)
    for precision in known:
        if precision == (usual if asked == "auto" else asked):
            bundle.graph("coarse", precision)  # refuses one that isn't there
            return precision
    raise EngineError(f"precision {asked}: no graphs are made for it; expected one of {', '.join(bundle.precisions)}")


def _engines(bundle: Bundle, precision: Precision) -> dict[str, StoredEngine] | str:
    """The TensorRT engines of both stages in the bundle's folder; or why they can't be served, empty without any."""
    engines = _stored(bundle.path / ENGINES_FOLDER)
    there = list(engines)
    for stage, engine in engines.items():
        sidecar, options = engine.sidecar, engine.sidecar.options
        found = sidecar.graph_sha256, sidecar.weights_sha256
        if sidecar.flavour != "tensorrt":
            return f"the {stage} one is of {sidecar.flavour}, which Triton doesn't run"
        if sidecar.precision != precision:
            return f"the {stage} one is in {sidecar.precision}"
        if found != (bundle.graph_sha256(stage, precision), bundle.weights_sha256):
            return f"the {stage} one was built from other graphs"
        if options.tf32:
            return _TF32.format(stage)
        if options.min_batch > 1:  # the gate hands on what one client asks
            return f"the {stage} one takes at least {options.min_batch} people; build it without --min-batch"
    return engines if len(there) == len(STAGES) else f"there is one of the {there[0]} stage alone" if there else ""


def _stored(folder: Path) -> dict[str, StoredEngine]:
    """The engines of the stages that have one in a bundle's folder of engines."""
    return {stage: read_engine(folder, stage) for stage in STAGES if (folder / f"{stage}.json").is_file()}


def _batching_config(served: ServedModel, running: Mapping[str, str]) -> dict[str, object]:
    """Of the model that clients call: batches made of what waits, at once; a queue that ends."""
    parameters = {**served.to_parameters(), **running}
    config = served.to_config()
    del config["parameters"]  # a map, which the text format writes as a list
    return {
        **config,
        "backend": "python",
        "instance_group": [{"kind": "KIND_CPU", "count": 1}],
        "dynamic_batching": {
            "max_queue_delay_microseconds": 0,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "allow_timeout_override": True,
                "max_queue_size": QUEUE_SIZE,
            },
        },
        "parameters": [{"key": key, "value": {"string_value": value}} for key, value in parameters.items()],
    }


def _graph_config(name: str, stage: str, entry: GraphEntry, engine: StoredEngine | None) -> dict[str, object]:
    """Of a graph. Triton doesn't batch it: the gate does, and the fine graph has two batch axes, N and M."""
    fixed = {} if engine is None or stage == "coarse" else {"N": engine.sidecar.options.max_batch}

    def described(tensors: Sequence[TensorEntry]) -> list[dict[str, object]]:
        return [
            {
                "name": item.name,
                "data_type": _TYPES[item.dtype],
                "dims": [side if isinstance(side, int) else fixed.get(side, -1) for side in item.shape],
            }
            for item in tensors
        ]

    # An engine's configuration names all of its outputs; ONNX Runtime computes only those that are named.
    outputs = [item for item in entry.outputs if engine is not None or item.name != _UNSERVED]
    group: dict[str, object] = {"count": 1}
    if engine is not None and engine.sidecar.profiles:
        group["profile"] = [str(index) for index in range(len(engine.sidecar.profiles))]
    return {
        "name": name,
        "platform": "onnxruntime_onnx" if engine is None else "tensorrt_plan",
        "max_batch_size": 0,
        "input": described(entry.inputs),
        "output": described(outputs),
        "instance_group": [group],
    }


def _copy_or_link(source: Path, folder: Path, copied: Path | None) -> Path:
    """A file in a folder: another name of the copy that was made before, or else a copy."""
    target = folder / source.name
    if copied is not None:
        try:
            os.link(copied, target)
            return target
        except OSError:  # a file system without links
            pass
    shutil.copyfile(source, target)
    return target


def _mebibytes(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / (1 << 20):.1f} MiB"


def _write_config(folder: Path, comment: str, config: Mapping[str, object]) -> None:
    (folder / _CONFIG_NAME).write_text(comment + "".join(f"{line}\n" for line in _fields(config)), "utf-8")


_ENUMERATIONS = ("data_type", "kind", "timeout_action")  # fields whose words stand without quotes


def _fields(message: Mapping[str, object]) -> list[str]:
    """A message in protobuf's text format, a field a line."""
    lines: list[str] = []
    for name, value in message.items():
        if isinstance(value, Mapping):
            lines += [f"{name} {{", *(f"  {line}" for line in _fields(value)), "}"]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [f"{name} {{ {' '.join(map(str.strip, _fields(item)))} }}" for item in value]
        elif isinstance(value, list):
            lines.append(f"{name}: [{', '.join(_scalar(name, item) for item in value)}]")
        else:
            lines.append(f"{name}: {_scalar(name, value)}")
    return lines


def _scalar(name: str, value: object) -> str:
    if isinstance(value, str) and name not in _ENUMERATIONS:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower() if isinstance(value, bool) else str(value)

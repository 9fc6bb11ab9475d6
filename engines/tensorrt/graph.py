"""The engine of an ONNX file that belongs to no bundle, a detector: found in the cache or built, and loaded.

Networks are strongly typed here as well: a float32 detector computes in float32 and one exported in half precision in
half, as ONNX Runtime would. TensorRT's own choice of halves, in weakly typed networks, would give other boxes than the
ones that the file was tested with; TensorRT 11 and TensorRT-RTX don't have it any more.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sharpose.engines.base import FixInputs, GraphError
from sharpose.engines.cuda.device import open_cuda_device
from sharpose.engines.device import Device
from sharpose.engines.gpu import probe_gpu
from sharpose.engines.tensorrt.build import ParsedNetwork, build_file, describe_options, describe_tensors
from sharpose.engines.tensorrt.cache import EngineRequest, EngineTensor, Profile, Sidecar
from sharpose.engines.tensorrt.library import find_flavour
from sharpose.engines.tensorrt.load import TensorRtSettings, load_engine, reporting
from sharpose.engines.tensorrt.runner import TensorRtRunner
from sharpose.engines.tensorrt.runtime import TensorRtEngine
from sharpose.onnx_file import graph_sha256

_STAGE = "detector"


def load_tensorrt_graph(
    path: Path, fix_inputs: FixInputs, device: Device, settings: TensorRtSettings
) -> TensorRtRunner:
    """An ONNX file on a GPU, with the shapes that its inputs are given.

    It has a CUDA stream and scratch memory of its own, in the context that everything on the GPU shares, so it may run
    in one thread while poses are estimated in another.

    Args:
        path: The ONNX file.
        fix_inputs: Gives every input a fixed shape.
        device: The GPU.
        settings: As for a bundle. Of the build options, batch sizes and the precision don't matter here.

    Raises:
        GraphError: TensorRT can't parse the graph or make an engine of it, or the size of an output isn't fixed.
        EngineError: the driver, the GPU, TensorRT or a CUDA binding is missing, or the engine can't be loaded.
    """
    gpu = probe_gpu(device.index)
    flavour = find_flavour(settings.flavour)
    options = settings.build_options(max_batch=1)
    options = dataclasses.replace(options, min_batch=1, opt_batch=(1,), max_batch=1)
    request = EngineRequest(
        stage=_STAGE,
        precision="as exported",
        graph_sha256=graph_sha256(path),
        weights_sha256="",  # part of the graph's
        flavour=flavour.name,
        flavour_version=flavour.version,
        gpu=gpu,
        options=describe_options(options, "fp32", flavour),
        portable=flavour.is_rtx,
    )

    def describe(parsed: ParsedNetwork) -> tuple[list[EngineTensor], list[dict[str, Profile]]]:
        fix_shapes(parsed, fix_inputs)
        inputs, outputs = ({spec.name: spec for spec in specs} for specs in (parsed.inputs(), parsed.outputs()))
        return describe_tensors(parsed, inputs, outputs), []

    def build(folder: Path) -> tuple[bytes, Sidecar]:
        with reporting(settings) as report:
            return build_file(path, describe, request, options, report, flavour=flavour, folder=folder)

    cuda = open_cuda_device(device.index, settings.cuda_bindings)
    try:
        with cuda.active():
            engine = load_engine(request, build, lambda stored: TensorRtEngine(flavour, stored, None, gpu), settings)
    except BaseException:
        cuda.close()
        raise
    return TensorRtRunner(engine, cuda, str(device))


def fix_shapes(parsed: ParsedNetwork, fix_inputs: FixInputs) -> None:
    """Give a network's inputs fixed shapes. Raises `GraphError` where an output's size still varies."""
    for index, spec in enumerate(fix_inputs(parsed.inputs())):
        parsed.network.get_input(index).shape = spec.shape
    unbounded = [str(spec) for spec in parsed.outputs() if any(isinstance(size, str) for size in spec.shape)]
    if unbounded:
        raise GraphError(
            f"{parsed.path}: expected outputs of a fixed size, found {', '.join(unbounded)}, as from suppressing "
            "overlaps in the graph; export it without that"
        )

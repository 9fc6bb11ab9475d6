"""From a bundle and a device to the two stages, ready to run."""

from __future__ import annotations

from sharpose.bundle import Bundle
from sharpose.engines.devices import parse_device
from sharpose.engines.onnxrt import OnnxRuntimeEngine
from sharpose.engines.tensorrt_load import TensorRtSettings, load_tensorrt_two_stage
from sharpose.engines.two_stage import HostTwoStage, TwoStage

__all__ = ["load_two_stage"]


def load_two_stage(
    bundle: Bundle, device: str = "cpu", *, threads: int | None = None, tensorrt: TensorRtSettings | None = None
) -> TwoStage:
    """The engines that run a bundle on a device.

    Args:
        bundle: An opened bundle.
        device: `cpu`, `cuda[:i]`, `tensorrt[:i]` or `ort-tensorrt[:i]`.
        threads: CPU threads inside an operator; the backend's own choice if None.
        tensorrt: How to build, find and run engines where the device is `tensorrt`.

    Raises:
        EngineError: the device is not there, or a graph can't be loaded on it.
    """
    where = parse_device(device)
    if where.kind == "tensorrt":
        return load_tensorrt_two_stage(bundle, where, tensorrt or TensorRtSettings())
    max_batch = bundle.manifest.max_batch
    coarse, fine = (
        OnnxRuntimeEngine(*bundle.graph(stage), max_batch, device=device, threads=threads)
        for stage in ("coarse", "fine")
    )
    return HostTwoStage(coarse, fine)

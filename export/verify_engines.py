"""Every engine that this machine can run a bundle on. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sharpose.bundle import Bundle
from sharpose.engines.base import Engine
from sharpose.engines.devices import Device
from sharpose.engines.gpu import probe_gpus
from sharpose.engines.onnxrt import OnnxRuntimeEngine
from sharpose.engines.tensorrt_flavour import find_flavour
from sharpose.errors import EngineError
from sharpose.manifest import Precision

__all__ = ["EnginePair", "available_engines", "onnx_engines"]

_GPU_PROVIDERS = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "ort-tensorrt"}


@dataclass(frozen=True)
class EnginePair:
    """The engines of both stages.

    Attributes:
        device: As the user writes it.
        precision: Of the graphs that they run.
        coarse: The coarse stage's engine.
        fine: The fine stage's.
    """

    device: str
    precision: Precision
    coarse: Engine
    fine: Engine

    def close(self) -> None:
        """Free both."""
        self.coarse.close()
        self.fine.close()


def available_engines(bundle: Bundle, say: Callable[[str], None] = lambda message: None) -> Iterator[EnginePair | str]:
    """The engines of every device that is here and every precision that the bundle holds, each opened when it is due.

    Instead of a device that is not usable comes one line that says why: onnxruntime-gpu lists providers whose
    libraries it then can't load. With a GPU and a TensorRT, its engines are taken from the bundle or the cache, or
    built.

    Args:
        bundle: The bundle.
        say: Told what is being built.
    """
    for device in ("cpu", *_gpu_devices()):
        for precision in bundle.precisions:
            try:
                if device == "tensorrt":
                    yield _tensorrt_engines(bundle, precision, say)
                else:
                    yield onnx_engines(bundle, device, precision)
            except EngineError as error:
                if device == "cpu":
                    raise
                yield f"{device}, {precision}: {error}"


def onnx_engines(bundle: Bundle, device: str, precision: Precision) -> EnginePair:
    """Both graphs in ONNX Runtime; raises `EngineError` where the device can't run them."""
    coarse, fine = (
        OnnxRuntimeEngine(*bundle.graph(stage, precision), bundle.manifest.max_batch, device=device)
        for stage in ("coarse", "fine")
    )
    return EnginePair(device, precision, coarse, fine)


def _gpu_devices() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        raise EngineError('verifying needs ONNX Runtime: pip install "sharpose[cpu]"') from None
    providers = onnxruntime.get_available_providers()
    found = [device for provider, device in _GPU_PROVIDERS.items() if provider in providers]
    try:
        probe_gpus()
        find_flavour()
    except EngineError:  # no GPU, or no TensorRT: nothing that should run here
        return found
    return [*found, "tensorrt"]


def _tensorrt_engines(bundle: Bundle, precision: Precision, say: Callable[[str], None]) -> EnginePair:
    from sharpose.engines.tensorrt_load import TensorRtSettings, load_tensorrt_engine

    settings, device = TensorRtSettings(precision=precision, say=say), Device("tensorrt")
    coarse, fine = (load_tensorrt_engine(bundle, stage, device, settings) for stage in ("coarse", "fine"))
    return EnginePair("tensorrt", precision, coarse, fine)

"""The doctor's look at engines: ONNX Runtime's providers, the GPU, TensorRT and the CUDA bindings."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

from sharpose.engines.devices import Device
from sharpose.errors import EngineError
from sharpose.runtime.doctor_finding import Finding
from sharpose.runtime.doctor_host import import_problem, installed

__all__ = ["check_bindings", "check_gpu", "check_onnxruntime", "check_tensorrt"]

_ON_ORT = frozenset({"cpu", "cuda", "ort-tensorrt"})
_ON_GPU = frozenset({"cuda", "tensorrt", "ort-tensorrt"})
_PROVIDERS = {
    "CPUExecutionProvider": ("cpu", 'pip install --force-reinstall "sharpose[cpu]"'),
    "CUDAExecutionProvider": ("cuda", 'pip uninstall onnxruntime onnxruntime-gpu, then pip install "sharpose[gpu]"'),
    "TensorrtExecutionProvider": (
        "ort-tensorrt",
        'pip uninstall onnxruntime onnxruntime-gpu, then pip install "sharpose[gpu]" and TensorRT\'s libraries',
    ),
}
_BINDINGS = {
    "cuda-python": ("cuda.bindings.driver", "pip install cuda-bindings"),
    "pycuda": ("pycuda.driver", 'pip install "sharpose[pycuda]" (it compiles, and wants the CUDA toolkit)'),
}
# An ONNX file of one Identity: the smallest session that a provider can prove itself with.
_IDENTITY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08"
    "080112040a02080142040a00100d"
)


def check_onnxruntime() -> Iterator[Finding]:
    """ONNX Runtime, and the providers that a session really gets, whatever the package lists."""
    packages = [name for name in ("onnxruntime", "onnxruntime-gpu") if installed(name) is not None]
    try:
        import onnxruntime as ort
    except ImportError as error:
        text = f"doesn't load ({' '.join(str(error).split())})" if packages else "not installed"
        yield Finding("ONNX Runtime", False, text, 'pip install "sharpose[cpu]", or "sharpose[gpu]"', _ON_ORT)
        return
    yield Finding(
        "ONNX Runtime", True, f"{ort.__version__}, {' and '.join(packages) or 'own build'}", needed_by=_ON_ORT
    )
    if len(packages) > 1:
        yield Finding(
            "ONNX Runtime packages",
            False,
            f"{' and '.join(packages)} overwrite each other's files",
            'pip uninstall onnxruntime onnxruntime-gpu, then pip install "sharpose[gpu]" (or [cpu])',
        )
    listed = ort.get_available_providers()
    for provider, (device, mend) in _PROVIDERS.items():
        name, needed = f"provider {device}", frozenset({device})
        if provider not in listed:
            yield Finding(name, False, f"this package has no {provider}", mend, needed)
        elif not _loads(provider):
            reason = f"{provider} is listed, but its libraries don't load"
            yield Finding(name, False, reason, "install the CUDA and cuDNN that onnxruntime-gpu was built for", needed)
        else:
            yield Finding(name, True, provider, needed_by=needed)


def _loads(provider: str) -> bool:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    # ONNX Runtime prints when it falls back to another provider; --json wants stdout for itself.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            session = ort.InferenceSession(_IDENTITY, options, providers=[provider])
        except Exception:  # ONNX Runtime's exceptions share no public base class
            return False
    return provider in session.get_providers()


def check_gpu(device: Device) -> Iterator[Finding]:
    """The GPUs that the driver shows, and whether the one asked for is among them."""
    from sharpose.engines.gpu import probe_gpus

    try:
        gpus = probe_gpus()
    except EngineError as error:
        yield Finding("GPU", False, *_split(error), needed_by=_ON_GPU)
        return
    for gpu in gpus:
        text = f"{gpu.name}, compute capability {gpu.compute_capability}, driver {gpu.driver}"
        yield Finding(f"GPU {gpu.index}", True, text)
    if device.index >= len(gpus):
        text = f"expected GPU {device.index}, the driver shows {len(gpus)}"
        yield Finding("GPU", False, text, f"use --device {device.kind}:0, or check CUDA_VISIBLE_DEVICES", _ON_GPU)


def check_tensorrt() -> Iterator[Finding]:
    """TensorRT's flavours whose libraries load."""
    from sharpose.engines.tensorrt_flavour import find_flavour, installed_flavours

    found, reasons = installed_flavours()
    for flavour in found:
        yield Finding("TensorRT", True, str(flavour), needed_by=frozenset({"tensorrt"}))
    if not found:
        try:
            find_flavour()
        except EngineError as error:
            mend = str(error).rpartition("). ")[2]
            yield Finding("TensorRT", False, "; ".join(reasons), mend, frozenset({"tensorrt"}))


def check_bindings() -> Iterator[Finding]:
    """Either of pycuda and cuda-python is enough."""
    from sharpose.engines.memory_select import installed_bindings

    there = installed_bindings()
    needed = frozenset({"tensorrt"})
    loaded, reasons = [], []
    for name in there:
        problem = import_problem(_BINDINGS[name][0])
        if problem is None:
            loaded.append(name)
        else:
            reasons.append(f"{name} {problem}")
    if loaded:
        versions = [f"{name} {_binding_version(name)}" for name in loaded]
        yield Finding("CUDA bindings", True, ", ".join(versions + reasons), needed_by=needed)
    else:
        mend = _BINDINGS["cuda-python"][1] if not there else "install NVIDIA's driver; the bindings load its libcuda"
        yield Finding(
            "CUDA bindings", False, "; ".join(reasons) or "neither cuda-python nor pycuda is installed", mend, needed
        )


def _binding_version(binding: str) -> str:
    names = {"cuda-python": ("cuda-bindings", "cuda-python"), "pycuda": ("pycuda",)}[binding]
    return next((found for name in names if (found := installed(name)) is not None), "of unknown version")


def _split(error: EngineError) -> tuple[str, str]:
    """What is wrong and what mends it: an engine's message says them in that order, with a colon between."""
    text, _, mend = str(error).partition(": ")
    return text, mend or "check nvidia-smi"

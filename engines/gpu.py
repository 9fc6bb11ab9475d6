"""The GPUs of this machine, asked of the driver itself: nothing needs to be installed for it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sharpose.engines import Untyped
from sharpose.errors import EngineError

DRIVER_LIBRARY = "libcuda.so.1"

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NAME_BYTES = 256
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU."""

    index: int  # as in `tensorrt:1`
    name: str  # as the driver calls it
    compute_capability: str  # `8.9`, say
    driver: str  # version of the kernel module where it can be read, and of the CUDA that the driver supports


def probe_gpus(load: Callable[[str], Untyped] = ctypes.CDLL) -> tuple[Gpu, ...]:
    """Every GPU that the driver shows; `load` opens its library, or raises `OSError` where it isn't there.

    Raises:
        EngineError: there is no driver, the driver can't start, or it shows no GPU.
    """
    try:
        driver = load(DRIVER_LIBRARY)
    except OSError:
        raise EngineError(
            f"no GPU driver ({DRIVER_LIBRARY} can't be loaded): install NVIDIA's driver, start the container with its "
            "GPUs (--gpus all), or use --device cpu"
        ) from None
    code = driver.cuInit(0)
    if code == _NO_DEVICE:
        raise EngineError("a GPU driver is installed, but it shows no GPU (check nvidia-smi and CUDA_VISIBLE_DEVICES)")
    if code != 0:
        raise EngineError(
            f"a GPU driver is installed, but it can't start (cuInit gave CUDA error {code}): check nvidia-smi; "
            "restart the machine after an update of the driver"
        )
    version = ctypes.c_int()
    _check("cuDriverGetVersion", driver.cuDriverGetVersion(ctypes.byref(version)))
    count = ctypes.c_int()
    _check("cuDeviceGetCount", driver.cuDeviceGetCount(ctypes.byref(count)))
    text = _driver_text(version.value)
    return tuple(_describe(driver, index, text) for index in range(count.value))


def probe_gpu(index: int = 0, load: Callable[[str], Untyped] = ctypes.CDLL) -> Gpu:
    """The GPU with a number; `EngineError` as `probe_gpus`, or if there are not so many."""
    gpus = probe_gpus(load)
    if index >= len(gpus):
        names = ", ".join(f"{gpu.index} {gpu.name}" for gpu in gpus)
        raise EngineError(f"GPU {index}: expected one of this machine's {len(gpus)} ({names})")
    return gpus[index]


def _describe(driver: Untyped, index: int, driver_text: str) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _check("cuDeviceGet", driver.cuDeviceGet(ctypes.byref(device), index))
    _check("cuDeviceGetName", driver.cuDeviceGetName(name, _NAME_BYTES, device))
    for value, attribute in ((major, _MAJOR), (minor, _MINOR)):
        _check("cuDeviceGetAttribute", driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
    return Gpu(index, name.value.decode(errors="replace"), f"{major.value}.{minor.value}", driver_text)


def _check(function: str, code: int) -> None:
    if code != 0:
        raise EngineError(f"the GPU driver's {function} failed with CUDA error {code}; check nvidia-smi")


def _driver_text(cuda_version: int) -> str:
    cuda = f"CUDA {cuda_version // 1000}.{cuda_version % 1000 // 10}"
    try:
        words = _KERNEL_MODULE.read_text("utf-8").split()
    except OSError:  # not on every Jetson, nor under WSL
        return cuda
    release = next((word for word in words if word[0].isdigit() and "." in word), None)
    return f"{release} ({cuda})" if release else cuda

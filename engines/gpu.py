"""The GPUs of this machine, asked of the driver itself: nothing needs to be installed for it."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sharpose.engines import Untyped
from sharpose.errors import EngineError

DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NEVER_HERE = sys.platform == "darwin"

_MAJOR, _MINOR, _MULTIPROCESSORS, _INTEGRATED = 75, 76, 16, 18  # CU_DEVICE_ATTRIBUTE_*
_NAME_BYTES = 256
_CANT_START = {  # by CUDA's error: what it means: what to do
    34: "a stub of the CUDA toolkit stands in for the GPU driver: take its folder (stubs) out of LD_LIBRARY_PATH",
    46: "the GPU is busy or unavailable: another process may use it exclusively (nvidia-smi -q -d COMPUTE)",
    100: "a GPU driver is installed, but it shows no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES, and start a "
    "container with its GPUs (--gpus all)",
    101: "a GPU driver is installed, but it shows no GPU of that number: check CUDA_VISIBLE_DEVICES",
    214: "the GPU's memory has an error that can't be corrected: restart the machine; see nvidia-smi -q",
    304: "the operating system refuses the GPU driver: check the permissions of /dev/nvidia*, and that a container has "
    "its GPUs (--gpus all)",
    802: "the GPUs are not ready yet: on machines with NVSwitch, start NVIDIA's Fabric Manager of the driver's version "
    "(systemctl start nvidia-fabricmanager); otherwise try again in a minute",
    803: "the driver's library and its kernel module have different versions: restart the machine after an update of "
    "the driver; in a container, remove its own libcuda.so.1",
    804: "this container brings a newer CUDA (cuda-compat) than this GPU may use: take /usr/local/cuda/compat out of "
    "LD_LIBRARY_PATH, update the machine's driver, or use a container for the driver's CUDA",
    805: "the CUDA MPS server can't be reached: restart it, or unset CUDA_MPS_PIPE_DIRECTORY",
    807: "the CUDA MPS server is not ready: try again in a minute, or restart it",
    999: "the GPU driver can't start (unknown error): reload its kernel module (sudo modprobe -r nvidia_uvm; sudo "
    "modprobe nvidia_uvm), as after standby, or restart the machine",
}
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU."""

    index: int  # as in `tensorrt:1`
    name: str  # as the driver calls it
    compute_capability: str  # `8.9`, say
    driver: str  # version of the kernel module where it can be read, and of the CUDA that the driver supports
    multiprocessors: int  # how many: all sizes of a Jetson Orin have one name
    integrated: bool  # shares the host's memory, as Jetsons' GPUs do

    @property
    def file_name(self) -> str:
        """Its model as a part of file names, `Orin-8.7-8` for example."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.name}-{self.compute_capability}-{self.multiprocessors}")

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability})"


def probe_gpus(load: Callable[[str], Untyped] = ctypes.CDLL) -> tuple[Gpu, ...]:
    """Every GPU that the driver shows; `load` opens its library, or raises `OSError` where it isn't there.

    Raises:
        EngineError: there is no driver, the driver can't start, or it shows no GPU.
    """
    if _NEVER_HERE:
        raise EngineError("no NVIDIA GPU (macOS has no driver for them): use the device cpu or coreml (--device cpu)")
    try:
        driver = load(DRIVER_LIBRARY)
    except OSError:
        raise EngineError(
            f"no GPU driver ({DRIVER_LIBRARY} can't be loaded): install NVIDIA's driver, start the container with its "
            "GPUs (--gpus all), or use the device cpu (--device cpu)"
        ) from None
    code = driver.cuInit(0)
    if code != 0:
        text = _CANT_START.get(
            code,
            "a GPU driver is installed, but it can't start: check nvidia-smi, restart after an update of the driver",
        )
        what, _, mend = text.partition(": ")
        raise EngineError(f"{what} (cuInit gave CUDA error {code}): {mend}")
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
    device = ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _check("cuDeviceGet", driver.cuDeviceGet(ctypes.byref(device), index))
    _check("cuDeviceGetName", driver.cuDeviceGetName(name, _NAME_BYTES, device))

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        _check("cuDeviceGetAttribute", driver.cuDeviceGetAttribute(ctypes.byref(value), number, device))
        return value.value

    return Gpu(
        index,
        name.value.decode(errors="replace"),
        f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
        driver_text,
        attribute(_MULTIPROCESSORS),
        bool(attribute(_INTEGRATED)),
    )


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

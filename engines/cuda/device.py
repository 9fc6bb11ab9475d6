"""A GPU's memory, streams, events and graphs behind one interface, and the choice of the CUDA binding behind it."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sharpose.engines import Untyped
from sharpose.errors import EngineError, how_to_install

OUT_OF_MEMORY = "; the GPU has no memory left: use a smaller --max-batch"
"""What to do about it, for the bindings' messages."""


class _Resource(Protocol):
    def free(self) -> None:
        """Free it on the device. May be called twice."""


class CudaStream(_Resource, Protocol):
    """A queue of work on the device, done in order."""

    handle: int  # the `cudaStream_t` as a number

    def synchronize(self) -> None:
        """Wait until all its work is done."""


class CudaEvent(_Resource, Protocol):
    """A mark in a stream."""

    def record(self, stream: CudaStream) -> None:
        """Put the mark behind the stream's work so far."""

    def synchronize(self) -> None:
        """Wait until the work before the mark is done."""


class CudaBuffer(_Resource, Protocol):
    """Bytes on the device."""

    address: int  # where they begin, aligned to 256 bytes
    nbytes: int


class CudaGraph(_Resource, Protocol):
    """Work that was captured once and is launched as a whole."""

    def launch(self, stream: CudaStream) -> None:
        """Put the work into a stream."""


class CudaDevice(Protocol):
    """One GPU, used through one CUDA binding."""

    name: str  # the binding, as `--cuda-bindings` has it
    has_graphs: bool  # whether `capture` works
    shares_memory: bool  # the GPU is integrated: it reads and writes pinned arrays as quickly as its own buffers

    def active(self) -> AbstractContextManager[None]:
        """Make the device's context the calling thread's; every other call but `close` must be inside."""

    def buffer(self, nbytes: int) -> CudaBuffer:
        """Allocate on the device; `nbytes` is at least 1."""

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A zeroed array in page-locked host memory, which is freed when the last view of it is gone."""

    def device_address(self, array: npt.NDArray[np.generic]) -> int:
        """Where the device sees the start of a pinned array, if it shares the host's memory."""

    def stream(self) -> CudaStream:
        """A new stream that doesn't wait for the default one."""

    def event(self) -> CudaEvent:
        """A new event without timing."""

    def upload(self, target: CudaBuffer, source: npt.NDArray[np.generic], stream: CudaStream) -> None:
        """Copy a pinned array to the start of a buffer, when the stream gets there."""

    def download(self, target: npt.NDArray[np.generic], source: CudaBuffer, stream: CudaStream) -> None:
        """Copy the start of a buffer into a pinned array, when the stream gets there."""

    def copy(self, target: CudaBuffer, source: CudaBuffer, nbytes: int, stream: CudaStream) -> None:
        """Copy the first bytes of a buffer to another, when the stream gets there."""

    def capture(self, stream: CudaStream, work: Callable[[], None]) -> CudaGraph:
        """Record what `work` puts into the stream, without doing it; `EngineError` where the binding can't."""

    def close(self) -> None:
        """Let go of the device's context. May be called twice."""


def pinned_array(
    address: int, shape: tuple[int, ...], dtype: npt.DTypeLike, free: Callable[[], None]
) -> npt.NDArray[Any]:
    """A zeroed array on page-locked memory; `free` is called when its last view is gone, not as the process ends."""
    count = int(np.prod(shape))
    owner = (ctypes.c_uint8 * max(count * np.dtype(dtype).itemsize, 1)).from_address(address)
    weakref.finalize(owner, free).atexit = False
    ctypes.memset(address, 0, len(owner))
    array: npt.NDArray[Any] = np.frombuffer(memoryview(owner), dtype, count)
    return array.reshape(shape)


def check_copy(host: npt.NDArray[np.generic], buffer: CudaBuffer) -> int:
    """The bytes of a copy between a host array and a buffer; raises `ValueError` if it would run over."""
    if not host.flags.c_contiguous:
        raise ValueError("a copy to or from a device: expected a C-contiguous array")
    if host.nbytes > buffer.nbytes:
        raise ValueError(f"a copy to or from a device: expected at most {buffer.nbytes} bytes, got {host.nbytes}")
    return host.nbytes


# The preferred binding first: it has CUDA graphs. Modules of the driver's functions, newest first.
_MODULES = {"cuda-python": ("cuda.bindings.driver", "cuda.cuda"), "pycuda": ("pycuda.driver",)}
_INSTALL = {
    "cuda-python": 'pip install cuda-bindings, or "cuda-bindings<13" for drivers before 580',
    "pycuda": f"{how_to_install('pycuda')}, which compiles it and needs the CUDA toolkit",
}
CUDA_BINDINGS = tuple(_MODULES)


def installed_bindings() -> tuple[str, ...]:
    """The bindings that are installed, without importing them: pycuda can't be where there is no driver."""

    def is_installed(module: str) -> bool:
        try:
            return find_spec(module) is not None
        except ModuleNotFoundError:  # its package isn't there
            return False

    return tuple(name for name in CUDA_BINDINGS if any(map(is_installed, _MODULES[name])))


def import_binding(name: str) -> Untyped:
    """A binding's module of the driver's functions; raises `ImportError` where it isn't installed or doesn't load."""
    for module in _MODULES[name][:-1]:
        try:
            return import_module(module)
        except ModuleNotFoundError:
            continue
    return import_module(_MODULES[name][-1])


def open_cuda_device(index: int = 0, name: str | None = None) -> CudaDevice:
    """A GPU through a CUDA binding, by default the first that is installed.

    Raises:
        EngineError: the binding isn't there or can't use the GPU.
    """
    if name is not None and name not in CUDA_BINDINGS:
        raise EngineError(f"CUDA bindings: expected {' or '.join(CUDA_BINDINGS)}, got {name!r}")
    installed = installed_bindings()
    wanted = name or next(iter(installed), None)
    if wanted is None:
        raise EngineError(f"CUDA bindings: neither cuda-python nor pycuda is installed; {_INSTALL['cuda-python']}")
    if wanted not in installed:
        raise EngineError(f"CUDA bindings: {wanted} is not installed; {_INSTALL[wanted]}")
    try:
        if wanted == "pycuda":
            from sharpose.engines.cuda.pycuda import PycudaDevice

            return PycudaDevice(index)
        from sharpose.engines.cuda.cuda_python import CudaPythonDevice

        return CudaPythonDevice(index)
    except ImportError as error:
        raise EngineError(f"CUDA bindings: {wanted} is installed, but doesn't load ({error})") from error

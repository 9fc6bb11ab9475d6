"""GPU memory, streams and events behind one small interface, and the choice of the CUDA binding behind it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sharpose.errors import EngineError

__all__ = [
    "CUDA_BINDINGS",
    "OUT_OF_MEMORY",
    "DeviceBuffer",
    "DeviceGraph",
    "Event",
    "Memory",
    "Stream",
    "check_copy",
    "installed_bindings",
    "open_memory",
]

OUT_OF_MEMORY = "; the GPU has no memory left: use a smaller --max-batch"
"""What to do about it, for the bindings' messages."""


class Stream(Protocol):
    """A queue of work on the device, done in order.

    Attributes:
        handle: The `cudaStream_t` as a number.
    """

    @property
    def handle(self) -> int:
        """The `cudaStream_t` as a number."""
        ...

    def synchronize(self) -> None:
        """Wait until all its work is done."""
        ...

    def free(self) -> None:
        """Destroy it. May be called twice."""
        ...


class Event(Protocol):
    """A mark in a stream."""

    def record(self, stream: Stream) -> None:
        """Put the mark behind the stream's work so far."""
        ...

    def synchronize(self) -> None:
        """Wait until the work before the mark is done."""
        ...

    def free(self) -> None:
        """Destroy it. May be called twice."""
        ...


class DeviceBuffer(Protocol):
    """Bytes on the device."""

    @property
    def address(self) -> int:
        """Where they begin, aligned to 256 bytes."""
        ...

    @property
    def nbytes(self) -> int:
        """How many."""
        ...

    def free(self) -> None:
        """Give them back. May be called twice."""
        ...


class DeviceGraph(Protocol):
    """Work that was captured once and is launched as a whole."""

    def launch(self, stream: Stream) -> None:
        """Put the work into a stream."""
        ...

    def free(self) -> None:
        """Destroy it. May be called twice."""
        ...


class Memory(Protocol):
    """One device of one binding.

    Attributes:
        name: The binding, as `--cuda-bindings` has it.
        has_graphs: Whether `capture` works.
    """

    name: str
    has_graphs: bool

    def active(self) -> AbstractContextManager[None]:
        """Make the device's context the calling thread's; every other call wants to be inside."""
        ...

    def device_buffer(self, nbytes: int) -> DeviceBuffer:
        """Allocate on the device; `nbytes` is at least 1."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A zeroed array in page-locked host memory, which is given back when the last view of it is gone."""
        ...

    def stream(self) -> Stream:
        """A new stream that doesn't wait for the default one."""
        ...

    def event(self) -> Event:
        """A new event without timing."""
        ...

    def upload(self, target: DeviceBuffer, source: npt.NDArray[np.generic], stream: Stream) -> None:
        """Copy a pinned array to the start of a buffer, when the stream gets there."""
        ...

    def download(self, target: npt.NDArray[np.generic], source: DeviceBuffer, stream: Stream) -> None:
        """Copy the start of a buffer into a pinned array, when the stream gets there."""
        ...

    def copy(self, target: DeviceBuffer, source: DeviceBuffer, nbytes: int, stream: Stream) -> None:
        """Copy the first bytes of a buffer to another, when the stream gets there."""
        ...

    def capture(self, stream: Stream, work: Callable[[], None]) -> DeviceGraph:
        """Record what `work` puts into the stream, without doing it; `EngineError` where the binding can't."""
        ...

    def close(self) -> None:
        """Let go of the device's context. May be called twice."""
        ...


def check_copy(host: npt.NDArray[np.generic], buffer: DeviceBuffer) -> int:
    """The bytes of a copy between a host array and a buffer; raises `ValueError` if it would run over."""
    if not host.flags.c_contiguous:
        raise ValueError("a copy to or from a device wants a C-contiguous array")
    if host.nbytes > buffer.nbytes:
        raise ValueError(f"a copy of {host.nbytes} bytes, but the device buffer has {buffer.nbytes}")
    return host.nbytes


CUDA_BINDINGS = ("cuda-python", "pycuda")
"""The preferred one first: it has CUDA graphs."""


def _cuda_python(index: int) -> Memory:
    from sharpose.engines.cuda.cuda_python import CudaPythonMemory

    return CudaPythonMemory(index)


def _pycuda(index: int) -> Memory:
    from sharpose.engines.cuda.pycuda import PycudaMemory

    return PycudaMemory(index)


_OPEN: dict[str, Callable[[int], Memory]] = {"cuda-python": _cuda_python, "pycuda": _pycuda}
_MODULES = {"cuda-python": ("cuda.bindings.driver", "cuda.cuda"), "pycuda": ("pycuda.driver",)}
_INSTALL = {
    "cuda-python": "pip install cuda-bindings",
    "pycuda": 'pip install "sharpose[pycuda]", which compiles it and wants the CUDA toolkit',
}


def installed_bindings() -> tuple[str, ...]:
    """The bindings that are installed, without importing them: pycuda can't be where there is no driver."""
    return tuple(name for name in CUDA_BINDINGS if any(_is_there(module) for module in _MODULES[name]))


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package isn't there
        return False


def open_memory(index: int = 0, name: str | None = None) -> Memory:
    """A GPU's memory.

    Args:
        index: The GPU.
        name: `cuda-python` or `pycuda`; the first that is installed if None.

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
        return _OPEN[wanted](index)
    except ImportError as error:
        raise EngineError(f"CUDA bindings: {wanted} is installed, but doesn't load ({error})") from error

"""GPU memory, streams and events behind one small interface, so that the executor knows no binding.

Nothing here blocks the host but `Event.synchronize` and `Stream.synchronize`. All failures are `EngineError`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["OUT_OF_MEMORY", "DeviceBuffer", "DeviceGraph", "Event", "Memory", "Stream", "check_copy"]

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

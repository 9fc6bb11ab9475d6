"""A CUDA device on host memory, to test without a GPU what runs on one.

As on a real device, work put into a stream is done later: here when somebody waits for it, so that a result that is
read too early is seen to be wrong. What is allocated is counted, and what is done is written down.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.engines.cuda.device import CudaBuffer, CudaEvent, CudaGraph, CudaStream, check_copy
from sharpose.errors import EngineError

__all__ = ["HostBuffer", "HostCuda", "HostStream"]

Work = Callable[[], None]

MAPPED_AT = 1 << 56
"""How far from the host's the device's addresses of pinned arrays are."""


class HostStream:
    """A queue of work that is done when it is waited for; see `sharpose.engines.cuda.device.CudaStream`.

    Attributes:
        pending: Labels of the work that waits.
    """

    def __init__(self, cuda: HostCuda, handle: int) -> None:
        self._cuda = cuda
        self.handle = handle
        self._queue: list[tuple[str, Work]] = []
        self.done = 0

    @property
    def pending(self) -> list[str]:
        """Labels of the work that waits."""
        return [label for label, _ in self._queue]

    @property
    def put(self) -> int:
        """How many pieces of work were ever put in."""
        return self.done + len(self._queue)

    def enqueue(self, label: str, work: Work) -> None:
        """Put work in, or into the graph that is being captured."""
        self._cuda.enqueue(self, label, work)

    def append(self, label: str, work: Work) -> None:
        """Put work in, capture or not."""
        self._queue.append((label, work))

    def run_until(self, count: int) -> None:
        """Do the work up to piece number `count`."""
        while self.done < count:
            label, work = self._queue.pop(0)
            self.done += 1
            self._cuda.log.append(f"run {label}")
            work()

    def synchronize(self) -> None:
        """Do all the work."""
        self._cuda.check_active()
        self._cuda.log.append("synchronize stream")
        self.run_until(self.put)

    def free(self) -> None:
        """Forget it and its work."""
        self._queue.clear()
        self._cuda.release(self)


class _HostEvent:
    def __init__(self, cuda: HostCuda) -> None:
        self._cuda = cuda
        self._mark: tuple[HostStream, int] | None = None

    def record(self, stream: CudaStream) -> None:
        assert isinstance(stream, HostStream)
        self._cuda.check_active()
        self._mark = (stream, stream.put)
        self._cuda.log.append("record event")

    def synchronize(self) -> None:
        self._cuda.check_active()
        self._cuda.log.append("wait for event")
        if self._mark is not None:
            stream, count = self._mark
            stream.run_until(count)

    def free(self) -> None:
        self._cuda.release(self)


class HostBuffer:
    """Bytes that play a device's; filled with 0xAB at first, as nobody promises zeros."""

    def __init__(self, cuda: HostCuda, nbytes: int) -> None:
        self._cuda = cuda
        self.nbytes = nbytes
        self.data = np.full(nbytes, 0xAB, dtype=np.uint8)
        self.address = int(self.data.ctypes.data)

    def view(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The first bytes as an array."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.data[:size].view(dtype).reshape(shape)

    def free(self) -> None:
        """Forget the bytes."""
        self._cuda.release(self)


class _HostGraph:
    def __init__(self, cuda: HostCuda, steps: list[tuple[str, Work]]) -> None:
        self._cuda = cuda
        self._steps = steps

    def launch(self, stream: CudaStream) -> None:
        assert isinstance(stream, HostStream)
        self._cuda.check_active()
        self._cuda.log.append("launch graph")
        for label, work in self._steps:
            stream.append(label, work)

    def free(self) -> None:
        self._steps = []
        self._cuda.release(self)


class HostCuda:
    """See `sharpose.engines.cuda.device.CudaDevice`.

    Args:
        has_graphs: Whether `capture` works; pycuda's doesn't.
        fail_after: Allocations that succeed before one raises `EngineError`; never if None.
        shares_memory: Whether it plays an integrated GPU, which sees pinned arrays.
        fault: What goes wrong in a capture: `error` as it ends, or what is lost of it, by a part of its label.

    Attributes:
        log: What was put into streams and what was done, in order.
        live: Kinds of things allocated and not freed, counted.
        allocations: How many things were ever allocated.
        freed_outside: How many pinned arrays were freed where the context was not active.
        streams: Every stream by its handle, for contexts that only get that.
    """

    def __init__(
        self,
        *,
        has_graphs: bool = True,
        fail_after: int | None = None,
        shares_memory: bool = False,
        fault: str | None = None,
    ) -> None:
        self.name = "host"
        self.has_graphs, self.shares_memory, self.fault = has_graphs, shares_memory, fault
        self.freed_outside = 0
        self.streams: dict[int, HostStream] = {}
        self.log: list[str] = []
        self.live: Counter[str] = Counter()
        self.allocations = 0
        self.buffers: dict[int, HostBuffer] = {}
        self._mapped: dict[int, int] = {}
        self._views: dict[int, weakref.ref[npt.NDArray[Any]]] = {}
        self.closed = False
        self._fail_after = fail_after
        self._objects: set[int] = set()
        self._depth = 0
        self._capturing: list[tuple[str, Work]] | None = None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Count how deep we are inside."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def buffer(self, nbytes: int) -> CudaBuffer:
        """See `CudaDevice.buffer`."""
        self._allocate("HostBuffer")
        buffer = HostBuffer(self, nbytes)
        self._keep(buffer)
        self.buffers[buffer.address] = buffer
        return buffer

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """See `CudaDevice.pinned`."""
        self._allocate("pinned")
        array = np.zeros(shape, dtype)
        address = int(array.ctypes.data)
        weakref.finalize(array, self._free_pinned, address)
        if self.shares_memory:
            self._mapped[address] = address + MAPPED_AT
            self._views[address + MAPPED_AT] = weakref.ref(array)
        return array

    def _free_pinned(self, address: int) -> None:
        self.live.subtract(["pinned"])
        self.freed_outside += self._depth == 0
        self._views.pop(self._mapped.pop(address, 0), None)

    def device_address(self, array: npt.NDArray[np.generic]) -> int:
        """See `CudaDevice.device_address`; as on a real device, it need not be the host's."""
        self.check_active()
        return self._mapped[int(array.ctypes.data)]

    def at(self, address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """What the device sees at an address: a buffer, or a pinned array where it shares the host's memory."""
        if address in self.buffers:
            return self.buffers[address].view(shape, dtype)
        array = self._views[address]()
        assert array is not None, "the pinned array was freed"
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return array.reshape(-1).view(np.uint8)[:size].view(dtype).reshape(shape)

    def stream(self) -> CudaStream:
        """See `CudaDevice.stream`."""
        self._allocate("HostStream")
        stream = HostStream(self, self.allocations)
        self._keep(stream)
        self.streams[stream.handle] = stream
        return stream

    def event(self) -> CudaEvent:
        """See `CudaDevice.event`."""
        self._allocate("_HostEvent")
        event = _HostEvent(self)
        self._keep(event)
        return event

    def upload(self, target: CudaBuffer, source: npt.NDArray[np.generic], stream: CudaStream) -> None:
        """See `CudaDevice.upload`."""
        assert isinstance(target, HostBuffer)
        assert isinstance(stream, HostStream)
        nbytes = check_copy(source, target)
        stream.enqueue(f"upload {nbytes}", lambda: np.copyto(target.view(source.shape, source.dtype), source))

    def download(self, target: npt.NDArray[np.generic], source: CudaBuffer, stream: CudaStream) -> None:
        """See `CudaDevice.download`."""
        assert isinstance(source, HostBuffer)
        assert isinstance(stream, HostStream)
        nbytes = check_copy(target, source)
        stream.enqueue(f"download {nbytes}", lambda: np.copyto(target, source.view(target.shape, target.dtype)))

    def copy(self, target: CudaBuffer, source: CudaBuffer, nbytes: int, stream: CudaStream) -> None:
        """See `CudaDevice.copy`."""
        assert isinstance(target, HostBuffer)
        assert isinstance(source, HostBuffer)
        assert isinstance(stream, HostStream)
        stream.enqueue(f"copy {nbytes}", lambda: np.copyto(target.data[:nbytes], source.data[:nbytes]))

    def capture(self, stream: CudaStream, work: Callable[[], None]) -> CudaGraph:
        """See `CudaDevice.capture`."""
        if not self.has_graphs:
            raise EngineError("host: this one has no graphs")
        self._allocate("_HostGraph")
        self.log.append("capture")
        steps: list[tuple[str, Work]] = []
        self._capturing = steps
        try:
            work()
        except BaseException:
            self.live["_HostGraph"] -= 1
            raise
        finally:
            self._capturing = None
        if self.fault == "error":
            self.live["_HostGraph"] -= 1
            raise EngineError("CUDA cuStreamEndCapture failed: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
        if self.fault is not None:
            steps = [step for step in steps if self.fault not in step[0]]
        graph = _HostGraph(self, steps)
        self._keep(graph)
        return graph

    def close(self) -> None:
        """See `CudaDevice.close`."""
        self.closed = True

    def enqueue(self, stream: HostStream, label: str, work: Work) -> None:
        """Put work into a stream, or into the graph that is being captured."""
        self.check_active()
        if self._capturing is not None:
            self._capturing.append((label, work))
            return
        self.log.append(label)
        stream.append(label, work)

    @property
    def is_capturing(self) -> bool:
        """Whether work goes into a graph just now."""
        return self._capturing is not None

    def check_active(self) -> None:
        """Raise `EngineError` outside `active`, where a real device would have no context."""
        if self._depth == 0:
            raise EngineError("host: used outside active()")

    def release(self, thing: object) -> None:
        """Count one thing less, once."""
        if id(thing) in self._objects:
            self._objects.discard(id(thing))
            self.live[type(thing).__name__] -= 1
            if isinstance(thing, HostBuffer):
                del self.buffers[thing.address]

    def _allocate(self, kind: str) -> None:
        self.check_active()
        if self._fail_after is not None and self.allocations >= self._fail_after:
            raise EngineError(f"host: out of memory at allocation {self.allocations}")
        self.allocations += 1
        self.live[kind] += 1

    def _keep(self, thing: object) -> None:
        self._objects.add(id(thing))

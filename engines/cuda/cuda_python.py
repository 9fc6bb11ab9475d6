"""The memory interface over cuda-python (`cuda-bindings`): wheels everywhere, CUDA graphs included."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.engines.base import Untyped
from sharpose.engines.cuda.memory import OUT_OF_MEMORY, DeviceBuffer, DeviceGraph, Event, Stream, check_copy
from sharpose.errors import EngineError

__all__ = ["CudaPythonMemory", "load_cuda_driver"]


def load_cuda_driver() -> Untyped:
    """cuda-python's module of the driver's functions; `ImportError` where it isn't installed."""
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ModuleNotFoundError:
        return importlib.import_module("cuda.cuda")  # before 12.6


class _Driver:
    """The driver's functions with their status checked. The module has no types, so neither have handles."""

    def __init__(self, module: Untyped) -> None:
        self.module = module

    def call(self, name: str, *arguments: Untyped) -> Untyped:
        """Call a function; returns what it gives besides the status, or None."""
        status, *values = getattr(self.module, name)(*arguments)
        if int(status) != 0:
            raise EngineError(f"CUDA {name} failed: {getattr(status, 'name', status)}{_hint(int(status))}")
        return values[0] if values else None


def _hint(status: int) -> str:
    return OUT_OF_MEMORY if status == 2 else ""


class _Handle:
    """Something of the driver's with a function that destroys it."""

    def __init__(self, driver: _Driver, handle: Untyped, destroy: str) -> None:
        self.driver = driver
        self.raw = handle
        self._destroy = destroy

    @property
    def handle(self) -> int:
        return int(self.raw)

    def free(self) -> None:
        raw, self.raw = self.raw, None
        if raw is not None:
            self.driver.call(self._destroy, raw)


class _Stream(_Handle):
    def synchronize(self) -> None:
        self.driver.call("cuStreamSynchronize", self.raw)


class _Event(_Handle):
    def record(self, stream: Stream) -> None:
        self.driver.call("cuEventRecord", self.raw, stream.handle)

    def synchronize(self) -> None:
        self.driver.call("cuEventSynchronize", self.raw)


class _Graph(_Handle):
    def launch(self, stream: Stream) -> None:
        self.driver.call("cuGraphLaunch", self.raw, stream.handle)


class _Buffer(_Handle):
    def __init__(self, driver: _Driver, handle: Untyped, nbytes: int) -> None:
        super().__init__(driver, handle, "cuMemFree")
        self._nbytes = nbytes

    @property
    def address(self) -> int:
        return self.handle

    @property
    def nbytes(self) -> int:
        return self._nbytes


class _PrimaryContext:
    """The device's primary context, the one that TensorRT uses too."""

    def __init__(self, driver: _Driver, index: int) -> None:
        self._driver = driver
        driver.call("cuInit", 0)
        self._device = driver.call("cuDeviceGet", index)
        self._context = driver.call("cuDevicePrimaryCtxRetain", self._device)
        # Pinned arrays outlive the executor, and need the context to be freed in: they keep this object.
        self._release = weakref.finalize(self, driver.call, "cuDevicePrimaryCtxRelease", self._device)
        self._release.atexit = False

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self._driver.call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._driver.call("cuCtxPopCurrent")


class CudaPythonMemory:
    """See `sharpose.engines.cuda.memory.Memory`.

    Args:
        index: The GPU.
        module: cuda-python's module of the driver's functions; imported if None.

    Raises:
        EngineError: the GPU can't be used.
    """

    def __init__(self, index: int = 0, module: Untyped = None) -> None:
        self.name = "cuda-python"
        self.has_graphs = True
        self._driver = _Driver(load_cuda_driver() if module is None else module)
        self._context: _PrimaryContext | None = _PrimaryContext(self._driver, index)

    def active(self) -> contextlib.AbstractContextManager[None]:
        """See `Memory.active`."""
        return self._primary().active()

    def device_buffer(self, nbytes: int) -> DeviceBuffer:
        """See `Memory.device_buffer`."""
        return _Buffer(self._driver, self._driver.call("cuMemAlloc", nbytes), nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """See `Memory.pinned`."""
        nbytes = max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1)
        address = int(self._driver.call("cuMemHostAlloc", nbytes, 0))
        owner = (ctypes.c_uint8 * nbytes).from_address(address)
        finalizer = weakref.finalize(owner, _free_pinned, self._driver, self._primary(), address)
        finalizer.atexit = False  # the process's end gives it back
        ctypes.memset(address, 0, nbytes)
        array: npt.NDArray[Any] = np.frombuffer(memoryview(owner), dtype, int(np.prod(shape)))
        return array.reshape(shape)

    def stream(self) -> Stream:
        """See `Memory.stream`."""
        flag = self._driver.module.CUstream_flags.CU_STREAM_NON_BLOCKING
        return _Stream(self._driver, self._driver.call("cuStreamCreate", int(flag)), "cuStreamDestroy")

    def event(self) -> Event:
        """See `Memory.event`."""
        flag = self._driver.module.CUevent_flags.CU_EVENT_DISABLE_TIMING
        return _Event(self._driver, self._driver.call("cuEventCreate", int(flag)), "cuEventDestroy")

    def upload(self, target: DeviceBuffer, source: npt.NDArray[np.generic], stream: Stream) -> None:
        """See `Memory.upload`."""
        nbytes = check_copy(source, target)
        self._driver.call("cuMemcpyHtoDAsync", target.address, source.ctypes.data, nbytes, stream.handle)

    def download(self, target: npt.NDArray[np.generic], source: DeviceBuffer, stream: Stream) -> None:
        """See `Memory.download`."""
        nbytes = check_copy(target, source)
        self._driver.call("cuMemcpyDtoHAsync", target.ctypes.data, source.address, nbytes, stream.handle)

    def copy(self, target: DeviceBuffer, source: DeviceBuffer, nbytes: int, stream: Stream) -> None:
        """See `Memory.copy`."""
        self._driver.call("cuMemcpyDtoDAsync", target.address, source.address, nbytes, stream.handle)

    def capture(self, stream: Stream, work: Callable[[], None]) -> DeviceGraph:
        """See `Memory.capture`. Only this thread's calls are watched: other threads may allocate meanwhile."""
        mode = self._driver.module.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._driver.call("cuStreamBeginCapture", stream.handle, mode)
        try:
            work()
        except BaseException:
            with contextlib.suppress(EngineError):  # the failure inside is the one to tell of
                self._driver.call("cuGraphDestroy", self._driver.call("cuStreamEndCapture", stream.handle))
            raise
        graph = self._driver.call("cuStreamEndCapture", stream.handle)
        try:
            executable = self._driver.call("cuGraphInstantiate", graph, 0)
        finally:
            self._driver.call("cuGraphDestroy", graph)
        return _Graph(self._driver, executable, "cuGraphExecDestroy")

    def close(self) -> None:
        """See `Memory.close`. The context itself goes when the last pinned array is gone, too."""
        self._context = None

    def _primary(self) -> _PrimaryContext:
        if self._context is None:
            raise EngineError("this GPU memory was closed")
        return self._context


def _free_pinned(driver: _Driver, context: _PrimaryContext, address: int) -> None:
    with contextlib.suppress(EngineError), context.active():  # nothing can be done about it in a finalizer
        driver.call("cuMemFreeHost", address)

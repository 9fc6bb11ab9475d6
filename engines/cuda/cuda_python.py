"""A GPU through cuda-python (`cuda-bindings`): wheels everywhere, CUDA graphs included."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.engines import Untyped
from sharpose.engines.cuda.device import (
    OUT_OF_MEMORY,
    CudaBuffer,
    CudaEvent,
    CudaGraph,
    CudaStream,
    check_copy,
    import_binding,
    pinned_array,
)
from sharpose.errors import EngineError

_CUDA_ERROR_OUT_OF_MEMORY = 2
_DEVICEMAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP


class _Driver:
    """The driver's functions with their status checked. The module has no types, so neither have handles."""

    def __init__(self) -> None:
        self.module = import_binding("cuda-python")

    def call(self, name: str, *arguments: Untyped) -> Untyped:
        """Call a function; returns what it gives besides the status, or None."""
        status, *values = getattr(self.module, name)(*arguments)
        if int(status) != 0:
            hint = OUT_OF_MEMORY if int(status) == _CUDA_ERROR_OUT_OF_MEMORY else ""
            raise EngineError(f"CUDA {name} failed: {getattr(status, 'name', status)}{hint}")
        return values[0] if values else None


class _Resource:
    """Something of the driver's, with the function that destroys it."""

    def __init__(self, driver: _Driver, raw: Untyped, destroy: str) -> None:
        self._driver, self._raw, self._destroy = driver, raw, destroy
        self.handle = int(raw)

    def free(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            self._driver.call(self._destroy, raw)


class _Stream(_Resource):
    def synchronize(self) -> None:
        self._driver.call("cuStreamSynchronize", self._raw)


class _Event(_Resource):
    def record(self, stream: CudaStream) -> None:
        self._driver.call("cuEventRecord", self._raw, stream.handle)

    def synchronize(self) -> None:
        self._driver.call("cuEventSynchronize", self._raw)


class _Graph(_Resource):
    def launch(self, stream: CudaStream) -> None:
        self._driver.call("cuGraphLaunch", self._raw, stream.handle)


class _Buffer(_Resource):
    def __init__(self, driver: _Driver, nbytes: int) -> None:
        super().__init__(driver, driver.call("cuMemAlloc", nbytes), "cuMemFree")
        self.address = self.handle
        self.nbytes = nbytes


class _PrimaryContext:
    """The device's primary context, the one that TensorRT uses too."""

    def __init__(self, driver: _Driver, index: int) -> None:
        self._driver = driver
        driver.call("cuInit", 0)
        self.device = driver.call("cuDeviceGet", index)
        self._context = driver.call("cuDevicePrimaryCtxRetain", self.device)
        # Pinned arrays may outlive the CudaPythonDevice, and need the context to be freed in: they keep this object.
        self._release = weakref.finalize(self, driver.call, "cuDevicePrimaryCtxRelease", self.device)
        self._release.atexit = False

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self._driver.call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._driver.call("cuCtxPopCurrent")

    def free_pinned(self, address: int) -> None:
        with contextlib.suppress(EngineError), self.active():  # nothing can be done about it in a finalizer
            self._driver.call("cuMemFreeHost", address)


class CudaPythonDevice:
    """See `CudaDevice`; raises `EngineError` where the GPU can't be used."""

    name, has_graphs = "cuda-python", True

    def __init__(self, index: int = 0) -> None:
        self._driver = _Driver()
        self._context: _PrimaryContext | None = _PrimaryContext(self._driver, index)
        attributes = self._driver.module.CUdevice_attribute
        asked = (attributes.CU_DEVICE_ATTRIBUTE_INTEGRATED, attributes.CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY)
        self.shares_memory = all(
            self._driver.call("cuDeviceGetAttribute", item, self._context.device) for item in asked
        )

    def active(self) -> contextlib.AbstractContextManager[None]:
        return self._primary().active()

    def buffer(self, nbytes: int) -> CudaBuffer:
        return _Buffer(self._driver, nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        nbytes = max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1)
        context = self._primary()
        address = int(self._driver.call("cuMemHostAlloc", nbytes, _DEVICEMAP if self.shares_memory else 0))
        return pinned_array(address, shape, dtype, partial(context.free_pinned, address))

    def device_address(self, array: npt.NDArray[np.generic]) -> int:
        return int(self._driver.call("cuMemHostGetDevicePointer", array.ctypes.data, 0))

    def stream(self) -> CudaStream:
        flag = self._driver.module.CUstream_flags.CU_STREAM_NON_BLOCKING
        return _Stream(self._driver, self._driver.call("cuStreamCreate", int(flag)), "cuStreamDestroy")

    def event(self) -> CudaEvent:
        flag = self._driver.module.CUevent_flags.CU_EVENT_DISABLE_TIMING
        return _Event(self._driver, self._driver.call("cuEventCreate", int(flag)), "cuEventDestroy")

    def upload(self, target: CudaBuffer, source: npt.NDArray[np.generic], stream: CudaStream) -> None:
        nbytes = check_copy(source, target)
        self._driver.call("cuMemcpyHtoDAsync", target.address, source.ctypes.data, nbytes, stream.handle)

    def download(self, target: npt.NDArray[np.generic], source: CudaBuffer, stream: CudaStream) -> None:
        nbytes = check_copy(target, source)
        self._driver.call("cuMemcpyDtoHAsync", target.ctypes.data, source.address, nbytes, stream.handle)

    def copy(self, target: CudaBuffer, source: CudaBuffer, nbytes: int, stream: CudaStream) -> None:
        self._driver.call("cuMemcpyDtoDAsync", target.address, source.address, nbytes, stream.handle)

    def capture(self, stream: CudaStream, work: Callable[[], None]) -> CudaGraph:
        # Only this thread's calls are watched: other threads may allocate meanwhile.
        mode = self._driver.module.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._driver.call("cuStreamBeginCapture", stream.handle, mode)
        try:
            work()
        except BaseException:
            with contextlib.suppress(EngineError):  # the failure inside is the one to report
                self._driver.call("cuGraphDestroy", self._driver.call("cuStreamEndCapture", stream.handle))
            raise
        graph = self._driver.call("cuStreamEndCapture", stream.handle)
        try:
            executable = self._driver.call("cuGraphInstantiate", graph, 0)
        finally:
            self._driver.call("cuGraphDestroy", graph)
        return _Graph(self._driver, executable, "cuGraphExecDestroy")

    def close(self) -> None:
        self._context = None  # the context itself goes when the last pinned array is gone, too

    def _primary(self) -> _PrimaryContext:
        if self._context is None:
            raise EngineError("this CUDA device was closed")
        return self._context

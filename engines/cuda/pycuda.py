"""A GPU through pycuda, which many Jetsons have. It has no CUDA graphs.

Importing pycuda needs the GPU driver. As `pycuda.autoprimaryctx` does, this uses the device's primary context, which
TensorRT uses too, but for whichever GPU was asked for and without leaving it current; never `pycuda.autoinit`, which
makes a second context. The context is pushed and popped around every use, so that any thread may use the device.
"""

from __future__ import annotations

import atexit
import contextlib
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

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which pycuda has no name for
_contexts: dict[int, Untyped] = {}


def _primary_context(module: Untyped, index: int) -> Untyped:
    """A GPU's primary context, retained once a process.

    A context object that pycuda itself destroys is not released but detached, which primary contexts can't be, and is
    left current; so it is kept to the end, and released by name.
    """
    if index not in _contexts:
        _contexts[index] = context = module.Device(index).retain_primary_context()
        atexit.register(_release, context)
    return _contexts[index]


def _release(context: Untyped) -> None:
    context.push()
    context.detach()


@contextlib.contextmanager
def _errors(module: Untyped, what: str) -> Iterator[None]:
    try:
        yield
    except module.Error as error:
        hint = OUT_OF_MEMORY if isinstance(error, module.MemoryError) else ""
        raise EngineError(f"CUDA {what} failed: {' '.join(str(error).split())}{hint}") from error


class _Stream:
    def __init__(self, module: Untyped) -> None:
        self._module = module
        with _errors(module, "stream creation"):
            self.raw = module.Stream(flags=_NON_BLOCKING)
        self.handle = int(self.raw.handle)

    def synchronize(self) -> None:
        with _errors(self._module, "stream"):
            self.raw.synchronize()

    def free(self) -> None:
        self.raw = None  # pycuda destroys what nobody holds


class _Event:
    def __init__(self, module: Untyped) -> None:
        self._module = module
        with _errors(module, "event creation"):
            self._raw = module.Event(module.event_flags.DISABLE_TIMING)

    def record(self, stream: CudaStream) -> None:
        with _errors(self._module, "event record"):
            self._raw.record(_raw(stream))

    def synchronize(self) -> None:
        with _errors(self._module, "event"):
            self._raw.synchronize()

    def free(self) -> None:
        self._raw = None


class _Buffer:
    def __init__(self, module: Untyped, nbytes: int) -> None:
        self.nbytes = nbytes
        self._module = module
        with _errors(module, f"allocation of {nbytes} bytes"):
            self._raw = module.mem_alloc(nbytes)
        self.address = int(self._raw)

    def free(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            with _errors(self._module, "free"):
                raw.free()


def _raw(stream: CudaStream) -> Untyped:
    assert isinstance(stream, _Stream)
    return stream.raw


class PycudaDevice:
    """See `CudaDevice`; raises `EngineError` where the GPU can't be used."""

    name, has_graphs = "pycuda", False

    def __init__(self, index: int = 0) -> None:
        self._module = import_binding("pycuda")
        self._device_addresses: dict[int, int] = {}  # by the host address of a pinned array
        with _errors(self._module, "start"):
            self._module.init()
            self._context = _primary_context(self._module, index)
            attributes, device = self._module.device_attribute, self._module.Device(index)
            asked = (attributes.INTEGRATED, attributes.CAN_MAP_HOST_MEMORY)
            self.shares_memory = all(device.get_attribute(item) for item in asked)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        if self._context is None:
            raise EngineError("this CUDA device was closed")
        with _errors(self._module, "context push"):
            self._context.push()
        try:
            yield
        finally:
            self._module.Context.pop()

    def buffer(self, nbytes: int) -> CudaBuffer:
        return _Buffer(self._module, nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        flags = self._module.host_alloc_flags.DEVICEMAP if self.shares_memory else 0
        with _errors(self._module, "pinned allocation"):
            array = self._module.pagelocked_empty(shape, dtype, mem_flags=flags)
            address, allocation = int(array.ctypes.data), array.base
            if self.shares_memory:
                self._device_addresses[address] = int(allocation.get_device_pointer())
        return pinned_array(address, shape, dtype, partial(self._free_pinned, self._context, allocation, address))

    def _free_pinned(self, context: Untyped, allocation: Untyped, address: int) -> None:
        """Free it in its context: pycuda itself would leave it, where the thread is another than the one before."""
        self._device_addresses.pop(address, None)
        with contextlib.suppress(self._module.Error):  # nothing can be done about it in a finalizer
            context.push()
            try:
                allocation.free()
            finally:
                self._module.Context.pop()

    def device_address(self, array: npt.NDArray[np.generic]) -> int:
        return self._device_addresses[int(array.ctypes.data)]

    def stream(self) -> CudaStream:
        return _Stream(self._module)

    def event(self) -> CudaEvent:
        return _Event(self._module)

    def upload(self, target: CudaBuffer, source: npt.NDArray[np.generic], stream: CudaStream) -> None:
        check_copy(source, target)
        with _errors(self._module, "upload"):
            self._module.memcpy_htod_async(target.address, source, _raw(stream))

    def download(self, target: npt.NDArray[np.generic], source: CudaBuffer, stream: CudaStream) -> None:
        check_copy(target, source)
        with _errors(self._module, "download"):
            self._module.memcpy_dtoh_async(target, source.address, _raw(stream))

    def copy(self, target: CudaBuffer, source: CudaBuffer, nbytes: int, stream: CudaStream) -> None:
        with _errors(self._module, "copy"):
            self._module.memcpy_dtod_async(target.address, source.address, nbytes, _raw(stream))

    def capture(self, stream: CudaStream, work: Callable[[], None]) -> CudaGraph:
        raise EngineError("pycuda has no CUDA graphs: use --cuda-bindings cuda-python, or --no-cuda-graphs")

    def close(self) -> None:
        self._context = None  # the context itself stays until the process ends

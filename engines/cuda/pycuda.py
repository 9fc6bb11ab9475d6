"""The memory interface over pycuda: what many Jetsons have. It has no CUDA graphs.

It is imported lazily, as importing it needs the GPU driver. It uses the device's primary context, which TensorRT uses
too, as `pycuda.autoprimaryctx` does, but for whichever GPU was asked for and without leaving it current; never
`pycuda.autoinit`, which makes a second context. The context is pushed and popped around every use, so that an executor
works from whichever thread calls it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.engines.base import Untyped
from sharpose.engines.cuda.memory import OUT_OF_MEMORY, DeviceBuffer, DeviceGraph, Event, Stream, check_copy
from sharpose.errors import EngineError

__all__ = ["PycudaMemory", "load_pycuda_driver"]


def load_pycuda_driver() -> Untyped:
    """The driver module of pycuda; `ImportError` where it isn't installed or the GPU driver isn't there."""
    return importlib.import_module("pycuda.driver")


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

    @property
    def handle(self) -> int:
        return int(self.raw.handle)

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

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, _Stream)
        with _errors(self._module, "event record"):
            self._raw.record(stream.raw)

    def synchronize(self) -> None:
        with _errors(self._module, "event"):
            self._raw.synchronize()

    def free(self) -> None:
        self._raw = None


class _Buffer:
    def __init__(self, module: Untyped, nbytes: int) -> None:
        self._nbytes = nbytes
        self._module = module
        with _errors(module, f"allocation of {nbytes} bytes"):
            self._raw = module.mem_alloc(nbytes)

    @property
    def address(self) -> int:
        return int(self._raw)

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def free(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            with _errors(self._module, "free"):
                raw.free()


class PycudaMemory:
    """See `sharpose.engines.cuda.memory.Memory`.

    Args:
        index: The GPU.
        module: `pycuda.driver`; imported if None.

    Raises:
        EngineError: the GPU can't be used.
    """

    def __init__(self, index: int = 0, module: Untyped = None) -> None:
        self.name = "pycuda"
        self.has_graphs = False
        self._module = load_pycuda_driver() if module is None else module
        with _errors(self._module, "start"):
            self._module.init()
            self._context = _primary_context(self._module, index)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """See `Memory.active`."""
        if self._context is None:
            raise EngineError("this GPU memory was closed")
        with _errors(self._module, "context push"):
            self._context.push()
        try:
            yield
        finally:
            self._module.Context.pop()

    def device_buffer(self, nbytes: int) -> DeviceBuffer:
        """See `Memory.device_buffer`."""
        return _Buffer(self._module, nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """See `Memory.pinned`."""
        with _errors(self._module, "pinned allocation"):
            array: npt.NDArray[Any] = self._module.pagelocked_zeros(shape, dtype)
        return array

    def stream(self) -> Stream:
        """See `Memory.stream`."""
        return _Stream(self._module)

    def event(self) -> Event:
        """See `Memory.event`."""
        return _Event(self._module)

    def upload(self, target: DeviceBuffer, source: npt.NDArray[np.generic], stream: Stream) -> None:
        """See `Memory.upload`."""
        assert isinstance(stream, _Stream)
        check_copy(source, target)
        with _errors(self._module, "upload"):
            self._module.memcpy_htod_async(target.address, source, stream.raw)

    def download(self, target: npt.NDArray[np.generic], source: DeviceBuffer, stream: Stream) -> None:
        """See `Memory.download`."""
        assert isinstance(stream, _Stream)
        check_copy(target, source)
        with _errors(self._module, "download"):
            self._module.memcpy_dtoh_async(target, source.address, stream.raw)

    def copy(self, target: DeviceBuffer, source: DeviceBuffer, nbytes: int, stream: Stream) -> None:
        """See `Memory.copy`."""
        assert isinstance(stream, _Stream)
        with _errors(self._module, "copy"):
            self._module.memcpy_dtod_async(target.address, source.address, nbytes, stream.raw)

    def capture(self, stream: Stream, work: Callable[[], None]) -> DeviceGraph:
        """See `Memory.capture`."""
        raise EngineError("pycuda has no CUDA graphs: use --cuda-bindings cuda-python, or --no-cuda-graphs")

    def close(self) -> None:
        """See `Memory.close`. The context itself stays until the process ends."""
        self._context = None

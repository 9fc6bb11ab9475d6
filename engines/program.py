"""A compiled graph behind a small interface, so that what runs it is tested without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from sharpose.engines.base import TensorSpec
from sharpose.engines.memory import Stream

__all__ = ["ExecutionContext", "Program", "max_bytes", "shape_at"]


class ExecutionContext(Protocol):
    """One state of a program: shapes, addresses and scratch memory. All failures are `EngineError`."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Set an input's shape for the runs to come."""
        ...

    def set_tensor_address(self, name: str, address: int) -> None:
        """Say where on the device an input or output lies."""
        ...

    def set_scratch(self, address: int, nbytes: int) -> None:
        """Lend it memory to compute in; contexts that run in turn on one stream may share it."""
        ...

    def can_be_captured(self, stream: Stream) -> bool:
        """Whether `execute` may be captured into a CUDA graph."""
        ...

    def execute(self, stream: Stream) -> None:
        """Put a run into the stream."""
        ...

    def close(self) -> None:
        """Free it. May be called twice."""
        ...


class Program(Protocol):
    """A compiled graph on a device.

    Attributes:
        inputs: Declared inputs by name.
        outputs: Declared outputs by name.
        min_batch: Smallest size of a dynamic axis.
        max_batch: Largest.
        scratch_bytes: What a context computes in.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    min_batch: int
    max_batch: int
    scratch_bytes: int

    def create_context(self) -> ExecutionContext:
        """A new context without shapes, addresses and scratch memory."""
        ...

    def close(self) -> None:
        """Free it, after its contexts. May be called twice."""
        ...


def shape_at(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A tensor's shape where the dynamic axes have these sizes."""
    return tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)


def max_bytes(spec: TensorSpec, max_batch: int) -> int:
    """The most bytes that a tensor takes."""
    sizes = (max_batch if isinstance(size, str) else size for size in spec.shape)
    return int(np.prod(list(sizes), dtype=np.int64)) * spec.dtype.itemsize

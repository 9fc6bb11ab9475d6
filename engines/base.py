"""What a runner is: named inputs to named outputs on a device. Inputs are checked here, once, for every backend."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from sharpose.bundle import GraphEntry
from sharpose.errors import EngineError, InputError

HostArray = npt.NDArray[np.generic]


class GraphError(EngineError):
    """A file isn't a graph, or not one that an engine can be made of on this device; another device may take it."""


class DeviceTensor(Protocol):
    """An output that stayed on the device, to be handed to another runner of the same backend."""

    def shape(self) -> Sequence[int]:
        """The tensor's sizes."""


Value: TypeAlias = HostArray | DeviceTensor


@dataclass(frozen=True)
class TensorSpec:
    """A declared input or output: a string in `shape` names a dynamic axis, whose size is 1 to max_batch."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | str, ...]

    def shape_at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape where the dynamic axes have these sizes."""
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)

    def max_bytes(self, max_batch: int) -> int:
        """Bytes that the tensor takes at most."""
        sizes = (max_batch if isinstance(size, str) else size for size in self.shape)
        return int(np.prod(list(sizes), dtype=np.int64)) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(str(size) for size in self.shape)}]"


FixInputs: TypeAlias = Callable[[Sequence[TensorSpec]], Sequence[TensorSpec]]
"""From a graph's inputs to the same without dynamic axes; raises a `SharposeError` for inputs that can't be used."""


def specs(entry: GraphEntry) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """The declared inputs and outputs of a bundle's graph, by name."""
    inputs, outputs = (
        {item.name: TensorSpec(item.name, np.dtype(item.dtype), item.shape) for item in items}
        for items in (entry.inputs, entry.outputs)
    )
    return inputs, outputs


class Runner(abc.ABC):
    """One graph, ready to run on the device that the user asked for (`cpu`, `cuda:0` …).

    Inputs and outputs are the declared ones, by name; a dynamic axis is 1 to `max_batch` long. Backends
    implement `_run` and `_free`, and set `parts` where they divide a batch of as many people, or more, into that many
    parts that are computed at once.
    """

    parts = 1

    def __init__(
        self,
        device: str,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        max_batch: int,
    ) -> None:
        self.device, self.inputs, self.outputs, self.max_batch = device, inputs, outputs, max_batch
        self._closed = False

    def run(
        self, inputs: Mapping[str, Value], outputs: Sequence[str], *, keep_on_device: Collection[str] = ()
    ) -> dict[str, Value]:
        """Run the graph.

        Args:
            inputs: A host array for every declared input, C-contiguous, of the declared dtype and shape; or an output
                that a runner of the same backend kept on its device.
            outputs: The outputs wanted; others are not copied.
            keep_on_device: Those of `outputs` to leave on the device, for another runner.

        Returns:
            The outputs asked for, by name.

        Raises:
            InputError: an input is missing, unknown, or has a wrong dtype, shape or layout.
            EngineError: an output isn't one of the graph's or hasn't the declared shape, the runner was closed, or the
                run failed.
        """
        if self._closed:
            raise EngineError("this engine was closed")
        sizes = check_inputs(inputs, self.inputs, self.max_batch)
        unknown = sorted(set(outputs) - set(self.outputs))
        if unknown:
            raise EngineError(f"engine outputs: expected some of {sorted(self.outputs)}, got {unknown}")
        results = self._run(inputs, sizes, outputs, keep_on_device)
        for name, value in results.items():
            _check_output(self.outputs[name], value, sizes)
        return results

    def terminate(self) -> None:  # noqa: B027 (most backends can't)
        """End the run at hand early, from another thread, where the backend can: it and all later ones then fail."""

    def close(self) -> None:
        """Free the graph and its memory. May be called twice."""
        if not self._closed:
            self._closed = True
            self._free()

    @abc.abstractmethod
    def _run(
        self, inputs: Mapping[str, Value], sizes: Mapping[str, int], outputs: Sequence[str], kept: Collection[str]
    ) -> dict[str, Value]:
        """Run the graph with checked inputs; `sizes` are those of the dynamic axes."""

    @abc.abstractmethod
    def _free(self) -> None:
        """Free everything; called once."""


def check_inputs(inputs: Mapping[str, Value], declared: Mapping[str, TensorSpec], max_batch: int) -> dict[str, int]:
    """Check names, dtypes, shapes and layout; returns the size of each dynamic axis, raises `InputError`."""
    missing, unknown = sorted(set(declared) - set(inputs)), sorted(set(inputs) - set(declared))
    if missing or unknown:
        raise InputError(
            f"engine inputs: expected {sorted(declared)}, got {sorted(inputs)}"
            + (f"; missing {missing}" if missing else "")
            + (f"; unknown {unknown}" if unknown else "")
        )
    axes: dict[str, int] = {}
    for name, spec in declared.items():
        value = inputs[name]
        if isinstance(value, np.ndarray):
            if value.dtype != spec.dtype:
                raise InputError(f"engine input {name}: expected dtype {spec.dtype}, got {value.dtype}")
            if not value.flags.c_contiguous:
                raise InputError(f"engine input {name}: expected a C-contiguous array; use np.ascontiguousarray")
            shape = tuple(value.shape)
        else:
            shape = tuple(value.shape())
        wanted = tuple(got if isinstance(want, str) else want for want, got in zip(spec.shape, shape, strict=False))
        if len(shape) != len(spec.shape) or shape != wanted:
            raise InputError(f"engine input {name}: expected {spec}, got shape {list(shape)}")
        for axis, size in zip(spec.shape, shape, strict=True):
            if not isinstance(axis, str):
                continue
            if not 1 <= size <= max_batch:
                raise InputError(f"engine input {name}: axis {axis} must be 1 to {max_batch}, got {size}")
            if axes.setdefault(axis, size) != size:
                raise InputError(f"engine input {name}: axis {axis} is {size}, but another input has {axes[axis]}")
    return axes


def _check_output(declared: TensorSpec, value: Value, sizes: Mapping[str, int]) -> None:
    """ONNX Runtime doesn't see to it that a graph's outputs have the shapes that the graph declares."""
    shape = tuple(value.shape if isinstance(value, np.ndarray) else value.shape())
    fits = len(shape) == len(declared.shape) and all(
        got == (sizes.get(want, got) if isinstance(want, str) else want)
        for want, got in zip(declared.shape, shape, strict=True)
    )
    if not fits:
        where = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
        raise EngineError(
            f"engine output {declared.name}: expected {declared} with {where}, got shape {list(shape)}; the graph is "
            "damaged, export it again"
        )


def check_signature(what: str, found: Sequence[TensorSpec], declared: Sequence[TensorSpec]) -> None:
    """Raise `EngineError` where a graph's inputs or outputs aren't the declared ones, in any order.

    The names of dynamic axes may differ: not every compiler keeps them.
    """

    def anonymous(items: Sequence[TensorSpec]) -> set[tuple[str, str, tuple[int, ...]]]:
        return {
            (item.name, str(item.dtype), tuple(-1 if isinstance(size, str) else size for size in item.shape))
            for item in items
        }

    if anonymous(found) != anonymous(declared):
        raise EngineError(f"{what}: expected {'; '.join(map(str, declared))}; found {'; '.join(map(str, found))}")

"""What an engine is: named inputs to named outputs on a device. Inputs are checked here, once, for every backend."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from sharpose.bundle import GraphEntry, TensorEntry
from sharpose.errors import EngineError, InputError

__all__ = [
    "DeviceTensor",
    "HostArray",
    "Runner",
    "TensorSpec",
    "Untyped",
    "Value",
    "check_inputs",
    "check_outputs",
    "check_signature",
    "specs",
]

Untyped: TypeAlias = Any


HostArray = npt.NDArray[np.generic]


class DeviceTensor(Protocol):
    """An output that stayed where the engine computed it; to be handed to another engine of the same backend."""

    def shape(self) -> Sequence[int]:
        """The tensor's sizes."""
        ...


Value: TypeAlias = HostArray | DeviceTensor


@dataclass(frozen=True)
class TensorSpec:
    """A declared input or output: a string in `shape` names a dynamic axis, whose size is 1 to max_batch."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | str, ...]

    @classmethod
    def from_entry(cls, entry: TensorEntry) -> TensorSpec:
        """The spec that `bundle.json` declares."""
        return cls(entry.name, np.dtype(entry.dtype), entry.shape)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(str(size) for size in self.shape)}]"


class Runner(Protocol):
    """One graph, ready to run on one device.

    Attributes:
        device: The device as the user asked for it (`cpu`, `cuda:0` …).
        inputs: Declared inputs by name.
        outputs: Declared outputs by name.
        max_batch: The largest size of a dynamic axis.
    """

    device: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    max_batch: int

    def run(
        self, inputs: Mapping[str, Value], outputs: Sequence[str], *, keep_on_device: Collection[str] = ()
    ) -> dict[str, Value]:
        """Run the graph.

        Args:
            inputs: A host array for every declared input, C-contiguous, of the declared dtype and shape; or an output
                that an engine of the same backend kept on its device.
            outputs: The outputs wanted; others are not copied.
            keep_on_device: Those of `outputs` to leave on the device, for another engine.

        Returns:
            The outputs asked for, by name.

        Raises:
            InputError: an input is missing, unknown, or has a wrong dtype, shape or layout.
            EngineError: an output isn't one of the graph's, or the run failed.
        """
        ...

    def close(self) -> None:
        """Free the engine. May be called twice."""
        ...


def specs(entry: GraphEntry) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """The declared inputs and outputs of a bundle's graph, by name."""
    return (
        {item.name: TensorSpec.from_entry(item) for item in entry.inputs},
        {item.name: TensorSpec.from_entry(item) for item in entry.outputs},
    )


def check_inputs(inputs: Mapping[str, Value], declared: Mapping[str, TensorSpec], max_batch: int) -> None:
    """Check names, dtypes, shapes and layout before a backend sees them; raises `InputError`."""
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
            sizes = tuple(value.shape)
        else:
            sizes = tuple(value.shape())
        _check_shape(spec, sizes, axes, max_batch)


def _check_shape(spec: TensorSpec, sizes: tuple[int, ...], axes: dict[str, int], max_batch: int) -> None:
    """Compare sizes with a spec; `axes` remembers the size of each named axis across inputs."""
    fits = len(sizes) == len(spec.shape) and all(
        isinstance(want, str) or want == got for want, got in zip(spec.shape, sizes, strict=True)
    )
    if not fits:
        raise InputError(f"engine input {spec.name}: expected {spec}, got shape {list(sizes)}")
    for want, got in zip(spec.shape, sizes, strict=True):
        if not isinstance(want, str):
            continue
        if not 1 <= got <= max_batch:
            raise InputError(f"engine input {spec.name}: axis {want} must be 1 to {max_batch}, got {got}")
        if axes.setdefault(want, got) != got:
            raise InputError(f"engine input {spec.name}: axis {want} is {got}, but another input has {axes[want]}")


def check_outputs(wanted: Sequence[str], declared: Mapping[str, TensorSpec]) -> None:
    """Raise `EngineError` for an output that the graph doesn't have."""
    unknown = sorted(set(wanted) - set(declared))
    if unknown:
        raise EngineError(f"engine outputs: expected some of {sorted(declared)}, got {unknown}")


def check_signature(what: str, found: Sequence[TensorSpec], declared: Sequence[TensorSpec]) -> None:
    """Raise `EngineError` where a compiled graph's inputs or outputs aren't the declared ones, in any order.

    The names of dynamic axes may differ: not every compiler keeps them.
    """

    def anonymous(items: Sequence[TensorSpec]) -> set[tuple[str, str, tuple[int, ...]]]:
        return {
            (item.name, str(item.dtype), tuple(-1 if isinstance(size, str) else size for size in item.shape))
            for item in items
        }

    if anonymous(found) != anonymous(declared):
        raise EngineError(f"{what}: expected {'; '.join(map(str, declared))}; found {'; '.join(map(str, found))}")

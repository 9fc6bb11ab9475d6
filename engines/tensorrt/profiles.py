"""Optimization profiles: the batch sizes that TensorRT chooses kernels for, and the shapes that go with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sharpose.engines.base import TensorSpec
from sharpose.engines.tensorrt.library import BuildOptions, TensorRtFlavour
from sharpose.errors import EngineError

_TYPICAL_PEOPLE = 4  # in a picture


@dataclass(frozen=True)
class BatchRange:
    """The batch sizes of a profile, and the one that its kernels are fastest for."""

    min: int
    opt: int
    max: int


def tuned_batches(options: BuildOptions, flavour: TensorRtFlavour) -> tuple[int, ...]:
    """The batch sizes to be fastest at: those asked for, or 1, 4 and the largest within the limits.

    For TensorRT-RTX it is 4 alone: it compiles kernels for the very shapes that it runs anyway. Three profiles take it
    three times as long to build, and make the plan half as large again.
    """
    if options.opt_batch is not None:
        return options.opt_batch
    if flavour.is_rtx:
        return (max(options.min_batch, min(_TYPICAL_PEOPLE, options.max_batch)),)
    return (
        *(size for size in (1, _TYPICAL_PEOPLE) if options.min_batch <= size < options.max_batch),
        options.max_batch,
    )


def batch_ranges(options: BuildOptions, flavour: TensorRtFlavour) -> tuple[BatchRange, ...]:
    """The batch sizes of an engine's profiles, ascending, without gaps or overlaps, each fastest for a tuned size.

    A profile ends where it is fastest, the last one at the largest batch.
    """
    best = tuned_batches(options, flavour)
    lows = [options.min_batch, *(size + 1 for size in best[:-1])]
    highs = [*best[:-1], options.max_batch]
    return tuple(BatchRange(low, opt, high) for low, opt, high in zip(lows, best, highs, strict=True))


def batch_axis(outputs: Mapping[str, TensorSpec]) -> str | None:
    """The axis that is an engine's batch: the dynamic one of its outputs; None if all shapes are fixed.

    Raises:
        EngineError: outputs have several.
    """
    axes = {size for spec in outputs.values() for size in spec.shape if isinstance(size, str)}
    if len(axes) > 1:
        raise EngineError(f"outputs: expected one dynamic axis in all of them, got {sorted(axes)}")
    return next(iter(axes), None)


def axis_sizes(inputs: Mapping[str, TensorSpec], axis: str | None, batch: int, max_batch: int) -> dict[str, int]:
    """Sizes of all dynamic axes where the batch axis has this one.

    Others always have their largest: no output has them, so what is padded is never seen. The fine stage's N is one: it
    reads only the rows that it is asked for.
    """
    names = {size for spec in inputs.values() for size in spec.shape if isinstance(size, str)}
    return {name: batch if name == axis else max_batch for name in sorted(names | ({axis} if axis else set()))}


def find_range(ranges: Sequence[tuple[int, int]], batch: int) -> int:
    """The index of the profile for a batch. Raises `EngineError` where there is none."""
    for index, (low, high) in enumerate(ranges):
        if low <= batch <= high:
            return index
    raise EngineError(f"batch: expected one that a profile of the engine has, of {list(ranges)}, got {batch}")

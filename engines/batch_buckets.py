"""Batch sizes that an engine computes. CUDA graphs have fixed shapes, so for them batches are padded to a few sizes."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["BatchBuckets"]


class BatchBuckets:
    """Sizes 1, 2, 3, 4, 6, 8, 12, 16, 24 … up to the largest batch: at most half as much again is computed in vain.

    Args:
        smallest: The smallest batch that the engine takes.
        largest: The largest.
        exact: No buckets: every size from `smallest` on is its own.

    Attributes:
        sizes: The buckets, ascending.
    """

    def __init__(self, smallest: int, largest: int, *, exact: bool = False) -> None:
        if exact:
            sizes = set(range(smallest, largest + 1))
        else:
            sizes = {smallest, largest}
            power = 1
            while power <= largest:
                sizes |= {size for size in (power, power + power // 2) if smallest <= size <= largest}
                power *= 2
        self.sizes = tuple(sorted(sizes))

    def fit(self, count: int) -> int:
        """The smallest bucket that holds `count`, which is at most the largest."""
        return self.sizes[bisect_left(self.sizes, count)]

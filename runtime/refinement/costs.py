"""What a batch costs on this machine, learned from the batches that were run."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from sharpose.engines.batch_buckets import BatchBuckets

__all__ = ["BatchCost"]

_COMMON_RATE = 0.15  # how fast the estimate of the machine's speed follows a batch
_OWN_RATE = 0.1  # how fast that of the batch's own size does
_LARGEST_STEP = math.log(2)  # a batch that was interrupted says little about the next one
_KEPT = 200  # batches that the margin is read from
_FEW = 20  # with fewer, the margin is at least `_CAREFUL`
_CAREFUL = 1.25
_SHORTEST = 1e-9  # seconds: a clock may stand still


class BatchCost:
    """Seconds that a batch takes by its size.

    An estimate is kept for each size that was run, sizes between are interpolated, and larger ones cost in proportion.
    When the machine becomes slower or faster as a whole, all sizes follow the ones that are run. How far batches are
    off their estimates is remembered as well: `likely` is what 95 of 100 take at most.

    Args:
        buckets: The sizes that the engine really computes: a batch costs what the bucket does that it is padded to.
    """

    def __init__(self, buckets: BatchBuckets) -> None:
        self._sizes = np.array([buckets.fit(count) for count in range(1, buckets.sizes[-1] + 1)])
        self._own: dict[int, float] = {}  # log seconds by size, less the common part
        self._common = 0.0
        self._typical = np.zeros(len(self._sizes))  # seconds by count, from 1 up
        self._ratios: deque[float] = deque(maxlen=_KEPT)
        self._margin = _CAREFUL

    @property
    def largest(self) -> int:
        """The largest batch."""
        return len(self._sizes)

    def calibrate(self, count: int, seconds: Sequence[float]) -> None:
        """Take the median of some runs of `count` people for what they cost, whatever was believed before."""
        self._own[self._size(count)] = math.log(max(float(np.median(seconds)), _SHORTEST)) - self._common
        self._refresh()

    def observe(self, count: int, seconds: float) -> None:
        """Learn from a batch of `count` people that took `seconds`."""
        if not self._own:
            self.calibrate(count, [seconds])
            return
        expected = self.typical(count)
        ratio = max(seconds, _SHORTEST) / expected
        step = max(-_LARGEST_STEP, min(_LARGEST_STEP, math.log(ratio)))
        self._own[self._size(count)] = math.log(expected) - self._common + _OWN_RATE * step
        self._common += _COMMON_RATE * step
        self._ratios.append(ratio)
        least = _CAREFUL if len(self._ratios) < _FEW else 1.0
        self._margin = max(least, float(np.quantile(np.fromiter(self._ratios, float), 0.95)))
        self._refresh()

    def typical(self, count: int) -> float:
        """Seconds that a batch of `count` people usually takes; 0 for nobody, and while nothing is known."""
        return float(self._typical[count - 1]) if count > 0 else 0.0

    def likely(self, count: int) -> float:
        """Seconds that a batch of `count` people takes at most in 95 of 100 cases."""
        return self.typical(count) * self._margin

    def _size(self, count: int) -> int:
        return int(self._sizes[count - 1])

    def _refresh(self) -> None:
        known = sorted(self._own)
        seconds = np.exp([self._own[size] + self._common for size in known])
        beyond = np.maximum(self._sizes / known[-1], 1.0)
        self._typical = np.interp(self._sizes, known, seconds) * beyond

"""What a batch costs on this machine, learned from the batches that were run, and how many people it may take."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from sharpose.engines.batches import BatchBuckets

_COMMON_RATE = 0.15  # how fast the estimate of the machine's speed follows a batch
_OWN_RATE = 0.1  # how fast that of the batch's own size does
_LARGEST_STEP = math.log(2)  # a batch that was interrupted says little about the next one
_KEPT = 200  # batches that the margin is read from
_FEW = 20  # with fewer, the margin is at least `_CAREFUL`
_CAREFUL = 1.25
_SHORTEST = 1e-9  # seconds: a clock may stand still

_MOST_PEOPLE = 64  # beyond it, finishing a call is taken to cost as much

_AMPLE = 2.0  # with this many times the time that one batch of everybody takes, it is one batch
_AS_GOOD = 1.1  # a batch that costs at most so much more a person is preferred for being smaller


class BatchCost:
    """Seconds that a batch takes by its size.

    An estimate is kept for each size that was run, sizes between are interpolated, and larger ones cost in proportion.
    When the machine becomes slower or faster as a whole, all sizes follow the ones that are run. `likely` adds a
    margin: the 95th percentile of how far batches were off their estimates.

    Args:
        buckets: The sizes that the engine really computes: a batch costs what the bucket does that it is padded to.
    """

    def __init__(self, buckets: BatchBuckets) -> None:
        self._buckets, self.largest = buckets, buckets.sizes[-1]
        self._sizes = np.array([buckets.fit(count) for count in range(1, self.largest + 1)])
        self._own: dict[int, float] = {}  # log seconds by size, less the common part
        self._common = 0.0
        self._typical = np.zeros(len(self._sizes))  # seconds by count, from 1 up
        self._ratios: deque[float] = deque(maxlen=_KEPT)
        self._margin = _CAREFUL

    def calibrate(self, count: int, seconds: Sequence[float]) -> None:
        """Set the cost of `count` people to the median of some runs, whatever was estimated before."""
        self._own[int(self._sizes[count - 1])] = math.log(max(float(np.median(seconds)), _SHORTEST)) - self._common
        self._refresh()

    def start_from_measured(self) -> None:
        """Set the costs of all sizes to what the buckets know, whatever was estimated before."""
        if self._buckets.seconds:
            self._own = {int(size): math.log(self._buckets.cost(int(size))) - self._common for size in self._sizes}
            self._refresh()

    def observe(self, count: int, seconds: float) -> None:
        """Learn from a batch of `count` people that took `seconds`."""
        if not self._own:
            self.calibrate(count, [seconds])
            return
        expected = self.typical(count)
        ratio = max(seconds, _SHORTEST) / expected
        step = max(-_LARGEST_STEP, min(_LARGEST_STEP, math.log(ratio)))
        self._own[int(self._sizes[count - 1])] = math.log(expected) - self._common + _OWN_RATE * step
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

    def least_per_person(self) -> float:
        """Likely seconds per person in the batch size where that is least; 0 if unknown."""
        return min(self.likely(size) / size for size in range(1, self.largest + 1))

    def _refresh(self) -> None:
        known = sorted(self._own)
        seconds = np.exp([self._own[size] + self._common for size in known])
        beyond = np.maximum(self._sizes / known[-1], 1.0)
        self._typical = np.interp(self._sizes, known, seconds) * beyond


class StageCosts:
    """What the parts of a call cost: each stage with its cropping and mapping back, and what follows the last batch."""

    def __init__(self, coarse: BatchBuckets, fine: BatchBuckets) -> None:
        self.coarse, self.fine = BatchCost(coarse), BatchCost(fine)
        self.finish = BatchCost(BatchBuckets(1, _MOST_PEOPLE, exact=True))

    def all_coarse(self, people: int, cost: Callable[[int], float]) -> float:
        """Seconds for the coarse stage of `people`, in largest batches; `cost` is `coarse.typical` or `.likely`."""
        full, rest = divmod(people, self.coarse.largest)
        return full * cost(self.coarse.largest) + cost(rest)

    def start_from_measured(self) -> None:
        """Take what batches were measured to cost, whatever was estimated before."""
        for cost in (self.coarse, self.fine):
            cost.start_from_measured()


def next_batch(count: int, seconds: float, cost: Callable[[int], float]) -> int:
    """How many of `count` people the next fine batch takes.

    Everybody where there is ample time. Otherwise the smallest batch that costs hardly more per person than the best
    that fits: after each the clock is looked at, and a small batch is late by little. `seconds` may be infinite or
    negative; `cost` gives the seconds that a batch of so many people takes, 0 if unknown.
    """
    if count <= 0 or seconds <= 0:
        return 0
    everybody = cost(count)
    if seconds == float("inf"):
        return count
    if everybody == 0:
        return 1  # what one person takes teaches the cost
    if everybody * _AMPLE <= seconds:
        return count
    each = {size: taken / size for size in range(1, count + 1) if (taken := cost(size)) <= seconds}
    if not each:
        return 0
    limit = min(each.values()) * _AS_GOOD
    return next(size for size, share in each.items() if share <= limit)


def own_share(own: npt.NDArray[np.float64], later: npt.NDArray[np.float64], capacity: float) -> int:
    """How many people of a chunk are among the `capacity` people of highest priority, in this and later chunks.

    `own` [n] are the chunk's priorities, highest first; `later` [m] those expected of people still to come.
    """
    rank = np.arange(len(own)) + (later[None, :] > own[:, None]).sum(axis=1)
    return int((rank + 1 <= capacity).sum())

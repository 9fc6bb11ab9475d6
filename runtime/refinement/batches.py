"""How many people a batch takes when there is only so much time. Pure functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sharpose.runtime.refinement.costs import BatchCost

__all__ = ["next_batch", "own_share", "seconds_each"]

_AMPLE = 2.0  # with this many times the time that one batch of everybody takes, it is one batch
_AS_GOOD = 1.1  # a batch that costs at most so much more a person is preferred for being smaller


def next_batch(count: int, seconds: float, cost: Callable[[int], float]) -> int:
    """How many of `count` people the next fine batch takes.

    Everybody where there is ample time. Otherwise the smallest batch that costs hardly more a person than the best that
    fits: after each the clock is looked at, and what a small batch is late is little.

    Args:
        count: How many people wait.
        seconds: How much time there is; may be infinite or negative.
        cost: Seconds that a batch of so many people takes; 0 if unknown.

    Returns:
        0 to `count`; 0 where not even one fits.
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


def seconds_each(cost: BatchCost) -> float:
    """The least that a person is likely to cost, in seconds, in a batch of any size; 0 if unknown."""
    return min(cost.likely(size) / size for size in range(1, cost.largest + 1))


def own_share(own: npt.NDArray[np.float64], later: npt.NDArray[np.float64], capacity: float) -> int:
    """How many people of a chunk may be refined, so that enough time is left for those of the chunks that follow.

    Their coarse results are still to come, so what they will gain is what is expected. The `capacity` people of highest
    priority are refined, in whichever chunk they are.

    Args:
        own: float [n], priorities of the chunk's people, highest first.
        later: float [m], expected priorities of the people in later chunks.
        capacity: How many people can be refined in the time that is left for all of them.

    Returns:
        0 to n.
    """
    rank = np.arange(len(own)) + (later[None, :] > own[:, None]).sum(axis=1)
    return int((rank + 1 <= capacity).sum())

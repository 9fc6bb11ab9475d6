"""Counting how long things took, in buckets, as Prometheus wants it."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

__all__ = ["BOUNDS", "Histogram"]

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets, in seconds, each included; one more holds all that is longer."""


class Histogram:
    """Seconds in buckets. Not locked: its owner is.

    Attributes:
        sum: Of all seconds counted.
    """

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def copy(self) -> Histogram:
        """One that further counting doesn't change."""
        other = Histogram()
        other._counts, other.sum = list(self._counts), self.sum
        return other

    @property
    def cumulative(self) -> list[tuple[str, float]]:
        """`(bound, how many took at most so long)`, the last bound `+Inf`."""
        bounds = [*(str(bound) for bound in BOUNDS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))

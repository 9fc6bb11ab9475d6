"""How long to wait before a lost connection is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """Waits that double up to a cap, with jitter, so that a hundred clients don't return in the same instant.

    Args:
        first: Seconds of the first wait, before jitter.
        cap: Seconds of the longest one.
        healthy_after: A connection that delivered for so many seconds was healthy: waits begin anew after it.
        uniform: Draws from [0, 1); a wait is shortened by up to half by it.

    Attributes:
        attempts: Waits since the last healthy connection.
    """

    def __init__(
        self,
        first: float = 0.5,
        cap: float = 30.0,
        *,
        healthy_after: float = 5.0,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self.attempts = 0
        self._first = first
        self._cap = cap
        self._healthy_after = healthy_after
        self._uniform = uniform

    def delivered(self, seconds: float) -> None:
        """Note for how long the connection that was just lost had delivered."""
        if seconds >= self._healthy_after:
            self.attempts = 0

    def next_wait(self) -> float:
        """Seconds to wait before the next attempt, which it counts."""
        doubled = self._first * 2.0 ** min(self.attempts, 60)
        self.attempts += 1
        return min(self._cap, doubled) * (1.0 - 0.5 * self._uniform())

"""Several contenders on the same frames in one run, in turns of alternating order, and what their times tell."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

PERCENTILES = (50, 90, 95, 99, 100)
PERCENTILE_NAMES = ("p50", "p90", "p95", "p99", "max")
_TURN_S = 0.1  # a turn is at least so long: its first frame finds the caches as another contender left them
_PAUSE_S = 0.02  # before a turn: threads of the contender before it spin for some milliseconds
_BOOTSTRAPS = 2000

Frame = Callable[[int], Mapping[str, float]]
"""Runs one frame with so many people refined; gives seconds by stage, `end_to_end` among them."""


class Meter(Protocol):
    """Adds up what the turns of one contender use, energy for example."""

    def start(self) -> None:
        """A turn begins."""

    def stop(self) -> None:
        """It has ended."""


def refined_counts(people: int, percent: int) -> list[int]:
    """How many people are refined in each frame of a period whose mean is the rate: 50 % of 1 person is `[0, 1]`."""
    length = 100 // math.gcd(100, people * percent) if people * percent % 100 else 1
    ends = [people * percent * index // 100 for index in range(length + 1)]
    return [after - before for before, after in pairwise(ends)]


@dataclass
class Times:
    """Milliseconds of one contender in one case, by stage: `turns[t][stage][f]` is frame f of turn t."""

    turns: list[dict[str, list[float]]] = field(default_factory=list)
    first_ms: float = 0.0  # the very first frame
    warm_up_ms: float = 0.0  # all frames before measuring, the first one included

    @property
    def stages(self) -> list[str]:
        """The stages, `end_to_end` last."""
        return list(self.turns[0])

    def frames(self, stage: str = "end_to_end") -> npt.NDArray[np.float64]:
        """All frames of a stage, in the order of time."""
        return np.concatenate([np.asarray(turn[stage], np.float64) for turn in self.turns])

    def turn_means(self, stage: str = "end_to_end") -> npt.NDArray[np.float64]:
        """The mean of each turn."""
        return np.array([np.mean(turn[stage]) for turn in self.turns])

    def percentiles(self, stage: str = "end_to_end") -> dict[str, float]:
        """p50, p90, p95, p99 and max of the frames."""
        return dict(zip(PERCENTILE_NAMES, map(float, np.percentile(self.frames(stage), PERCENTILES)), strict=True))

    def mean(self, stage: str = "end_to_end") -> float:
        """The mean of the frames: with a rate such as half of one person, their percentiles have two humps."""
        return float(self.frames(stage).mean())


@dataclass(frozen=True)
class Ratio:
    """How many times as fast the first is as the second: the median over rounds, and its 95 % bootstrap interval."""

    first: str
    second: str
    median: float
    low: float
    high: float
    rounds: int


def take_turns(
    contenders: Mapping[str, Frame],
    counts: Sequence[int],
    *,
    warm_up: int,
    seconds: float,
    min_rounds: int,
    most_seconds: float = math.inf,
    meters: Mapping[str, Meter] | None = None,
) -> dict[str, Times]:
    """Measure contenders in rounds. In each, every contender has a turn; every second round has the reverse order.

    Args:
        contenders: By name.
        counts: People refined in each frame of a period; a turn has whole periods.
        warm_up: Periods before measuring, of each contender; at least 1.
        seconds: Least time of all rounds together.
        min_rounds: Least number of rounds; made even, so that both orders are as frequent.
        most_seconds: No round begins after it, except the first two.
        meters: Started and stopped with the turns of the contender of that name.
    """
    times = {name: Times() for name in contenders}
    lengths: dict[str, int] = {}
    for name, frame in contenders.items():
        lengths[name] = _warm_up(frame, times[name], counts, warm_up)
    order = np.random.default_rng(0)
    names: list[str] = []
    began, rounds = time.perf_counter(), 0
    while True:
        passed = time.perf_counter() - began
        if rounds % 2 == 0:
            enough = rounds >= min_rounds and passed >= seconds
            if rounds and (enough or passed >= most_seconds):
                return times
            names = [str(name) for name in order.permutation(list(contenders))]
        else:
            names.reverse()
        for name in names:
            time.sleep(_PAUSE_S)
            meter = (meters or {}).get(name)
            if meter is not None:
                meter.start()
            times[name].turns.append(_turn(contenders[name], counts, lengths[name]))
            if meter is not None:
                meter.stop()
        rounds += 1


def _warm_up(frame: Frame, times: Times, counts: Sequence[int], periods: int) -> int:
    """Run some periods, and find how many of them fill a turn."""
    began = time.perf_counter()
    quickest = math.inf
    for _ in range(periods):
        period_began = time.perf_counter()
        for count in counts:
            spent = frame(count)["end_to_end"]
            if not times.first_ms:
                times.first_ms = spent * 1000
        quickest = min(quickest, time.perf_counter() - period_began)
    times.warm_up_ms = (time.perf_counter() - began) * 1000
    return max(1, math.ceil(_TURN_S / max(quickest, 1e-6)))


def _turn(frame: Frame, counts: Sequence[int], periods: int) -> dict[str, list[float]]:
    turn: dict[str, list[float]] = {}
    for count in list(counts) * periods:
        for stage, spent in frame(count).items():
            turn.setdefault(stage, []).append(spent * 1000)
    return turn


def bootstrap_median(values: npt.ArrayLike) -> tuple[float, float, float]:
    """The median of values, and the 95 % interval of it under resampling."""
    array = np.asarray(values, np.float64)
    drawn = np.random.default_rng(0).integers(len(array), size=(_BOOTSTRAPS, len(array)))
    low, high = np.percentile(np.median(array[drawn], axis=1), (2.5, 97.5))
    return float(np.median(array)), float(low), float(high)


def paired_ratio(times: Mapping[str, Times], first: str, second: str) -> Ratio:
    """How many times as fast the first is as the second, from their turns in the same rounds."""
    quotients = times[second].turn_means() / times[first].turn_means()
    return Ratio(first, second, *bootstrap_median(quotients), len(quotients))

"""What is counted of one stream: written by the run, read by whoever asks."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np

from sharpose.runtime.frames import FrameRecord, SourceHealth

__all__ = ["BOUNDS", "Histogram", "Quantiles", "StreamCounter", "StreamNumbers"]

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


_RECENT = 300  # frames that percentiles and the refine rate look back on
_RATE_SECONDS = 5.0  # what the frame rate looks back on


@dataclass(frozen=True)
class Quantiles:
    """Of the newest 300 values, in seconds."""

    p50: float
    p95: float


@dataclass(frozen=True)
class StreamNumbers:
    """One stream at one moment.

    Attributes:
        name: Of the stream, without its password.
        live: Whether its frames come when they come.
        connected: Whether its source delivers.
        ended: Whether it is over, well or not.
        failed: Whether it ended badly.
        frames, people, refined, wanted, deferred: Totals since the start. Without a deadline all wanted are refined.
        dropped: Frames that were never looked at, because newer ones had come.
        reconnects: How often the source was connected anew.
        people_now, refined_now, deferred_now: In the newest frame.
        size: `(width, height)` of the newest frame; None before the first.
        frame_rate: Frames a second over the last five seconds.
        refine_rate: Share of the people in the newest 300 frames that the fine stage looked at.
        silence: Seconds since the newest frame, or since the start where none came yet.
        stages: Each stage's time, in the order of the run.
        age: How old frames were when inference began; None where the stream isn't live.
        stage_seconds, age_seconds: The same as histograms since the start.
    """

    name: str
    live: bool
    connected: bool
    ended: bool
    failed: bool
    frames: int
    people: int
    refined: int
    wanted: int
    deferred: int
    dropped: int
    reconnects: int
    people_now: int
    refined_now: int
    deferred_now: int
    size: tuple[int, int] | None
    frame_rate: float
    refine_rate: float
    silence: float
    stages: Mapping[str, Quantiles]
    age: Quantiles | None
    stage_seconds: Mapping[str, Histogram]
    age_seconds: Histogram


@dataclass
class _Series:
    """One time that is measured every frame."""

    histogram: Histogram = field(default_factory=Histogram)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def add(self, seconds: float) -> None:
        self.histogram.add(seconds)
        self.recent.append(seconds)


class StreamCounter:
    """Counts the records of one stream.

    Args:
        name: Of the stream.
        live: Whether the source is live; a record with an age says so too.
        health: Of its source; the newest record's takes its place.
        clock: Seconds that never go back.
    """

    def __init__(self, name: str, *, live: bool, health: SourceHealth, clock: Callable[[], float]) -> None:
        self.name = name
        self._live, self._health, self._clock = live, health, clock
        self._lock = threading.Lock()
        self._frames = self._people = self._refined = self._wanted = self._deferred = 0
        self._now = (0, 0, 0)
        self._size: tuple[int, int] | None = None
        self._ended = self._failed = False
        self._began = self._newest = clock()
        self._times: deque[float] = deque(maxlen=5000)
        self._recent: deque[tuple[int, int]] = deque(maxlen=_RECENT)
        self._stages: dict[str, _Series] = {}
        self._age = _Series()

    def add(self, record: FrameRecord) -> None:
        """Count one."""
        poses = record.poses
        people, refined, deferred = len(poses), int(poses.refined.sum()), int(poses.deferred.sum())
        wanted = refined if poses.wanted is None else int(poses.wanted.sum())
        with self._lock:
            self._frames += 1
            self._people += people
            self._refined += refined
            self._wanted += wanted
            self._deferred += deferred
            self._now = (people, refined, deferred)
            self._size = (record.frame.width, record.frame.height)
            self._newest = self._clock()
            self._times.append(self._newest)
            self._recent.append((people, refined))
            self._health = record.health
            for stage, seconds in record.stages.items():
                self._stages.setdefault(stage, _Series()).add(seconds)
            if record.age is not None:
                self._live = True
                self._age.add(record.age)

    def end(self, *, failed: bool) -> None:
        """Note that no more will come; only the first call counts."""
        with self._lock:
            if not self._ended:
                self._ended, self._failed = True, failed

    def read(self) -> StreamNumbers:
        """All of it at this moment."""
        with self._lock:
            now = self._clock()
            span = min(now - self._began, _RATE_SECONDS)
            lately = sum(time > now - _RATE_SECONDS for time in self._times)
            stages = {name: list(series.recent) for name, series in self._stages.items()}
            ages = list(self._age.recent)
            people, refined = (sum(counts) for counts in zip(*self._recent, strict=True)) if self._recent else (0, 0)
            numbers = StreamNumbers(
                name=self.name,
                live=self._live,
                connected=self._health.connected and not self._ended,
                ended=self._ended,
                failed=self._failed,
                frames=self._frames,
                people=self._people,
                refined=self._refined,
                wanted=self._wanted,
                deferred=self._deferred,
                dropped=self._health.dropped,
                reconnects=self._health.reconnects,
                people_now=self._now[0],
                refined_now=self._now[1],
                deferred_now=self._now[2],
                size=self._size,
                frame_rate=lately / span if span > 0 else 0.0,
                refine_rate=refined / people if people else 0.0,
                silence=now - self._newest,
                stages={},
                age=None,
                stage_seconds={name: series.histogram.copy() for name, series in self._stages.items()},
                age_seconds=self._age.histogram.copy(),
            )
        # Sorting happens outside the lock, so that the run never waits for it.
        quantiles = {name: _quantiles(values) for name, values in stages.items()}
        return replace(numbers, stages=quantiles, age=_quantiles(ages) if ages else None)


def _quantiles(values: list[float]) -> Quantiles:
    p50, p95 = np.percentile(values, (50, 95))
    return Quantiles(float(p50), float(p95))

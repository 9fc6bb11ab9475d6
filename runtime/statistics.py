"""The numbers of a stream: counted by the run; read by the closing table, the JSON logs and --serve."""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate, islice

import numpy as np
import numpy.typing as npt
from rich.table import Table

from sharpose.errors import counted
from sharpose.runtime.frames import FrameRecord, SourceInfo
from sharpose.runtime.result import StageTimings

WRITE = "write"
"""The stage after `track`: drawing and encoding."""
STAGES = ("read", "boxes", *(item.name for item in fields(StageTimings)), "track", WRITE)
"""Stages of a frame in their order; `track` is tracking and smoothing."""
AGE = "age"
"""How old a live source's frame is when inference starts: no stage, but measured like one."""
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of a histogram's buckets, in seconds, each included; one more bucket holds all that is longer."""
RECENT = 300
"""Newest frames that the page's percentiles and refine rate look back on."""

_KEPT = 10_000  # durations that percentiles of a whole run look back on: streams may run for days
_RATE_SECONDS = 5.0  # that the page's frame rate looks back on
_PERCENTILES = (50, 95, 99)


class Durations:
    """Seconds that something took, one value per frame: the newest 10,000, and a histogram of all."""

    def __init__(self) -> None:
        self.sum = 0.0  # of all values, in seconds
        self._newest = array("d")  # a ring: Python's floats would take four times the memory
        self._oldest = 0  # its place in the ring
        self._buckets = [0] * (len(BOUNDS) + 1)

    def __len__(self) -> int:
        return sum(self._buckets)

    def add(self, seconds: float) -> None:
        """Count one value."""
        self.sum += seconds
        if len(self._newest) < _KEPT:
            self._newest.append(seconds)
        else:
            self._newest[self._oldest] = seconds
            self._oldest = (self._oldest + 1) % _KEPT
        self._buckets[bisect_left(BOUNDS, seconds)] += 1

    @classmethod
    def total(cls, parts: Sequence[Durations]) -> Durations:
        """All values of several, in a copy that doesn't change with them."""
        result = cls()
        if not parts:
            return result
        result.sum = sum(part.sum for part in parts)
        for part in parts:
            result._newest.frombytes(part._in_order.tobytes())
        result._buckets = [sum(counts) for counts in zip(*(part._buckets for part in parts), strict=True)]
        return result

    def percentiles(self, *percentages: float, newest: int | None = None) -> list[float]:
        """Milliseconds at each of the percentages, of the `newest` values or of all that are kept; zeros for none."""
        values = self._in_order if newest is None else self._in_order[-newest:]
        return (np.percentile(values, percentages) * 1000).tolist() if len(values) else [0.0] * len(percentages)

    @property
    def _in_order(self) -> npt.NDArray[np.float64]:
        return np.roll(np.array(self._newest), -self._oldest)

    @property
    def cumulative(self) -> list[tuple[str, float]]:
        """A histogram as Prometheus has it: `(bound, how many took at most so long)`, the last bound `+Inf`."""
        bounds = [*map(str, BOUNDS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._buckets)), strict=True))


@dataclass
class StreamSnapshot:
    """The numbers of one stream, or of several as one, at one moment."""

    live: bool = False  # whether the source is a camera or a stream
    connected: bool = True  # whether the source delivers
    ended: bool = False  # whether the stream is over, well or not
    failed: bool = False  # whether it ended on an error
    frames: int = 0  # frames whose results were written
    people: int = 0  # people in them
    refined: int = 0  # people that the fine stage looked at
    wanted: int = 0  # people that the gate wanted refined; without a deadline these are the refined ones
    deferred: int = 0  # of the wanted ones, those that a deadline left no time for
    late: int = 0  # frames whose poses came after their deadline
    dropped: int = 0  # frames of a live source that were dropped for newer ones
    reconnects: int = 0  # how often a live source was reconnected
    people_now: int = 0  # in the newest frame, as the next three
    refined_now: int = 0
    deferred_now: int = 0
    size: tuple[int, int] | None = None  # `(width, height)`; None before the first frame
    began: float = 0.0  # when its first frame was about to be read, by the statistics' clock
    seconds: float = 0.0  # from the first frame's reading to the last one's writing; 0 while the stream runs
    recent_frame_rate: float = 0.0  # frames per second over the last five seconds
    recent_refine_rate: float = 0.0  # share of the people in the newest 300 frames that were refined
    silence: float = 0.0  # seconds since the newest frame, or since reading began if none came yet; 0 before
    # Of each of `STAGES`, and of `AGE`.
    durations: dict[str, Durations] = field(default_factory=lambda: {name: Durations() for name in (*STAGES, AGE)})

    @property
    def refine_rate(self) -> float:
        """Share of the people that were refined; 0 if there was nobody."""
        return self.refined / self.people if self.people else 0.0

    @property
    def frame_rate(self) -> float:
        """Frames per second of a stream that is over, all stages included; 0 before."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @classmethod
    def total(cls, streams: Sequence[StreamSnapshot]) -> StreamSnapshot:
        """Several streams as one: counts added, durations together, from the first's start to the last one's end."""
        began = min((one.began for one in streams), default=0.0)
        result = cls(began=began, seconds=max((one.began + one.seconds - began for one in streams), default=0.0))
        for name in ("frames", "people", "refined", "wanted", "deferred", "late", "dropped", "reconnects"):
            setattr(result, name, sum(getattr(one, name) for one in streams))
        for name in result.durations:
            result.durations[name] = Durations.total([one.durations[name] for one in streams])
        return result


class StreamStatistics:
    """Counts the frames of one stream. The run writes, any thread reads.

    Args:
        source: Of the stream; whether it is live, and its health, are read at each snapshot.
        clock: Seconds, monotonic.
    """

    def __init__(self, source: SourceInfo, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._source, self._clock = source, clock
        self._lock = threading.Lock()
        self._counts = StreamSnapshot()
        self._began = clock()
        self._newest: float | None = None  # when the newest frame was counted; before the first, when reading began
        self._times: deque[float] = deque(maxlen=5000)
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT)

    def begin(self) -> None:
        """Note that the first frame is about to be read."""
        with self._lock:
            self._began = self._newest = self._clock()

    def add(self, record: FrameRecord, write_seconds: float | None = None) -> None:
        """Count a frame.

        Args:
            record: The frame, its poses, the seconds of each stage, and the frame's age where the source is live.
            write_seconds: Seconds that drawing and encoding took.
        """
        poses, counts = record.poses, self._counts
        people, refined, deferred = len(poses), int(poses.refined.sum()), int(poses.deferred.sum())
        wanted = refined if poses.wanted is None else int(poses.wanted.sum())
        with self._lock:
            counts.frames += 1
            counts.people += people
            counts.refined += refined
            counts.wanted += wanted
            counts.deferred += deferred
            counts.late += record.late
            counts.people_now, counts.refined_now, counts.deferred_now = people, refined, deferred
            counts.size = (record.frame.width, record.frame.height)
            counts.live = counts.live or record.age is not None
            self._newest = now = self._clock()
            self._times.append(now)
            self._recent.append((people, refined))
            for name, seconds in (*record.stages.items(), (WRITE, write_seconds), (AGE, record.age)):
                if seconds is not None:
                    counts.durations[name].add(seconds)

    def end(self, *, failed: bool) -> None:
        """Note that no frame will come any more; only the first call counts."""
        with self._lock:
            if not self._counts.ended:
                self._counts.ended, self._counts.failed = True, failed
                self._counts.seconds = self._clock() - self._began
                self._times.clear()

    @property
    def frames(self) -> int:
        """Frames so far."""
        return self._counts.frames

    @property
    def frame_rate(self) -> float:
        """Frames per second over the newest 30, and over the time without one that is longer than their mean step; 0
        before the second one, and once the stream is over.
        """
        with self._lock:
            now, times = self._clock(), list(islice(reversed(self._times), 30))
        if len(times) < 2:
            return 0.0
        steps, span = len(times) - 1, times[0] - times[-1]
        return steps / max(span, now - span / steps - times[-1], 1e-6)

    def snapshot(self) -> StreamSnapshot:
        """All numbers at this moment, in a copy."""
        with self._lock:
            now, counts, health = self._clock(), self._counts, self._source.health
            span = min(now - self._began, _RATE_SECONDS)
            people, refined = (sum(column) for column in zip(*self._recent, strict=True)) if self._recent else (0, 0)
            return replace(
                counts,
                began=self._began,
                live=counts.live or self._source.live,
                connected=health.connected and not counts.ended,
                dropped=health.dropped,
                reconnects=health.reconnects,
                recent_frame_rate=sum(then > now - _RATE_SECONDS for then in self._times) / span if span > 0 else 0.0,
                recent_refine_rate=refined / people if people else 0.0,
                silence=0.0 if self._newest is None else now - self._newest,
                # Those of a stream that is over don't change, and there may be many: all are asked for every second.
                durations=counts.durations
                if counts.ended
                else {name: Durations.total([one]) for name, one in counts.durations.items()},
            )


@dataclass
class ServerSnapshot:
    """The numbers of a run's server at one moment."""

    requests: int = 0  # answered with poses
    failed: int = 0  # tries that weren't, contact included: the server was busy, gone, late or failing
    dropped: int = 0  # live frames that were dropped for that, those of the waits included
    durations: Durations = field(default_factory=Durations)  # of the answered ones, from first byte to last


class ServerStatistics:
    """Counts the requests of an estimator whose model runs on a server. Any thread counts, any thread reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = ServerSnapshot()

    def add(self, seconds: float, *, failed: bool) -> None:
        """Count a try of a request."""
        with self._lock:
            if failed:
                self._counts.failed += 1
            else:
                self._counts.requests += 1
                self._counts.durations.add(seconds)

    def drop(self, frames: int) -> None:
        """Count live frames that the server had no time for."""
        with self._lock:
            self._counts.dropped += frames

    def snapshot(self) -> ServerSnapshot:
        """All numbers at this moment, in a copy."""
        with self._lock:
            return replace(self._counts, durations=Durations.total([self._counts.durations]))


def server_summary_of(numbers: ServerSnapshot) -> str:
    """What a run asked of its server, in one line."""
    p50, p95 = numbers.durations.percentiles(50, 95)
    parts = [f"{counted(numbers.requests, 'request')} ({p50:.1f} ms, p95 {p95:.1f} ms)"]
    if numbers.failed:
        parts.append(f"{counted(numbers.failed, 'try')} failed")
    if numbers.dropped:
        parts.append(f"dropped {counted(numbers.dropped, 'frame')} while it was busy or gone")
    return "server: " + ", ".join(parts)


def summary_of(numbers: StreamSnapshot, *, warm_up: float | None = None, deadline: bool = False) -> str:
    """A run in one line.

    Args:
        numbers: Of the run's streams.
        warm_up: Seconds that warming up took; in no other number. None leaves them out.
        deadline: Whether frames had one: adds how many refinements were wanted, done, kept from an earlier frame (if
            any were) and deferred.
    """
    parts = [
        f"frames {numbers.frames}",
        f"people {numbers.people}",
        f"refined {numbers.refined} ({numbers.refine_rate:.0%})",
        f"{numbers.frame_rate:.1f} frames a second"
        + ("" if warm_up is None else f" (after {warm_up:.1f} s of warm-up)"),
    ]
    if deadline:
        kept = numbers.wanted - numbers.refined - numbers.deferred
        on_time = 1 - numbers.late / numbers.frames if numbers.frames else 1.0
        parts.append(
            f"refinements wanted {numbers.wanted}, done {numbers.refined}, {f'kept {kept}, ' if kept else ''}"
            f"deferred {numbers.deferred}, frames on time {on_time:.1%}"
        )
    if numbers.dropped:
        parts.append(f"dropped {counted(numbers.dropped, 'frame')}")
    if numbers.reconnects:
        parts.append(f"reconnected {counted(numbers.reconnects, 'time')}")
    return ", ".join(parts)


def table_of_stages(numbers: StreamSnapshot) -> Table:
    """How long each stage of a run took, in milliseconds a frame."""
    table = Table("stage", *(f"p{percentage} ms" for percentage in _PERCENTILES))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, durations in numbers.durations.items():
        if len(durations):
            table.add_row(name.replace("_", " "), *(f"{value:.2f}" for value in durations.percentiles(*_PERCENTILES)))
    return table

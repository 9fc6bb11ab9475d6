"""What a run counted and how long its stages took, and the table of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from rich.console import Console
from rich.table import Table

from sharpose.runtime.frames import SourceHealth
from sharpose.runtime.result import PoseResult, StageTimings

__all__ = ["AGE", "STAGES", "RunStatistics", "print_statistics", "summary_of"]

_KEPT = 10_000  # frames whose timings are kept: streams may run for days

STAGES = ("read", "boxes", *(item.name for item in fields(StageTimings)), "track", "write")
"""Stages of a frame in their order; `track` is tracking and smoothing, `write` drawing and encoding."""

AGE = "age"
"""How old a live source's frame is when inference starts: no stage, but measured like one."""

_COUNTS = ("frames", "people", "refined", "deferred", "late", "dropped", "reconnects")

_PERCENTILES = (50, 95, 99)


@dataclass
class RunStatistics:
    """Counts of a run, and the timings of its last 10,000 frames.

    Attributes:
        frames: Frames whose results were written.
        people: People in them.
        refined: People that the fine stage looked at.
        deferred: People that the gate wanted refined, and for whom a deadline left no time.
        late: Frames whose poses came after their deadline.
        dropped: Frames of a live source that were passed over for newer ones.
        reconnects: How often a live source was connected anew.
        warm_up: Seconds that warming up took; in no other number.
        seconds: Wall-clock time from the first frame's reading to the last one's writing.
    """

    frames: int = 0
    people: int = 0
    refined: int = 0
    deferred: int = 0
    late: int = 0
    dropped: int = 0
    reconnects: int = 0
    warm_up: float = 0.0
    seconds: float = 0.0
    _timings: dict[str, deque[float]] = field(
        default_factory=lambda: {stage: deque(maxlen=_KEPT) for stage in (*STAGES, AGE)}, repr=False
    )

    _done: deque[float] = field(default_factory=lambda: deque(maxlen=30), repr=False)  # when the last frames were

    def add(
        self,
        poses: PoseResult,
        stages: Mapping[str, float],
        *,
        age: float | None = None,
        late: bool = False,
        health: SourceHealth | None = None,
    ) -> None:
        """Count a frame.

        Args:
            poses: Of the people in it.
            stages: Seconds by stage; a stage that is not named took none.
            age: Seconds between its arrival and the start of inference, where the source is live.
            late: Whether its poses came after their deadline.
            health: How its source is doing, where that can change.
        """
        self.frames += 1
        self._done.append(time.perf_counter())
        self.people += len(poses)
        self.refined += int(poses.refined.sum())
        self.deferred += int(poses.deferred.sum())
        self.late += late
        if health is not None:
            self.dropped, self.reconnects = health.dropped, health.reconnects
        for stage in STAGES:
            self._timings[stage].append(stages.get(stage, 0.0))
        if age is not None:
            self._timings[AGE].append(age)

    @classmethod
    def of_all(cls, streams: Sequence[RunStatistics]) -> RunStatistics:
        """Several streams as one: counts added, timings together, the time of the longest."""
        total = cls(warm_up=max((one.warm_up for one in streams), default=0.0))
        for one in streams:
            for name in _COUNTS:
                setattr(total, name, getattr(total, name) + getattr(one, name))
            total.seconds = max(total.seconds, one.seconds)
            for stage, timings in one._timings.items():
                total._timings[stage].extend(timings)
        return total

    @property
    def recent_rate(self) -> float:
        """Frames a second over the last 30; 0 before the second one."""
        if len(self._done) < 2:
            return 0.0
        return (len(self._done) - 1) / max(self._done[-1] - self._done[0], 1e-6)

    @property
    def refine_rate(self) -> float:
        """Share of the people that were refined; 0 where there was nobody."""
        return self.refined / self.people if self.people else 0.0

    @property
    def frame_rate(self) -> float:
        """Frames a second, all stages included; 0 before any time has passed."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def percentiles(self, stage: str) -> tuple[float, float, float]:
        """p50, p95 and p99 of a stage, in milliseconds; zeros where no frame was run."""
        timings = self._timings[stage]
        if not timings:
            return 0.0, 0.0, 0.0
        p50, p95, p99 = (float(value) * 1000 for value in np.percentile(np.fromiter(timings, float), _PERCENTILES))
        return p50, p95, p99


def summary_of(statistics: RunStatistics, *, deadline: bool = False) -> str:
    """A run in one line; with a deadline, also whom the gate wanted, who was done and who had to wait."""
    parts = [
        f"frames {statistics.frames}",
        f"people {statistics.people}",
        f"refined {statistics.refined} ({statistics.refine_rate:.0%})",
        f"{statistics.frame_rate:.1f} frames a second (warm-up apart: {statistics.warm_up:.2f} s)",
    ]
    if deadline:
        on_time = 1 - statistics.late / statistics.frames if statistics.frames else 1.0
        wanted = statistics.refined + statistics.deferred
        parts.append(
            f"refinements wanted {wanted}, done {statistics.refined}, deferred {statistics.deferred}, "
            f"frames on time {on_time:.1%}"
        )
    if statistics.dropped:
        parts.append(f"passed over {statistics.dropped} frames for newer ones")
    if statistics.reconnects:
        parts.append(f"connected anew {statistics.reconnects} times")
    return ", ".join(parts)


def print_statistics(statistics: RunStatistics, console: Console, *, deadline: bool = False) -> None:
    """Print the table that ends a run."""
    console.print(summary_of(statistics, deadline=deadline), highlight=False, soft_wrap=True)
    table = Table("stage", *(f"p{percentile} ms" for percentile in _PERCENTILES))
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in (*STAGES, AGE) if statistics._timings[AGE] else STAGES:
        table.add_row(stage.replace("_", " "), *(f"{value:.2f}" for value in statistics.percentiles(stage)))
    console.print(table)

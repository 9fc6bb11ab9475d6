"""What a run counted and how long its stages took, and the table of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, fields

import numpy as np
from rich.console import Console
from rich.table import Table

from sharpose.runtime.result import PoseResult, StageTimings

__all__ = ["STAGES", "RunStatistics", "print_statistics"]

_KEPT = 10_000  # frames whose timings are kept: streams may run for days

STAGES = ("read", "boxes", *(item.name for item in fields(StageTimings)), "write")
"""Stages of a frame in their order; `write` is drawing and encoding."""

_PERCENTILES = (50, 95, 99)


@dataclass
class RunStatistics:
    """Counts of a run, and the timings of its last 10,000 frames.

    Attributes:
        frames: Frames whose results were written.
        people: People in them.
        refined: People that the fine stage looked at.
        warm_up: Seconds that warming up took; in no other number.
        seconds: Wall-clock time from the first frame's reading to the last one's writing.
    """

    frames: int = 0
    people: int = 0
    refined: int = 0
    warm_up: float = 0.0
    seconds: float = 0.0
    _timings: dict[str, deque[float]] = field(
        default_factory=lambda: {stage: deque(maxlen=_KEPT) for stage in STAGES}, repr=False
    )

    def add(self, poses: PoseResult, *, read: float, boxes: float, write: float) -> None:
        """Count a frame; times in seconds."""
        self.frames += 1
        self.people += len(poses)
        self.refined += int(poses.refined.sum())
        own = {"read": read, "boxes": boxes, "write": write}
        for stage in STAGES:
            self._timings[stage].append(own[stage] if stage in own else getattr(poses.timings, stage))

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


def print_statistics(statistics: RunStatistics, console: Console) -> None:
    """Print the table that ends a run."""
    console.print(
        f"frames {statistics.frames}, people {statistics.people}, refined {statistics.refined} "
        f"({statistics.refine_rate:.0%}), {statistics.frame_rate:.1f} frames a second "
        f"(warm-up apart: {statistics.warm_up:.2f} s)",
        highlight=False,
        soft_wrap=True,
    )
    table = Table("stage", *(f"p{percentile} ms" for percentile in _PERCENTILES))
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in STAGES:
        table.add_row(stage.replace("_", " "), *(f"{value:.2f}" for value in statistics.percentiles(stage)))
    console.print(table)

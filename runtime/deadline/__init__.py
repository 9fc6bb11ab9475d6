"""Who is refined where there is no time for everybody: what a batch costs, who gains most, who keeps what was found."""

from __future__ import annotations

from sharpose.runtime.deadline.scheduler import DeadlineScheduler

__all__ = ["DeadlineScheduler"]

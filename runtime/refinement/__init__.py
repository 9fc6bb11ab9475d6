"""Who is refined: the gate by predicted quality; within deadlines, the scheduler."""

from __future__ import annotations

from sharpose.runtime.refinement.scheduler import DeadlineScheduler, RefinementPlan

__all__ = ["DeadlineScheduler", "RefinementPlan"]

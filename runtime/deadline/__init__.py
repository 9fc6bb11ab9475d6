"""Refinement within deadlines: what a batch costs, who gains most, who keeps an earlier refinement."""

from __future__ import annotations

from sharpose.runtime.deadline.scheduler import DeadlineScheduler, RefinementPlan

__all__ = ["DeadlineScheduler", "RefinementPlan"]

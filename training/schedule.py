"""The learning rate over a run: linear warm-up by steps, then steps by epochs, a cosine or a straight line."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Schedule"]


class Schedule(BaseModel):
    """How long to train, and the factor on every learning rate.

    The released recipes warm up over 500 steps from a thousandth and multiply by 0.1 after epochs 170 and 200.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(gt=0)
    policy: Literal["steps", "cosine", "linear", "constant"] = "steps"
    warmup_steps: int = Field(default=500, ge=0)
    warmup_from: float = Field(default=0.001, gt=0, le=1, description="the factor at the first step")
    step_epochs: tuple[int, ...] = Field(default=(170, 200), description="epochs done when the rate drops")
    step_factor: float = Field(default=0.1, gt=0, le=1)
    final_factor: float = Field(default=0.01, ge=0, le=1, description="where a cosine or a line ends")

    @model_validator(mode="after")
    def _check(self) -> Schedule:
        if list(self.step_epochs) != sorted(set(self.step_epochs)):
            raise ValueError(f"step_epochs must rise, got {list(self.step_epochs)}")
        return self

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """What to multiply the learning rates by.

        Args:
            step: Optimiser steps done so far, over all epochs.
            steps_per_epoch: How many make an epoch.
        """
        epoch = step // steps_per_epoch
        if self.policy == "steps":
            factor = self.step_factor ** sum(epoch >= drop for drop in self.step_epochs)
        elif self.policy == "cosine":
            progress = min(step / (self.epochs * steps_per_epoch), 1.0)
            factor = self.final_factor + (1 - self.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))
        elif self.policy == "linear":
            progress = min(step / (self.epochs * steps_per_epoch), 1.0)
            factor = 1 - (1 - self.final_factor) * progress
        else:
            factor = 1.0
        if step < self.warmup_steps:
            factor *= 1 - (1 - step / self.warmup_steps) * (1 - self.warmup_from)
        return factor

"""An exponential moving average of a model's weights: what is evaluated and kept, where a recipe asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """The average of a model's weights over its last steps.

    Args:
        model: Whose weights are averaged; their present values are the start.
        decay: How much of the average stays at a step (0.9998 remembers some 5,000 steps). In the first steps less
            stays, `(1 + steps) / (10 + steps)`, so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights: dict[str, Tensor] = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in model.state_dict().items():
            self.weights[name].lerp_(value, 1 - decay)

    @contextlib.contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights while the block runs, and its own again afterwards."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state(self) -> dict[str, object]:
        """All that `load_state` needs to go on from here."""
        return {"steps": self.steps, "weights": self.weights}

    def load_state(self, steps: int, weights: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.steps = steps
        for name, value in weights.items():
            self.weights[name].copy_(value)

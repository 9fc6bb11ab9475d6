"""Muon for matrices, AdamW for all else, as one optimiser.

Muon (Jordan and others, 2024) makes the momentum of a weight matrix orthogonal before it is applied: all its directions
are learnt at one speed, rare ones too. Its steps are scaled to the size of AdamW's (Liu and others, 2025, 0.2 times the
root of the longer side), so that one learning rate and one weight decay serve both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["MuonAdamW", "orthogonalised"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Muon's quintic: singular values go to about 0.7 … 1.2 in five rounds
_ROUNDS = 5
_ADAMW_SIZE = 0.2  # root mean square of AdamW's steps, in learning rates
_SMALL = 1e-8


class MuonAdamW(torch.optim.Optimizer):
    """Groups with `orthogonal` set are Muon's, the others AdamW's.

    Args:
        groups: Parameter groups: `params`, `lr`, `weight_decay`, and `orthogonal`, whose parameters are matrices.
        lr: Of groups that have none.
        betas: AdamW's.
        momentum: Muon's (Nesterov's kind).
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], momentum: float) -> None:
        defaults = {"lr": lr, "betas": betas, "momentum": momentum, "weight_decay": 0.0, "orthogonal": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; parameters without a gradient are left alone."""
        assert closure is None
        for group in self.param_groups:
            learnt = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in learnt:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            if group["orthogonal"]:
                self._step_muon(learnt, group)
            else:
                for parameter in learnt:
                    self._step_adam(parameter, group)

    def _step_muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        momentum = group["momentum"]
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(parameter.grad, 1 - momentum)
            ahead = parameter.grad.lerp(state["momentum"], momentum)
            by_shape.setdefault(parameter.shape, []).append((parameter, ahead))
        for shape, pairs in by_shape.items():
            directions = orthogonalised(torch.stack([ahead for _, ahead in pairs]))
            for (parameter, _), direction in zip(pairs, directions, strict=True):
                parameter.add_(direction, alpha=-group["lr"] * _ADAMW_SIZE * max(shape) ** 0.5)

    def _step_adam(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        first, second = group["betas"]
        steps = float(state["step"])
        state["mean"].lerp_(parameter.grad, 1 - first)
        state["square"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
        size = (state["square"] / (1 - second**steps)).sqrt_().add_(_SMALL)
        parameter.addcdiv_(state["mean"], size, value=-group["lr"] / (1 - first**steps))


def orthogonalised(matrices: Tensor) -> Tensor:
    """[N, rows, columns] to matrices of the same singular vectors, with singular values near 1 (Newton-Schulz)."""
    a, b, c = _COEFFICIENTS
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = wide.float() / (torch.linalg.matrix_norm(wide.float(), keepdim=True) + _SMALL)
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if wide is not matrices else x).to(matrices.dtype)

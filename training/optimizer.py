"""AdamW with layer decay, Muon for the blocks, and the learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

_FIRST_LAYER = ("keypoint_tokens", "quality_token", "pos_embed_list", "patch_embed")
_NEVER_DECAYED = ("keypoint_tokens", "quality_token", "pos_embed_list")


class OptimizerRecipe(BaseModel):
    """AdamW as in the released recipes; Muon for the blocks' matrices is ours."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    gradient_clip: float | None = Field(default=None, gt=0, description="largest norm of all gradients")


def layer_of(name: str, depth: int) -> int:
    """The layer of a parameter, named as in a checkpoint: 0 for tokens, positions and patch embedding, `i + 1` for
    block i, `depth + 1` for all others (final norm, reuse MLP, quality predictor, heatmap head).
    """
    parts = name.split(".")
    if len(parts) > 1 and parts[1] in _FIRST_LAYER:
        return 0
    if parts[:2] == ["backbone", "blocks"]:
        return int(parts[2]) + 1
    return depth + 1


def is_decayed(name: str, dimensions: int) -> bool:
    """Whether weight decay applies: not to biases, 1-d parameters, position embeddings, keypoint and quality tokens."""
    return dimensions > 1 and not name.endswith(".bias") and not any(part in name for part in _NEVER_DECAYED)


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]], depth: int, recipe: OptimizerRecipe
) -> torch.optim.Optimizer:
    """The recipe's optimiser, with one group for each layer and kind, each with its rate in `base_lr`.

    Parameters come with their names in a checkpoint; `depth` is the model's number of blocks.
    """
    groups: dict[tuple[int, bool, bool], dict[str, Any]] = {}
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        layer, decayed = layer_of(name, depth), is_decayed(name, parameter.ndim)
        orthogonal = recipe.kind == "muon" and parameter.ndim == 2 and 0 < layer <= depth
        rate = recipe.learning_rate * recipe.layer_decay ** (depth + 1 - layer)
        group = groups.setdefault(
            (layer, decayed, orthogonal),
            {
                "params": [],
                "names": [],
                "lr": rate,
                "base_lr": rate,
                "weight_decay": recipe.weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    ordered = [groups[key] for key in sorted(groups)]
    if recipe.kind == "muon":
        for key in groups:
            groups[key]["orthogonal"] = key[2]
        return MuonAdamW(ordered, lr=recipe.learning_rate, betas=recipe.betas, momentum=recipe.muon_momentum)
    return torch.optim.AdamW(ordered, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


class Schedule(BaseModel):
    """The number of epochs, and the factor on every learning rate.

    The released recipes warm up over 500 steps from a thousandth and multiply by 0.1 after epochs 170 and 200.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(gt=0, le=10**6)
    policy: Literal["steps", "cosine", "linear", "constant"] = "steps"
    warmup_steps: int = Field(default=500, ge=0, le=10**9)
    warmup_from: float = Field(default=0.001, gt=0, le=1, description="factor at the first step")
    step_epochs: tuple[int, ...] = Field(default=(170, 200), description="epochs done when the rate drops")
    step_factor: float = Field(default=0.1, gt=0, le=1)
    final_factor: float = Field(default=0.01, ge=0, le=1, description="factor at the end of a cosine or a line")

    @model_validator(mode="after")
    def _check(self) -> Schedule:
        if list(self.step_epochs) != sorted(set(self.step_epochs)):
            raise ValueError(f"step_epochs must rise, got {list(self.step_epochs)}")
        return self

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """The factor after `step` optimiser steps, over all epochs."""
        progress = min(step / (self.epochs * steps_per_epoch), 1.0)
        if self.policy == "steps":
            factor = self.step_factor ** sum(step // steps_per_epoch >= drop for drop in self.step_epochs)
        elif self.policy == "cosine":
            factor = self.final_factor + (1 - self.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))
        elif self.policy == "linear":
            factor = 1 - (1 - self.final_factor) * progress
        else:
            factor = 1.0
        if step < self.warmup_steps:
            factor *= 1 - (1 - step / self.warmup_steps) * (1 - self.warmup_from)
        return factor


_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Muon's quintic: singular values go to about 0.7 … 1.2 in five rounds
_ROUNDS = 5
_ADAMW_SIZE = 0.2  # root mean square of AdamW's steps, in learning rates
_SMALL = 1e-8


class MuonAdamW(torch.optim.Optimizer):
    """Muon (K. Jordan et al. 2024) for groups with `orthogonal` set, AdamW for the others.

    Args:
        groups: Parameter groups: `params`, `lr`, `weight_decay`, and `orthogonal`, whose parameters are matrices.
        lr: Learning rate of groups that have none.
        betas: AdamW's.
        momentum: Muon's, Nesterov's variant.

    Attributes:
        dtype: What the matrix products that make directions orthogonal are computed in; bfloat16 is exact enough
            (directions change by about 1 %), and faster where the processor has it.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], momentum: float) -> None:
        defaults = {"lr": lr, "betas": betas, "momentum": momentum, "weight_decay": 0.0, "orthogonal": False}
        super().__init__(groups, defaults)
        self.dtype = torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; parameters without a gradient don't change."""
        assert closure is None
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor, float]]] = {}
        for group in self.param_groups:
            learnt = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in learnt:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if group["orthogonal"]:
                    step = (parameter, self._look_ahead(parameter, group["momentum"]), group["lr"])
                    by_shape.setdefault(parameter.shape, []).append(step)
                else:
                    self._step_adam(parameter, group)
        for shape, steps in by_shape.items():  # of all layers at once
            directions = orthogonalised(torch.stack([ahead for _, ahead, _ in steps]), self.dtype)
            for (parameter, _, rate), direction in zip(steps, directions, strict=True):
                parameter.add_(direction, alpha=-rate * _ADAMW_SIZE * max(shape) ** 0.5)

    def _look_ahead(self, parameter: Tensor, momentum: float) -> Tensor:
        """Nesterov's: the gradient moved towards its mean."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum"], momentum)

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


def orthogonalised(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[N, rows, columns] to matrices with the same singular vectors and singular values near 1 (Newton-Schulz).

    Products are computed in `dtype`; the result has the dtype of `matrices`.
    """
    a, b, c = _COEFFICIENTS
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = (wide.float() / (torch.linalg.matrix_norm(wide.float(), keepdim=True) + _SMALL)).to(dtype)
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if wide is not matrices else x).to(matrices.dtype)

"""AdamW with layer decay (the nearer a parameter is to the pixels, the slower it learns), or Muon for the blocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from sharpose.training.muon import MuonAdamW

__all__ = ["OptimizerRecipe", "build_optimizer", "is_decayed", "layer_of", "set_learning_rate"]

_FIRST_LAYER = ("keypoint_tokens", "quality_token", "pos_embed_list", "patch_embed")
_NEVER_DECAYED = ("keypoint_tokens", "quality_token", "pos_embed_list")


class OptimizerRecipe(BaseModel):
    """AdamW as the released recipes have it; Muon for the blocks' matrices is beyond the paper."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    gradient_clip: float | None = Field(default=None, gt=0, description="largest norm of all gradients together")


def layer_of(name: str, depth: int) -> int:
    """The layer that a parameter counts to: 0 for tokens, positions and patch embedding, `i + 1` for block i,
    `depth + 1` for all else (final norm, reuse MLP, quality predictor, heatmap head).

    Args:
        name: As in a checkpoint, for example `backbone.blocks.3.attn.qkv.weight`.
        depth: How many blocks the model has.
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

    Args:
        parameters: `(name, parameter)` pairs, names as in a checkpoint.
        depth: How many blocks the model has.
        recipe: Rates and decays.
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
    """Set every group's rate to its own base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor

"""What a recipe trains: the whole model on poses, or its transformer on hidden patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sharpose.model.sharpose import SHaRPose
from sharpose.training.masked import MaskedAutoencoder, painting_terms
from sharpose.training.network import TrainedNetwork, TrainingNetwork, recompute_blocks, set_drop_path
from sharpose.training.objective import Objective
from sharpose.training.recipe import Recipe

__all__ = ["Terms", "build_task"]

Terms = Callable[[Any, Tensor, Tensor, int], dict[str, Tensor]]
"""A network's output, targets, weights and epochs done, to the loss's terms: `loss` is what to minimise."""


def build_task(recipe: Recipe, model: SHaRPose, device: torch.device) -> tuple[TrainedNetwork, Terms]:
    """The network around a model, on its device and in training mode, and its loss."""
    set_drop_path(model, recipe.drop_path)
    if recipe.gradient_checkpointing:
        recompute_blocks(model)
    if recipe.pretrain is not None:
        return MaskedAutoencoder(model, recipe.pretrain).to(device).train(), painting_terms
    loss = recipe.loss
    network = TrainingNetwork(
        model, dense=loss.dense > 0, fine_from_epoch=loss.fine_from_epoch, fine_share=loss.fine_share
    )
    return network.to(device).train(), Objective(loss, recipe.model, device)

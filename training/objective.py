"""The sum that training minimises, term by term, and which terms count at which epoch."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sharpose.config import ModelConfig
from sharpose.training.losses import heatmap_cross_entropy, heatmap_mse, pose_oks, quality_mse
from sharpose.training.network import TrainingOutput

__all__ = ["LossRecipe", "Objective"]


class LossRecipe(BaseModel):
    """Weights of the loss's terms. The defaults are the paper's; everything else is off.

    A cross-entropy leaves a constant in every heatmap open, so the squared error always counts beside it, and
    `cross_entropy_epochs` ends it before the run does where heatmaps are to be as exact as the paper's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    mse: float = Field(default=1.0, gt=0, description="squared heatmap error of each stage")
    fine_from_epoch: int = Field(
        default=0, ge=0, description="the fine stage is neither run nor counted before so many epochs are done"
    )
    fine_share: float = Field(
        default=1.0, gt=0, le=1, description="of a batch's crops, that the fine stage is trained on"
    )
    quality: float = Field(default=0.03, ge=0, description="squared error of the predicted quality")
    quality_after_epoch: int = Field(default=180, ge=-1, description="it counts once more epochs than this are done")
    cross_entropy: float = Field(default=0.0, ge=0, description="cross-entropy of each stage's heatmaps")
    cross_entropy_temperature: float = Field(default=10.0, gt=0)
    cross_entropy_epochs: int | None = Field(default=None, ge=0, description="it counts in so many epochs; all if null")
    dense: float = Field(default=0.0, ge=0, description="the heatmap terms on maps from the patch tokens")
    dense_epochs: int | None = Field(default=None, ge=0, description="they count in so many epochs; all if null")


class Objective:
    """The loss of a batch.

    Args:
        recipe: Weights.
        config: The model's, for its skeleton and crop.
        device: Where batches are.
    """

    def __init__(self, recipe: LossRecipe, config: ModelConfig, device: torch.device) -> None:
        self.recipe = recipe
        self.crop_size = config.crop_size
        self.sigmas = torch.tensor(config.skeleton.sigmas, device=device)

    def __call__(self, output: TrainingOutput, targets: Tensor, weights: Tensor, epoch: int) -> dict[str, Tensor]:
        """The terms by name, scalars: `loss` is what to minimise, the others are unweighted and for the log.

        Args:
            output: Of the network.
            targets: [B, J, h, w].
            weights: [B, J].
            epoch: How many epochs are done.
        """
        recipe = self.recipe
        stages = {"coarse": output.coarse}
        if output.fine is not None:
            stages["fine"] = output.fine
        terms = {  # the fine stage's are of the first crops alone where it doesn't see all
            f"{name}_mse": heatmap_mse(maps, targets[: len(maps)], weights[: len(maps)])
            for name, maps in stages.items()
        }
        loss = recipe.mse * torch.stack(list(terms.values())).sum()
        with_cross_entropy = recipe.cross_entropy > 0 and _counts(recipe.cross_entropy_epochs, epoch)
        temperature = recipe.cross_entropy_temperature
        if with_cross_entropy:
            for name, heatmaps in stages.items():
                first = slice(len(heatmaps))
                term = heatmap_cross_entropy(heatmaps, targets[first], weights[first], temperature)
                terms[f"{name}_cross_entropy"] = term
                loss = loss + recipe.cross_entropy * term
        if output.dense is not None:
            dense = recipe.mse * heatmap_mse(output.dense, targets, weights)
            if with_cross_entropy:
                term = heatmap_cross_entropy(output.dense, targets, weights, temperature)
                dense = dense + recipe.cross_entropy * term
            terms["dense"] = dense
            # times zero rather than left out: processes that train together must all have all gradients
            loss = loss + (recipe.dense if _counts(recipe.dense_epochs, epoch) else 0.0) * dense
        oks, labelled = pose_oks(output.coarse, targets, weights, self.sigmas, self.crop_size)
        terms["coarse_oks"] = (oks * labelled).mean()
        terms["quality"] = quality_mse(output.quality, oks, labelled)
        loss = loss + (recipe.quality if epoch > recipe.quality_after_epoch else 0.0) * terms["quality"]
        return {"loss": loss, **terms}


def _counts(epochs: int | None, epoch: int) -> bool:
    return epochs is None or epoch < epochs

"""The pose loss: its terms for both stages and predicted quality, their weights over a run, and target heatmaps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from sharpose.config import ModelConfig
from sharpose.errors import InputError
from sharpose.training.objectives.guidance import GuidanceRecipe
from sharpose.training.objectives.network import TrainingOutput


class LossRecipe(BaseModel):
    """Weights of the loss's terms. The defaults are the paper's; everything else is off.

    The cross-entropy doesn't determine a constant in every heatmap, so the squared error always counts beside it;
    `cross_entropy_epochs` ends it before the run where heatmaps are to be as exact as the paper's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    mse: float = Field(default=1.0, gt=0, description="squared heatmap error of each stage")
    fine_from_epoch: int = Field(default=0, ge=0, description="epochs before the fine stage is run and counted")
    fine_share: float = Field(default=1.0, gt=0, le=1, description="share of a batch that the fine stage is trained on")
    quality: float = Field(default=0.03, ge=0, description="squared error of the predicted quality")
    quality_after_epoch: int = Field(default=180, ge=-1, description="counts once more epochs than this are done")
    cross_entropy: float = Field(default=0.0, ge=0, description="cross-entropy of each stage's heatmaps")
    cross_entropy_temperature: float = Field(default=10.0, gt=0)
    cross_entropy_epochs: int | None = Field(default=None, ge=0, description="epochs in which it counts; all if null")
    dense: float = Field(default=0.0, ge=0, description="the heatmap terms on maps from the patch tokens")
    dense_epochs: int | None = Field(default=None, ge=0, description="epochs in which they count; all if null")


class PoseObjective:
    """The loss of a batch: an `Objective`, see `sharpose.training.step`; `config` gives the skeleton and crop size.

    With `guidance`, the teacher's terms count too, over a run of `epochs`.
    """

    def __init__(
        self,
        recipe: LossRecipe,
        config: ModelConfig,
        device: torch.device,
        guidance: GuidanceRecipe | None = None,
        epochs: int = 1,
    ) -> None:
        self.recipe = recipe
        self.guidance = guidance
        self.epochs = epochs
        self.crop_size = config.crop_size
        self.sigmas = torch.tensor(config.skeleton.sigmas, device=device)

    def __call__(self, output: TrainingOutput, targets: Tensor, weights: Tensor, epoch: int) -> dict[str, Tensor]:
        """The terms by name, scalars: `loss` is what to minimise, the others are unweighted and for the log.

        Targets are [B, J, h, w], weights [B, J]; `epoch` is the number of finished epochs.
        """
        recipe = self.recipe
        stages = {"coarse": output.coarse}
        if output.fine is not None:
            stages["fine"] = output.fine
        terms = {  # the fine stage may have run on the first crops alone
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
            # times zero rather than left out: distributed training needs all gradients
            loss = loss + (recipe.dense if _counts(recipe.dense_epochs, epoch) else 0.0) * dense
        for name, term in (output.guidance or {}).items():
            assert self.guidance is not None
            terms[name] = term
            weight = self.guidance.heatmap_weight if name == "guidance_heatmaps" else self.guidance.weight
            loss = loss + weight * self.guidance.factor(epoch, self.epochs) * term
        oks, labelled = pose_oks(output.coarse, targets, weights, self.sigmas, self.crop_size)
        terms["coarse_oks"] = (oks * labelled).mean()
        terms["quality"] = quality_mse(output.quality, oks, labelled)
        loss = loss + (recipe.quality if epoch > recipe.quality_after_epoch else 0.0) * terms["quality"]
        return {"loss": loss, **terms}


def _counts(epochs: int | None, epoch: int) -> bool:
    return epochs is None or epoch < epochs


def heatmap_mse(heatmaps: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The paper's heatmap loss: the mean over joints of mean(weight * (heatmap - target)²), no factor of a half.

    The mean runs over all heatmaps, those of weight 0 too, so that the loss of a batch is the mean of its halves'
    losses: what makes several processes and accumulated batches equal to one large batch. Heatmaps and targets are
    [B, J, h, w], weights [B, J]; the loss is a scalar, float32.
    """
    error = (heatmaps.float() - targets.float()).square().mean(dim=(2, 3))
    return (weights * error).mean()


def heatmap_cross_entropy(heatmaps: Tensor, targets: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between the softmax over pixels of `temperature * heatmap` and that of `temperature * target`.

    Its gradient doesn't fade where a heatmap is still flat, so it learns from few pictures. Since the target goes
    through the same softmax, a heatmap that equals its target but for a constant has the least loss: the model learns
    heatmaps, not logits, and `heatmap_mse` beside it determines the constant.

    Heatmaps and targets are [B, J, h, w], weights [B, J]; the loss is a scalar, float32: the mean over all heatmaps,
    those of weight 0 too, less the target's entropy, so that 0 is perfect.
    """
    predicted = temperature * heatmaps.float().flatten(2)
    with torch.no_grad():
        wanted = functional.log_softmax(temperature * targets.float().flatten(2), dim=-1)
        share = wanted.exp()
        least = (share * wanted).sum(dim=-1)
    # sum(share * log_softmax(predicted)), without a tensor of all pixels' logarithms
    likelihood = torch.linalg.vecdot(share, predicted) - predicted.logsumexp(dim=-1)
    return (weights * (least - likelihood)).mean()


def pose_oks(
    heatmaps: Tensor, targets: Tensor, weights: Tensor, sigmas: Tensor, crop_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The object keypoint similarity of the pose in heatmaps, which the quality predictor learns.

    As in the released code, a keypoint is its heatmap's highest pixel, on both sides, and the person's area is the
    whole crop's. Unlike there, x is scaled by width and y by height (the released code has them swapped, which makes
    distances of a 4:3 crop wrong by a factor of 4/3).

    Args:
        heatmaps: [B, J, h, w].
        targets: [B, J, h, w].
        weights: [B, J]; keypoints of weight 0 don't count.
        sigmas: [J], the skeleton's OKS constants.
        crop_size: `(height, width)` in pixels.

    Returns:
        [B], float32, 0 to 1 (0 where nobody is labelled), and bool [B], whether anything is labelled.
    """
    with torch.no_grad():
        found, found_any = _peaks(heatmaps, crop_size)
        wanted, _ = _peaks(targets, crop_size)
        labelled = weights > 0
        squared = (found - wanted).square().sum(dim=-1)
        area = float(crop_size[0] * crop_size[1])
        similarity = torch.exp(-squared / (2.0 * area * (2.0 * sigmas).square()))
        similarity = torch.where(found_any & labelled, similarity, torch.zeros_like(similarity))
        count = labelled.sum(dim=1)
        return similarity.sum(dim=1) / count.clamp(min=1), count > 0


def quality_mse(quality: Tensor, oks: Tensor, labelled: Tensor) -> Tensor:
    """The mean over all crops [B] of (quality - OKS)²; crops without labels count as 0."""
    return torch.where(labelled, (quality.float() - oks).square(), torch.zeros_like(oks)).mean()


def _peaks(heatmaps: Tensor, crop_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """[B, J, 2], x and y of the highest pixels in crop pixels, and bool [B, J], whether it is above zero."""
    height, width = heatmaps.shape[-2:]
    value, index = heatmaps.float().flatten(2).max(dim=-1)
    x = (index % width) * ((crop_size[1] - 1.0) / (width - 1.0))
    y = torch.div(index, width, rounding_mode="floor") * ((crop_size[0] - 1.0) / (height - 1.0))
    return torch.stack([x, y], dim=-1), value > 0


DEFAULT_SIGMA = 2.0
"""Standard deviation in heatmap pixels of the released 256 x 192 recipes (384 x 288 uses 3)."""

_REACH = 3.0  # standard deviations at which a target is cut off


def heatmap_targets(
    keypoints: npt.NDArray[np.float32],
    crop_size: tuple[int, int],
    heatmap_size: tuple[int, int],
    sigma: float = DEFAULT_SIGMA,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Target heatmaps and their weights.

    The Gaussian is centred on the keypoint itself, between pixels, so that decoding it gives the keypoint back. It is
    cut off three standard deviations from the pixel nearest to the keypoint.

    Args:
        keypoints: float32 [J, 3], `x, y` in crop pixels and COCO visibility (0: not labelled).
        crop_size: `(height, width)` of the crop.
        heatmap_size: `(h, w)`.
        sigma: Standard deviation in heatmap pixels.

    Returns:
        float32 [J, h, w] and float32 [J]: weight 0 where the keypoint isn't labelled or lies too far outside, else 1.

    Raises:
        InputError: `keypoints` has another shape, or `sigma` isn't positive.
    """
    if keypoints.ndim != 2 or keypoints.shape[1] != 3:
        raise InputError(f"keypoints: expected shape [J, 3], got {list(keypoints.shape)}")
    if not sigma > 0:
        raise InputError(f"sigma: expected a positive number, got {sigma}")
    height, width = heatmap_size
    stride = np.array([(crop_size[1] - 1.0) / (width - 1.0), (crop_size[0] - 1.0) / (height - 1.0)])
    targets = np.zeros((len(keypoints), height, width), dtype=np.float32)
    weights = (keypoints[:, 2] > 0).astype(np.float32)
    reach = sigma * _REACH
    columns, rows = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    for joint, (x, y) in enumerate(keypoints[:, :2] / stride):
        near_x, near_y = np.trunc(x + 0.5), np.trunc(y + 0.5)
        # The released rule, its one pixel more on the left and top included: such a target is empty, but counts.
        far_before = near_x + reach + 1 < 0 or near_y + reach + 1 < 0
        outside = far_before or near_x - reach >= width or near_y - reach >= height
        if outside or not weights[joint]:
            weights[joint] = 0.0
            continue
        across = np.exp(-((columns - x) ** 2) / (2 * sigma**2)) * (np.abs(columns - near_x) <= reach)
        down = np.exp(-((rows - y) ** 2) / (2 * sigma**2)) * (np.abs(rows - near_y) <= reach)
        targets[joint] = np.outer(down, across)
    return targets, weights

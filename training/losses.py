"""What training minimises: heatmap errors of both stages and the error of the predicted quality."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["heatmap_cross_entropy", "heatmap_mse", "pose_oks", "quality_mse"]

_MIN_PEAK = 0.0  # a heatmap without a value above it has no peak


def heatmap_mse(heatmaps: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The paper's heatmap loss: the mean over joints of mean(weight * (heatmap - target)²), no factor of a half.

    The mean runs over all heatmaps, those of weight 0 too, so that the loss of a batch is the mean of its halves'
    losses: what makes several processes and accumulated batches equal to one large batch.

    Args:
        heatmaps: [B, J, h, w].
        targets: [B, J, h, w].
        weights: [B, J].

    Returns:
        A scalar, float32.
    """
    error = (heatmaps.float() - targets.float()).square().mean(dim=(2, 3))
    return (weights * error).mean()


def heatmap_cross_entropy(heatmaps: Tensor, targets: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between the softmax over pixels of `temperature * heatmap` and that of `temperature * target`.

    Its gradient doesn't fade where a heatmap is still flat, which is why it learns from few pictures. Because the
    target is put through the same softmax, a heatmap that equals its target but for a constant has the least loss:
    what is learnt is a heatmap, not a logit, and the constant is what `heatmap_mse` beside it is for.

    Args:
        heatmaps: [B, J, h, w].
        targets: [B, J, h, w].
        weights: [B, J].
        temperature: How sharply the highest pixels stand out.

    Returns:
        A scalar, float32: the mean over all heatmaps, those of weight 0 too; the least value it can have (the entropy
        of the target) is taken off, so that 0 is perfect.
    """
    predicted = temperature * heatmaps.float().flatten(2)
    with torch.no_grad():
        wanted = functional.log_softmax(temperature * targets.float().flatten(2), dim=-1)
        share = wanted.exp()
        least = (share * wanted).sum(dim=-1)
    # sum(share * log_softmax(predicted)), without writing the logarithms of all pixels down
    likelihood = torch.linalg.vecdot(share, predicted) - predicted.logsumexp(dim=-1)
    return (weights * (least - likelihood)).mean()


def pose_oks(
    heatmaps: Tensor, targets: Tensor, weights: Tensor, sigmas: Tensor, crop_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """How right the pose in some heatmaps is: the object keypoint similarity that the quality predictor learns.

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
    """The mean over all crops of (quality - OKS)²; crops without labels count as 0.

    Args:
        quality: [B].
        oks: [B].
        labelled: bool [B].
    """
    return torch.where(labelled, (quality.float() - oks).square(), torch.zeros_like(oks)).mean()


def _peaks(heatmaps: Tensor, crop_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """[B, J, 2], x and y of the highest pixels in crop pixels, and bool [B, J], whether it is above zero."""
    height, width = heatmaps.shape[-2:]
    value, index = heatmaps.float().flatten(2).max(dim=-1)
    x = (index % width) * ((crop_size[1] - 1.0) / (width - 1.0))
    y = torch.div(index, width, rounding_mode="floor") * ((crop_size[0] - 1.0) / (height - 1.0))
    return torch.stack([x, y], dim=-1), value > _MIN_PEAK

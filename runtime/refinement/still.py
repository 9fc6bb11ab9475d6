"""Who hasn't moved since they were refined, and what they keep of it. Pure functions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["carry_over", "iou_matrix", "keypoint_likeness", "pose_similarity"]

_SAME_PLACE = 0.5  # likeness of a keypoint that has stayed with its body


def keypoint_likeness(
    first: npt.NDArray[np.float32],
    second: npt.NDArray[np.float32],
    area: npt.NDArray[np.float32],
    sigmas: npt.NDArray[np.float32],
) -> npt.NDArray[np.float64]:
    """How close each keypoint is to where it was, as OKS measures it.

    Args:
        first: float32 [n, J, 3], `x, y, score`.
        second: float32 [n, J, 3].
        area: float32 [n], square pixels that the person covers.
        sigmas: float32 [J], the skeleton's OKS constants.

    Returns:
        float [n, J], 1 where it is the same place.
    """
    apart = np.square(first[..., :2].astype(np.float64) - second[..., :2]).sum(axis=-1)
    variance = np.square(2.0 * sigmas.astype(np.float64))
    likeness: npt.NDArray[np.float64] = np.exp(-apart / (2.0 * np.maximum(area, 1.0)[:, None] * variance))
    return likeness


def pose_similarity(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], likeness: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """How alike the poses of a person in two frames are: OKS of one against the other, keypoints weighted by score.

    Args:
        first: float32 [n, J, 3], `x, y, score`.
        second: float32 [n, J, 3].
        likeness: float [n, J], of their keypoints.

    Returns:
        float [n], 1 for equal poses; 0 where no keypoint has a score above 0.
    """
    weights = np.maximum(np.maximum(first[..., 2], second[..., 2]), 0.0).astype(np.float64)
    total = weights.sum(axis=1)
    similarity: npt.NDArray[np.float64] = (likeness * weights).sum(axis=1) / np.where(total > 0, total, 1.0)
    return similarity


def carry_over(
    coarse_then: npt.NDArray[np.float32],
    fine_then: npt.NDArray[np.float32],
    coarse_now: npt.NDArray[np.float32],
    likeness: npt.NDArray[np.float64],
) -> npt.NDArray[np.float32]:
    """The refined pose of then, moved as the coarse pose has moved since.

    The way of the coarse pose as a whole is what counts: its keypoints' own ways are mostly noise. One that went far
    by itself, as a hand does, is taken from the coarse pose of now.

    Args:
        coarse_then: float32 [J, 3], `x, y, score`.
        fine_then: float32 [J, 3].
        coarse_now: float32 [J, 3].
        likeness: float [J], of the coarse poses' keypoints.

    Returns:
        float32 [J, 3], with the scores of where each keypoint comes from.
    """
    stayed = likeness >= _SAME_PLACE
    carried: npt.NDArray[np.float32] = coarse_now.copy()
    if stayed.any():
        carried[stayed] = fine_then[stayed]
        carried[stayed, :2] += (coarse_now - coarse_then)[stayed, :2].mean(axis=0)
    return carried


def iou_matrix(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes [n, 4] with boxes [m, 4], `x1, y1, x2, y2`: float [n, m]; 0 for empty boxes."""
    a, b = first.astype(np.float64)[:, None], second.astype(np.float64)[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0.0, None)
    common = sides.prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - common
    matrix: npt.NDArray[np.float64] = common / np.where(union > 0, union, 1.0)
    return matrix

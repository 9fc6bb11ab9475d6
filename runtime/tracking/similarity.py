"""How alike tracks and detections are: overlap of boxes, nearness of boxes, likeness of poses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["box_iou", "box_nearness", "pose_oks"]

Floats = npt.NDArray[np.float64]
Boxes4 = npt.NDArray[np.float32]

_BODY_SHARE = 0.53  # of its box that a person covers, about; OKS is defined on the person's area
_MIN_KEYPOINTS = 4  # that both poses are sure of; fewer say nothing
_MIN_SIZE = 1.0  # pixels


def box_iou(boxes: Boxes4, others: Boxes4) -> Floats:
    """Intersection over union, float64 [n, m], of boxes [n, 4] and [m, 4]; 0 where both have no area."""
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(overlap, 0).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared
    iou: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def box_nearness(boxes: Boxes4, others: Boxes4) -> Floats:
    """float64 [n, m]: 1 for the same box, falling with the distance of centres, 0 at one box height, and with size.

    For people who moved farther between two frames than their boxes reach.
    """
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    size_a, size_b = (np.maximum(box[..., 2:] - box[..., :2], _MIN_SIZE) for box in (a, b))
    height = np.maximum(np.maximum(size_a[..., 1], size_b[..., 1]), np.maximum(size_a[..., 0], size_b[..., 0]))
    distance = np.linalg.norm((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2, axis=-1)
    alike = (np.minimum(size_a, size_b) / np.maximum(size_a, size_b)).min(axis=-1)
    nearness: Floats = np.maximum(1 - distance / height, 0) * np.sqrt(alike)
    return nearness


def pose_oks(
    poses: npt.NDArray[np.float32],
    others: npt.NDArray[np.float32],
    areas: Floats,
    sigmas: Floats,
    least_score: float,
) -> Floats:
    """Object keypoint similarity of k pairs of poses, over the keypoints that both are sure of.

    Args:
        poses: float32 [k, J, 3], x, y, score.
        others: float32 [k, J, 3].
        areas: float64 [k], of the boxes, mean of both.
        sigmas: float64 [J].
        least_score: A keypoint that scores less isn't sure.

    Returns:
        float64 [k], 0 to 1; NaN where fewer than four keypoints count.
    """
    a, b = poses.astype(np.float64), others.astype(np.float64)
    sure = (a[..., 2] >= least_score) & (b[..., 2] >= least_score)
    squares = ((a[..., :2] - b[..., :2]) ** 2).sum(axis=-1)
    area = np.maximum(_BODY_SHARE * areas, _MIN_SIZE)[:, None]
    likeness = np.where(sure, np.exp(-squares / (2 * area * (2 * sigmas) ** 2)), 0.0)
    count = sure.sum(axis=-1)
    return np.where(count >= _MIN_KEYPOINTS, likeness.sum(axis=-1) / np.maximum(count, 1), np.nan)

"""How alike boxes and poses are: IoU, OKS, and the suppression of near-equals by either. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "OKS_NMS_THRESHOLD",
    "box_iou",
    "box_nearness",
    "object_keypoint_similarity",
    "oks_nms",
    "pairwise_oks",
    "pose_oks",
    "suppress",
    "true_oks",
]


def suppress(
    xyxy: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], iou: float
) -> npt.NDArray[np.int64]:
    """Greedy suppression among boxes of the same label.

    Args:
        xyxy: float32 [n, 4], the boxes.
        scores: float32 [n].
        labels: int64 [n]; boxes of different labels leave each other alone.
        iou: A box that overlaps a better one by more than this is dropped.

    Returns:
        int64 [m], the indices that stay, best first; of equal scores the earlier one is better.
    """
    order = np.argsort(-scores, kind="stable")
    size = xyxy[:, 2:] - xyxy[:, :2]
    area = size[:, 0] * size[:, 1]
    kept: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        overlap = np.minimum(xyxy[rest, 2:], xyxy[best, 2:]) - np.maximum(xyxy[rest, :2], xyxy[best, :2])
        shared = np.prod(np.maximum(overlap, 0), axis=1)
        union = area[rest] + area[best] - shared
        # Multiplied out, so that boxes without area (union 0) need no special case.
        order = rest[(shared <= iou * union) | (labels[rest] != labels[best])]
    return np.array(kept, np.int64)


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


_EPSILON = np.spacing(1)  # keeps an area of 0 from dividing


def object_keypoint_similarity(
    keypoints: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float32],
    areas: npt.NDArray[np.float64],
    sigmas: Sequence[float],
) -> npt.NDArray[np.float64]:
    """How alike poses and labels are, 0 to 1, over the labelled keypoints.

    Args:
        keypoints: float32 [n, J, 2 or more], x and y.
        labels: float32 [n, J, 3], x, y and visibility.
        areas: float64 [n], of the labelled people, in the square of the keypoints' unit.
        sigmas: J constants.

    Returns:
        float64 [n]; NaN where nothing is labelled.
    """
    squares = ((keypoints[..., :2].astype(np.float64) - labels[..., :2]) ** 2).sum(axis=-1)
    variances = (2 * np.asarray(sigmas, np.float64)) ** 2
    likeness = np.exp(-squares / variances / (areas[:, None] + _EPSILON) / 2)
    labelled = labels[..., 2] > 0
    count = labelled.sum(axis=1)
    total = (likeness * labelled).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def pairwise_oks(
    pose: npt.NDArray[np.float32],
    others: npt.NDArray[np.float32],
    area: float,
    other_areas: npt.NDArray[np.float64],
    sigmas: Sequence[float],
) -> npt.NDArray[np.float64]:
    """How alike one pose [J, 2 or more] and others [m, J, 2 or more] are, over all keypoints: float64 [m].

    The area is the mean of both, as in the OKS-NMS of the field's tools.
    """
    labels = np.concatenate([pose[:, :2], np.ones((len(pose), 1), pose.dtype)], axis=1)
    return object_keypoint_similarity(others, labels[None], (area + other_areas) / 2, sigmas)


def true_oks(
    keypoints: npt.NDArray[np.float32],
    image_ids: npt.NDArray[np.int64],
    labels: npt.NDArray[np.float32],
    label_image_ids: npt.NDArray[np.int64],
    label_areas: npt.NDArray[np.float64],
    sigmas: Sequence[float],
) -> npt.NDArray[np.float64]:
    """The OKS of every pose [n, J, 2 or more] with the labelled person [m, J, 3] of its picture that it fits best.

    For poses in detected boxes, of which nobody has said whom they hold. NaN where a picture has no labels.
    """
    best = np.full(len(keypoints), np.nan)
    for row, image_id in enumerate(image_ids):
        of = np.flatnonzero(label_image_ids == image_id)
        if len(of):
            repeated = np.repeat(keypoints[row][None], len(of), axis=0)
            scores = object_keypoint_similarity(repeated, labels[of], label_areas[of], sigmas)
            if not np.isnan(scores).all():
                best[row] = np.nanmax(scores)
    return best


OKS_NMS_THRESHOLD = 0.9
"""Poses more alike than this are the same person's (released COCO evaluation)."""


def oks_nms(
    keypoints: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    areas: npt.NDArray[np.float64],
    sigmas: Sequence[float],
    threshold: float = OKS_NMS_THRESHOLD,
) -> npt.NDArray[np.int64]:
    """The poses of one picture that stay.

    Args:
        keypoints: float32 [n, J, 2 or more].
        scores: float32 [n].
        areas: float64 [n], of the crops' frames, in square pixels.
        sigmas: J constants.
        threshold: Poses more alike than this to one with a higher score go.

    Returns:
        int64 indices, best score first.
    """
    waiting = np.argsort(-scores, kind="stable")
    keep: list[int] = []
    while len(waiting):
        best, rest = int(waiting[0]), waiting[1:]
        keep.append(best)
        alike = pairwise_oks(keypoints[best], keypoints[rest], float(areas[best]), areas[rest], sigmas)
        waiting = rest[alike <= threshold]
    return np.array(keep, np.int64)

"""How alike boxes and poses are: IoU, OKS, and non-maximum suppression (NMS) by either. Torch-free.

Boxes are float32 [n, 4], `x1, y1, x2, y2`; poses [n, J, 2 or more], `x, y` first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Boxes = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Poses = npt.NDArray[np.float32]

BODY_SHARE = 0.53
"""The share of a box that its person covers, as COCO's tools take it where no area is labelled."""

OKS_NMS_THRESHOLD = 0.9
"""Poses more alike than this are the same person's (released COCO evaluation)."""

_MIN_SIZE = 1.0  # pixels, or square pixels
_NMS_BLOCK = 64  # boxes that are compared with those that stay at once


def body_area(boxes: Boxes) -> Floats:
    """float64 [n]: the square pixels that the people in boxes [n, 4] cover, about; at least 1."""
    area: Floats = np.maximum(BODY_SHARE * _sides(boxes).prod(axis=-1), _MIN_SIZE)
    return area


def box_iou(boxes: Boxes, others: Boxes) -> Floats:
    """Intersection over union, float64 [n, m], of boxes [n, 4] and [m, 4]; 0 where both have no area."""
    a, b = np.asarray(boxes, np.float64).T[:, :, None], np.asarray(others, np.float64).T[:, None]
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    iou: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def box_nearness(boxes: Boxes, others: Boxes) -> Floats:
    """float64 [n, m]: 1 for the same box, falling with the distance of centres, 0 at one box height, and with size.

    For people who moved farther between two frames than their boxes reach.
    """
    a, b = np.asarray(boxes, np.float64)[:, None], np.asarray(others, np.float64)[None]
    size_a, size_b = np.maximum(_sides(a), _MIN_SIZE), np.maximum(_sides(b), _MIN_SIZE)
    height = np.maximum(size_a.max(axis=-1), size_b.max(axis=-1))
    distance = np.linalg.norm((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2, axis=-1)
    alike = (np.minimum(size_a, size_b) / np.maximum(size_a, size_b)).min(axis=-1)
    nearness: Floats = np.maximum(1 - distance / height, 0) * np.sqrt(alike)
    return nearness


def _sides(boxes: npt.NDArray[np.floating]) -> Floats:
    """Width and height, float64 [..., 2]."""
    corners = np.asarray(boxes, np.float64)
    return corners[..., 2:] - corners[..., :2]


def keypoint_similarity(poses: Poses, others: Poses, areas: Floats, sigmas: Sequence[float] | Floats) -> Floats:
    """How close each keypoint is to the other pose's: exp(-d² / (2 · area · (2σ)²)), as in COCO's OKS.

    Args:
        poses: float32 [n, J, 2 or more].
        others: float32 [n, J, 2 or more], or [1, J, 2 or more].
        areas: float64 [n], that the people cover, in the square of the keypoints' unit.
        sigmas: The skeleton's J constants.

    Returns:
        float64 [n, J], 1 where it is the same place.
    """
    squares = ((poses[..., :2].astype(np.float64) - others[..., :2]) ** 2).sum(axis=-1)
    variances = (2 * np.asarray(sigmas, np.float64)) ** 2
    similarity: Floats = np.exp(-squares / variances / (areas[:, None] + np.spacing(1)) / 2)
    return similarity


def pose_oks(
    poses: Poses,
    others: Poses,
    areas: Floats,
    sigmas: Sequence[float] | Floats,
    weights: npt.NDArray[np.bool_] | npt.NDArray[np.floating],
) -> Floats:
    """Object keypoint similarity of n pairs of poses.

    Args:
        poses: float32 [n, J, 2 or more].
        others: float32 [n, J, 2 or more], or [1, J, 2 or more].
        areas: float64 [n], see `keypoint_similarity`.
        sigmas: The skeleton's J constants.
        weights: [n, J], weights of the keypoints, 0 or more; in COCO's OKS, whether they are labelled.

    Returns:
        float64 [n], 0 to 1; NaN where no keypoint counts.
    """
    similarity, counted = keypoint_similarity(poses, others, areas, sigmas), weights.astype(np.float64)
    total = counted.sum(axis=1)
    oks: Floats = np.where(total > 0, (similarity * counted).sum(axis=1) / np.where(total > 0, total, 1), np.nan)
    return oks


def box_nms(
    boxes: Boxes, scores: npt.NDArray[np.float32], iou: float, labels: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """Greedy suppression of overlapping boxes.

    Args:
        boxes: float32 [n, 4].
        scores: float32 [n].
        iou: A box that overlaps a better one by more than this is dropped.
        labels: int64 [n]; boxes of different labels leave each other alone. All alike if None.

    Returns:
        int64 [m], the indices that stay, best first; of equal scores the earlier one is better.
    """
    doubles = np.asarray(boxes, np.float64)

    def apart(better: Indices, worse: Indices) -> Bools:
        small: Bools = box_iou(doubles[better], doubles[worse]) <= iou
        return small if labels is None else small | (labels[better][:, None] != labels[worse])

    # Block by block: of thousands of candidates, a graph's low scores, a round for each would take seconds.
    order = np.argsort(-scores, kind="stable")
    kept: Indices = order[:0]
    for begin in range(0, len(order), _NMS_BLOCK):
        block = order[begin : begin + _NMS_BLOCK]
        block = block[apart(kept, block).all(axis=0)]
        beside, stays = apart(block, block), np.ones(len(block), np.bool_)
        for row in range(len(block)):
            if stays[row]:
                stays[row + 1 :] &= beside[row, row + 1 :]
        kept = np.concatenate([kept, block[stays]])
    return kept


def oks_nms(
    poses: Poses,
    scores: npt.NDArray[np.float32],
    areas: Floats,
    sigmas: Sequence[float],
    threshold: float = OKS_NMS_THRESHOLD,
) -> npt.NDArray[np.int64]:
    """Greedy suppression of the poses of one picture that are alike.

    As in the field's tools, all keypoints count, and the area is the mean of both people's.

    Args:
        poses: float32 [n, J, 2 or more].
        scores: float32 [n].
        areas: float64 [n], of the crops' frames, in square pixels.
        sigmas: J constants.
        threshold: A pose with a higher OKS than this to a better one is dropped.

    Returns:
        int64 [m], the indices that stay, best first; of equal scores the earlier one is better.
    """

    def stays(best: int, rest: Indices) -> Bools:
        every = np.ones((len(rest), poses.shape[1]), np.bool_)
        oks = pose_oks(poses[rest], poses[best : best + 1], (areas[best] + areas[rest]) / 2, sigmas, every)
        different: Bools = oks <= threshold
        return different

    waiting = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(waiting):
        best, rest = int(waiting[0]), waiting[1:]
        kept.append(best)
        waiting = rest[stays(best, rest)]
    return np.array(kept, np.int64)

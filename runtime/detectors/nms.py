"""Non-maximum suppression."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["suppress"]


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

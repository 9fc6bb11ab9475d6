"""OKS-NMS: of poses that are nearly the same, the best stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sharpose.training.evaluation.oks import pairwise_oks

__all__ = ["OKS_NMS_THRESHOLD", "oks_nms"]

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

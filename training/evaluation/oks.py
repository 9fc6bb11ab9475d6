"""Object keypoint similarity, as COCO defines it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["object_keypoint_similarity", "pairwise_oks", "true_oks"]

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

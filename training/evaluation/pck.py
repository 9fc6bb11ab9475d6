"""PCK and PCKh: the share of keypoints that lie close enough to their labels."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError
from sharpose.skeleton import Skeleton
from sharpose.training.evaluation.people import People

__all__ = ["PCKH_NOT_COUNTED", "PckUnit", "correct_keypoints", "pck", "pck_units", "pckh_by_joint"]

PckUnit = Literal["keypoint_diagonal", "box_diagonal", "box_side", "head"]

PCKH_NOT_COUNTED = ("pelvis", "thorax")
"""Keypoints that MPII's mean leaves out."""


def pck_units(people: People, unit: PckUnit) -> npt.NDArray[np.float64]:
    """The length in pixels that each person's distances are measured by: float64 [n]; NaN where it isn't known.

    Args:
        people: Labelled people.
        unit: `keypoint_diagonal`: of the box around the labelled keypoints; `box_diagonal`: of the person's box;
            `box_side`: its longer side (as MMPose normalises); `head`: PCKh's head size.
    """
    if unit == "head":
        return people.head_sizes
    if unit == "keypoint_diagonal":
        points = np.where(people.keypoints[:, :, 2:] > 0, people.keypoints[:, :, :2], np.nan).astype(np.float64)
        empty = np.isnan(points).all(axis=(1, 2))
        points[empty] = 0
        extent = np.nanmax(points, axis=1) - np.nanmin(points, axis=1)
        diagonal = np.hypot(extent[:, 0], extent[:, 1])
        return np.where(diagonal > 0, diagonal, np.nan)
    size = (people.boxes_xyxy[:, 2:] - people.boxes_xyxy[:, :2]).astype(np.float64)
    if unit == "box_diagonal":
        return np.hypot(size[:, 0], size[:, 1])
    if unit == "box_side":
        return np.asarray(size.max(axis=1), np.float64)
    raise InputError(f"PCK unit: expected one of {', '.join(get_args(PckUnit))}, got {unit!r}")


def correct_keypoints(
    keypoints: npt.NDArray[np.float32], people: People, unit: PckUnit, fraction: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which keypoints are close enough, and which count.

    Args:
        keypoints: float32 [n, J, 2 or more], picture pixels.
        people: The labels.
        unit: See `pck_units`.
        fraction: How many units away a keypoint may be, that far included.

    Returns:
        bool [n, J] each: correct, and counted (labelled, and of a person whose unit is known).
    """
    distance = np.linalg.norm(keypoints[..., :2].astype(np.float64) - people.keypoints[..., :2], axis=-1)
    units = pck_units(people, unit)[:, None]
    counted = (people.keypoints[..., 2] > 0) & np.isfinite(units)
    return counted & (distance <= fraction * np.nan_to_num(units)), counted


def pck(keypoints: npt.NDArray[np.float32], people: People, unit: PckUnit, fraction: float) -> float:
    """The share of all labelled keypoints that are correct, 0 to 1; NaN where there is none."""
    correct, counted = correct_keypoints(keypoints, people, unit, fraction)
    return float(correct.sum() / counted.sum()) if counted.any() else float("nan")


def pckh_by_joint(
    keypoints: npt.NDArray[np.float32], people: People, skeleton: Skeleton, fraction: float = 0.5
) -> dict[str, float]:
    """MPII's table: PCKh, 0 to 1, by body part, left and right averaged, and `mean` over counted keypoints."""
    correct, counted = correct_keypoints(keypoints, people, "head", fraction)
    rates = np.where(counted.any(axis=0), correct.sum(axis=0) / np.maximum(counted.sum(axis=0), 1), np.nan)
    table: dict[str, list[float]] = {}
    for name, rate in zip(skeleton.keypoints, rates, strict=True):
        if name not in (*PCKH_NOT_COUNTED, "upper_neck"):
            table.setdefault(name.removeprefix("left_").removeprefix("right_"), []).append(float(rate))
    in_mean = np.array([name not in PCKH_NOT_COUNTED for name in skeleton.keypoints])
    total = counted[:, in_mean].sum()
    mean = float(correct[:, in_mean].sum() / total) if total else float("nan")
    return {part: float(np.mean(values)) for part, values in table.items()} | {"mean": mean}

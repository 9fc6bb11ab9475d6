"""Joint angles in the plane of the picture, in degrees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError
from sharpose.skeleton import Skeleton

ANGLES: dict[str, tuple[str, ...]] = {
    "left_elbow": ("left_shoulder", "left_elbow", "left_wrist"),
    "right_elbow": ("right_shoulder", "right_elbow", "right_wrist"),
    "left_shoulder": ("left_hip", "left_shoulder", "left_elbow"),
    "right_shoulder": ("right_hip", "right_shoulder", "right_elbow"),
    "left_hip": ("left_shoulder", "left_hip", "left_knee"),
    "right_hip": ("right_shoulder", "right_hip", "right_knee"),
    "left_knee": ("left_hip", "left_knee", "left_ankle"),
    "right_knee": ("right_hip", "right_knee", "right_ankle"),
    "trunk_lean": ("hips", "shoulders"),
}
"""Each angle's keypoints by name.

Three keypoints are a joint: the angle at the second one between the directions to the first and to the third, 0 to 180;
180 is straight. Two are a line against the vertical, from the first to the second: 0 is upright, positive leans to the
right of the picture, negative to the left, 180 is upside down. `hips` and `shoulders` are the points midway.
"""

_MIDWAY = {"hips": ("left_hip", "right_hip"), "shoulders": ("left_shoulder", "right_shoulder")}


def angles_of(skeleton: Skeleton) -> tuple[str, ...]:
    """The names in `ANGLES` whose keypoints the skeleton has."""
    known = set(skeleton.keypoints)
    return tuple(
        name
        for name, points in ANGLES.items()
        if all(known.issuperset(_MIDWAY.get(point, (point,))) for point in points)
    )


def joint_angles(
    keypoints: npt.NDArray[np.float32],
    skeleton: Skeleton,
    keypoint_threshold: float = 0.3,
    sample_aspect_ratio: float = 1.0,
) -> dict[str, npt.NDArray[np.float32]]:
    """The joint angles of people.

    Args:
        keypoints: float32 [n, J, 3], `x, y` in picture pixels and score.
        skeleton: Names the J keypoints.
        keypoint_threshold: Lowest score of a keypoint that is used; a point midway has the lower of two scores.
        sample_aspect_ratio: Width of a pixel to its height; angles are those of the picture as a player shows it.

    Returns:
        float32 [n] in degrees for each name that `angles_of` gives, in its order; NaN where a keypoint scores below the
        threshold or isn't finite, or two that a direction needs are in the same place.

    Raises:
        InputError: the skeleton has another number of keypoints.
    """
    if keypoints.ndim != 3 or keypoints.shape[1:] != (skeleton.num_keypoints, 3):
        raise InputError(
            f"keypoints: expected shape [n, {skeleton.num_keypoints}, 3] of skeleton {skeleton.name!r}, "
            f"got {list(keypoints.shape)}"
        )
    used = np.isfinite(keypoints).all(axis=2) & (keypoints[:, :, 2] >= keypoint_threshold)
    known = np.where(used[:, :, None], keypoints[:, :, :2].astype(np.float64), np.nan)
    known[:, :, 0] *= sample_aspect_ratio

    def place(point: str) -> npt.NDArray[np.float64]:
        indices = [skeleton.keypoints.index(name) for name in _MIDWAY.get(point, (point,))]
        places: npt.NDArray[np.float64] = known[:, indices].mean(axis=1)
        return places

    found = {}
    for name in angles_of(skeleton):
        *others, last = (place(point) for point in ANGLES[name])
        if len(others) == 2:
            angle = np.abs(_turn(others[0] - others[1], last - others[1]))
        else:
            angle = _turn(np.array([0.0, -1.0]), last - others[0])  # y points down
        found[name] = angle.astype(np.float32)
    return found


def _turn(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Degrees from the first direction to the second, [n, 2] each, clockwise in the picture; NaN where one has none."""
    cross = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    dot = (first * second).sum(axis=-1)
    pointless = (first == 0).all(axis=-1) | (second == 0).all(axis=-1)
    return np.where(pointless, np.nan, np.degrees(np.arctan2(cross, dot)))

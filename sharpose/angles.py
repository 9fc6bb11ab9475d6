"""Joint and segment angles in the plane of the picture, in degrees. docs/biomechanics.md has them as a table.

Signs and zeros of flexions and segments are those of Sports2D (Pagnon and Kim, JOSS 2024).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError
from sharpose.skeleton import Skeleton, plain_name

Facing = Literal["auto", "right", "left"]
"""Where a person faces in the picture: `right`, `left`, or `auto`, as the feet say (`facing_of`)."""
FACINGS: tuple[Facing, ...] = get_args(Facing)

Line = tuple[str, str]
"""From a point to another, by name."""


@dataclass(frozen=True)
class Angle:
    """What an angle is.

    Attributes:
        kind: `joint`: the angle between two lines from one keypoint, 0 to 180. `lean`: a line against the vertical,
            -180 to 180, positive to the right of the picture. `flexion`: from the second line to the first, towards
            where the person faces. `segment`: a line against the horizontal, positive upwards, -180 to 180 from the
            direction in which the person faces.
        first: A line; points are keypoints, or as in `POINTS`.
        second: The other line of a joint or a flexion.
        zero: Degrees that are added.
        turn: Degrees after which a line counts as the same: 180 where its ends are of equal rank.
    """

    kind: Literal["joint", "lean", "flexion", "segment"]
    first: Line
    second: Line | None = None
    zero: float = 0.0
    turn: int = 360

    @property
    def points(self) -> tuple[str, ...]:
        """All of its points, each once."""
        return tuple(dict.fromkeys((*self.first, *(self.second or ()))))


POINTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "hips": (("left_hip", "right_hip"),),
    "shoulders": (("left_shoulder", "right_shoulder"),),
    "hip_centre": (("hip",), ("pelvis",), ("left_hip", "right_hip")),
    "neck_base": (("neck",), ("left_shoulder", "right_shoulder")),
    "head_end": (("head",), ("head_top",)),
}
"""Points that aren't keypoints of every skeleton: the first of these that it has, midway where two are named."""


def _both(
    name: str, kind: Literal["joint", "flexion", "segment"], first: Line, second: Line | None = None, zero: float = 0.0
) -> dict[str, Angle]:
    """An angle of the left and of the right, whose lines are named without the side."""

    def of_side(side: str, line: Line) -> Line:
        start, end = (point if point in POINTS else f"{side}_{point}" for point in line)
        return start, end

    return {
        f"{side}_{name}": Angle(kind, of_side(side, first), None if second is None else of_side(side, second), zero)
        for side in ("left", "right")
    }


_FOOT, _SHANK, _THIGH, _TRUNK = ("heel", "big_toe"), ("knee", "ankle"), ("hip", "knee"), ("neck_base", "hip_centre")
_ARM, _FOREARM = ("shoulder", "elbow"), ("elbow", "wrist")

ANGLES: dict[str, Angle] = {
    **_both("elbow", "joint", ("elbow", "shoulder"), _FOREARM),
    **_both("shoulder", "joint", ("shoulder", "hip"), _ARM),
    **_both("hip", "joint", ("hip", "shoulder"), _THIGH),
    **_both("knee", "joint", ("knee", "hip"), _SHANK),
    "trunk_lean": Angle("lean", ("hips", "shoulders")),
    **_both("ankle_dorsiflexion", "flexion", _FOOT, _SHANK, zero=-90.0),
    **_both("knee_flexion", "flexion", _THIGH, _SHANK),
    **_both("hip_flexion", "flexion", _THIGH, _TRUNK),
    **_both("shoulder_flexion", "flexion", _ARM, _TRUNK),
    **_both("elbow_flexion", "flexion", _FOREARM, _ARM),
    **_both("foot_segment", "segment", _FOOT),
    **_both("shank_segment", "segment", _SHANK),
    **_both("thigh_segment", "segment", _THIGH),
    **_both("arm_segment", "segment", _ARM),
    **_both("forearm_segment", "segment", _FOREARM),
    "pelvis_segment": Angle("segment", ("right_hip", "left_hip"), turn=180),
    "trunk_segment": Angle("segment", ("hip_centre", "neck_base")),
    "shoulders_segment": Angle("segment", ("right_shoulder", "left_shoulder"), turn=180),
    "head_segment": Angle("segment", ("neck_base", "head_end")),
}
"""All angles by name. A straight knee has a `left_knee` of 180 and a `left_knee_flexion` of 0."""

_FEET = tuple(f"{side}_{part}" for side in ("left", "right") for part in ("heel", "big_toe"))
_UP, _RIGHT = np.array([0.0, -1.0]), np.array([1.0, 0.0])  # y points down


def points_at(point: str, skeleton: Skeleton) -> list[int]:
    """Indices of the keypoints that a point is midway between; none where the skeleton hasn't got them.

    Keypoints are known by their plain names, so `LHip` is `left_hip`.
    """
    return list(_points_at(point, skeleton.keypoints))


@functools.lru_cache(maxsize=1024)  # asked for every frame
def _points_at(point: str, keypoints: tuple[str, ...]) -> tuple[int, ...]:
    plain = [plain_name(name) for name in keypoints]
    names = next((ways for ways in POINTS.get(point, ((point,),)) if set(ways) <= set(plain)), ())
    return tuple(plain.index(name) for name in names)


def angles_of(skeleton: Skeleton) -> tuple[str, ...]:
    """The names in `ANGLES` whose points the skeleton has."""
    return tuple(name for name, angle in ANGLES.items() if all(points_at(point, skeleton) for point in angle.points))


def has_feet(skeleton: Skeleton) -> bool:
    """Whether the skeleton tells where a person faces: it has a heel and a big toe of both feet."""
    return all(points_at(point, skeleton) for point in _FEET)


def joint_angles(
    keypoints: npt.NDArray[np.float32],
    skeleton: Skeleton,
    keypoint_threshold: float = 0.3,
    sample_aspect_ratio: float = 1.0,
    facing: Facing = "auto",
) -> dict[str, npt.NDArray[np.float32]]:
    """The angles of people, or of one person in several frames.

    Args:
        keypoints: float32 [n, J, 3], `x, y` in picture pixels, y down, and score.
        skeleton: Names the J keypoints.
        keypoint_threshold: Lowest score of a keypoint that is used; a point midway has the lower of two scores.
        sample_aspect_ratio: Width of a pixel to its height; angles are those of the picture as a player shows it.
        facing: Where they face; see `facing_of`.

    Returns:
        float32 [n] in degrees for each name that `angles_of` gives, in its order; NaN where a keypoint scores below the
        threshold or isn't finite, or two that a direction needs are in the same place. Flexions and segments, -180
        (included) to 180, or -90 to 90 for pelvis and shoulders, are NaN too where it isn't known where a person faces.

    Raises:
        InputError: the skeleton has another number of keypoints, or `facing` is none of `FACINGS`.
    """
    if keypoints.ndim != 3 or keypoints.shape[1:] != (skeleton.num_keypoints, 3):
        raise InputError(
            f"keypoints: expected shape [n, {skeleton.num_keypoints}, 3] of skeleton {skeleton.name!r}, "
            f"got {list(keypoints.shape)}"
        )
    used = np.isfinite(keypoints).all(axis=2) & (keypoints[:, :, 2] >= keypoint_threshold)
    known = np.where(used[:, :, None], keypoints[:, :, :2].astype(np.float64), np.nan)
    known[:, :, 0] *= sample_aspect_ratio
    side = facing_of(known, skeleton, facing)

    def direction(line: Line, *, faced: bool) -> npt.NDArray[np.float64]:
        start, end = (known[:, points_at(point, skeleton)].mean(axis=1) for point in line)
        found: npt.NDArray[np.float64] = end - start
        if faced:
            found[:, 0] *= side
        return found

    found = {}
    for name in angles_of(skeleton):
        angle = ANGLES[name]
        if angle.kind == "lean":
            value = _turn(_UP, direction(angle.first, faced=False))
        elif angle.kind == "segment":
            value = _turn(direction(angle.first, faced=True), _RIGHT)
        else:
            assert angle.second is not None
            faced = angle.kind == "flexion"
            value = _turn(direction(angle.first, faced=faced), direction(angle.second, faced=faced))
        if angle.kind == "joint":
            value = np.abs(value)
        elif angle.kind != "lean":
            half = angle.turn / 2
            value = (value + angle.zero + half) % angle.turn - half
        found[name] = value.astype(np.float32)
    return found


def facing_of(places: npt.NDArray[np.float64], skeleton: Skeleton, facing: Facing = "auto") -> npt.NDArray[np.float64]:
    """Where people face: 1 right, -1 left, NaN unknown; float64 [n].

    As in Sports2D, `auto` is right where the heels lie left of the big toes, both feet taken together; one foot alone
    where the other isn't known. A skeleton without feet can't tell, and `auto` is right.

    Args:
        places: float64 [n, J, 2], `x, y`; NaN where a keypoint isn't known.
        skeleton: Names the J keypoints.
        facing: `auto`, or where everybody faces.

    Raises:
        InputError: `facing` is none of `FACINGS`.
    """
    if facing not in FACINGS:
        raise InputError(f"facing: expected {', '.join(FACINGS[:-1])} or {FACINGS[-1]}, got {facing!r}")
    if facing != "auto" or not has_feet(skeleton):
        return np.full(len(places), -1.0 if facing == "left" else 1.0)
    x = {point: places[:, points_at(point, skeleton)[0], 0] for point in _FEET}
    feet = np.stack([x[f"{side}_big_toe"] - x[f"{side}_heel"] for side in ("left", "right")])
    sides = np.where(np.nansum(feet, axis=0) >= 0, 1.0, -1.0)
    return np.where(np.isnan(feet).all(axis=0), np.nan, sides)


def _turn(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Degrees from the first direction to the second, [n, 2] each, clockwise in the picture; NaN where one has none."""
    cross = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    dot = (first * second).sum(axis=-1)
    pointless = (first == 0).all(axis=-1) | (second == 0).all(axis=-1)
    return np.where(pointless, np.nan, np.degrees(np.arctan2(cross, dot)))

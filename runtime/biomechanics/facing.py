"""What is said where it isn't known which way people face, which flexions and segments need."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sharpose.angles import ANGLES, FACINGS, Facing, angles_of, has_feet
from sharpose.skeleton import Skeleton

_OF_FEET = ("left_foot_segment", "right_foot_segment")  # known where a heel and its big toe are


def note_of_facing(skeleton: Skeleton, facing: Facing) -> str | None:
    """A line about what is assumed where the skeleton doesn't tell where people face, and an angle depends on it."""
    depends = any(ANGLES[name].kind in ("flexion", "segment") for name in angles_of(skeleton))
    if facing != FACINGS[0] or has_feet(skeleton) or not depends:
        return None
    return (
        f"note: {skeleton.name} has no feet, so flexions and segments in --angles are those of people who face right; "
        "give --facing right or --facing left"
    )


class FeetSeen:
    """Whether feet were seen, where they tell which way people face.

    Args:
        skeleton: Of the poses.
        facing: As the user gave it.
    """

    def __init__(self, skeleton: Skeleton, facing: Facing) -> None:
        self._needed = facing == FACINGS[0] and has_feet(skeleton)
        self._feet = self._others = False

    def add(self, angles: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Count what `joint_angles` gave."""
        if self._needed and not self._feet:
            self._feet = any(bool(np.isfinite(angles[name]).any()) for name in _OF_FEET)
            self._others = self._others or any(bool(np.isfinite(angle).any()) for angle in angles.values())

    def warning(self, name: str) -> str | None:
        """A line about flexions and segments that are all empty for want of feet; `name` is the file's."""
        if self._feet or not self._others:
            return None
        return (
            f"{name}: feet were seen in no frame, so all flexions and segments are empty; --facing right or "
            "--facing left gives them"
        )

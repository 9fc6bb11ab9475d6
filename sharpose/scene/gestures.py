"""Standing and gesturing: poses as functions of time in seconds. Angles are degrees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sharpose.scene.body import Pose

__all__ = ["GESTURES", "flat_feet", "gesture", "standing"]


def flat_feet(pose: Pose) -> Pose:
    """Turn the ankles so that both soles stay level."""
    pose.ankles[:] = pose.trunk[0] - pose.limbs[2:, 0] + pose.limbs[2:, 3]
    return pose


def standing(time: float, sway: float) -> Pose:
    """Standing at ease; `sway` (seconds) shifts the idle motion in time."""
    pose = Pose()
    slow, slower = np.sin(1.3 * (time + sway)), np.sin(0.61 * (time + 2 * sway))
    pose.trunk[:] = (0, 1.8 * slower, 2 * slow, 2 + 0.8 * slow, -1.8 * slower, 2 * slower)
    pose.head[:] = (3 + 4 * slow, 16 * slower, 3 * slow)
    pose.limbs[:2] = (3 + 2 * slow, 9, 8, 14 + 3 * slower)
    pose.limbs[2:] = (2, 5, -8, 4)
    pose.limbs[2:, 3] += 3 * slower * np.array([1, -1]) + 3
    pose.limbs[2:, 0] += 1.5 * slower * np.array([1, -1]) + 1.5
    return flat_feet(pose)


def _wave(pose: Pose, time: float) -> None:
    beat = np.sin(2 * np.pi * 1.3 * time)
    pose.limbs[0] = (12, 82 + 4 * beat, -84, 92 + 28 * beat)
    pose.head[2] = -4
    pose.spread[0] = 1


def _high_wave(pose: Pose, time: float) -> None:
    beat = np.sin(2 * np.pi * 1.1 * time)
    pose.limbs[0] = (10, 148 + 14 * beat, -40, 22 + 12 * beat)
    pose.spread[0] = 1


def _hands_on_hips(pose: Pose, time: float) -> None:
    pose.limbs[:2] = (-16, 46, 72, 98)
    pose.trunk[5] += 5 * np.sin(0.9 * time)


def _hand_on_hip(pose: Pose, time: float) -> None:
    pose.limbs[0] = (-16, 46, 72, 98)
    pose.trunk[1] += 3 + np.sin(time)


def _arms_raised(pose: Pose, time: float) -> None:
    beat = np.sin(2 * np.pi * 0.8 * time)
    pose.limbs[:2] = (4, 148 + 9 * beat, -20, 18)
    pose.spread[:] = 1
    pose.head[0] = -8


def _arms_wide(pose: Pose, time: float) -> None:
    pose.limbs[:2] = (8, 88 + 6 * np.sin(2 * time), -10, 12)
    pose.spread[:] = 0.6


def _arms_crossed(pose: Pose, time: float) -> None:
    pose.limbs[0] = (30, 8, 72, 104 + np.sin(time))
    pose.limbs[1] = (34, 8, 74, 98)


def _phone_call(pose: Pose, time: float) -> None:
    pose.limbs[0] = (52, 48, -2, 146 + 2 * np.sin(time))
    pose.head[:] = (6, -12, 8)


def _reading_phone(pose: Pose, time: float) -> None:
    pose.limbs[:2] = (30, 4, 30, 98 + 2 * np.sin(1.7 * time))
    pose.head[:] = (27, 2 * np.sin(time), 0)
    pose.trunk[3] = 10


def _pointing(pose: Pose, time: float) -> None:
    pose.limbs[0] = (84 + 3 * np.sin(1.5 * time), 22, 0, 6)
    pose.head[1] = 14


def _pointing_aside(pose: Pose, time: float) -> None:
    pose.limbs[0] = (18, 92 + 4 * np.sin(1.5 * time), 0, 8)
    pose.head[1] = 42
    pose.trunk[5] += 8


def _clapping(pose: Pose, time: float) -> None:
    beat = np.sin(2 * np.pi * 1.8 * time)
    pose.limbs[:2] = (48, 4, 30 + 12 * beat, 80)
    pose.spread[:] = 0.4


def _pockets(pose: Pose, time: float) -> None:
    pose.limbs[:2] = (-8, 20, 22, 38 + np.sin(time))


def _thinking(pose: Pose, time: float) -> None:
    pose.limbs[0] = (52, 2, 32, 140 + 2 * np.sin(time))
    pose.limbs[1] = (26, 8, 72, 92)
    pose.head[:] = (10, 4, -6)


def _stretching(pose: Pose, time: float) -> None:
    bend = np.sin(2 * np.pi * 0.35 * time)
    pose.limbs[:2] = (0, 166, -10, 28)
    pose.trunk[4] = 20 * bend
    pose.trunk[1] = 4 * bend


def _talking(pose: Pose, time: float) -> None:
    beat, other = np.sin(2 * np.pi * 0.9 * time), np.sin(2 * np.pi * 0.6 * time + 1)
    pose.limbs[0] = (28 + 10 * beat, 18, 5 + 14 * other, 78 + 16 * other)
    pose.limbs[1] = (22 - 9 * other, 16, 4 - 12 * beat, 70 + 18 * beat)
    pose.spread[:] = 0.6


def _bending(pose: Pose, time: float) -> None:
    pose.trunk[0] = 46 + 4 * np.sin(time)
    pose.trunk[3] = 26
    pose.limbs[:2] = (70, 6, 10, 16)
    pose.limbs[2:, 0] = 56
    pose.limbs[2:, 3] = 22
    pose.head[0] = -14


_GESTURE_EDITS: dict[str, Callable[[Pose, float], None]] = {
    "wave": _wave,
    "high_wave": _high_wave,
    "hands_on_hips": _hands_on_hips,
    "hand_on_hip": _hand_on_hip,
    "arms_raised": _arms_raised,
    "arms_wide": _arms_wide,
    "arms_crossed": _arms_crossed,
    "phone_call": _phone_call,
    "reading_phone": _reading_phone,
    "pointing": _pointing,
    "pointing_aside": _pointing_aside,
    "clapping": _clapping,
    "pockets": _pockets,
    "thinking": _thinking,
    "stretching": _stretching,
    "talking": _talking,
    "bending": _bending,
}
GESTURES = ("idle", *_GESTURE_EDITS)
"""What a standing person can do; one-sided ones are done with the left arm, `Pose.mirrored` gives the right."""


def gesture(name: str, time: float, sway: float) -> Pose:
    """The standing pose of gesture `name` at `time`."""
    pose = standing(time, sway)
    if name != "idle":
        _GESTURE_EDITS[name](pose, time)
    return flat_feet(pose)

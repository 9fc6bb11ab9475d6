"""Exercises, dancing, sitting, and poses at random. Angles are degrees, times seconds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sharpose.scene.body import Pose
from sharpose.scene.camera import Array
from sharpose.scene.gestures import flat_feet, standing

__all__ = ["EXERCISES", "random_pose", "seated"]


def _squat(time: float, style: Array) -> Pose:
    deep = (0.5 - 0.5 * np.cos(2 * np.pi * 0.42 * time)) * (0.75 + 0.25 * style[0])
    pose = standing(time, 0.0)
    pose.trunk[0] = 30 * deep
    pose.limbs[2:] = (115 * deep, 8 + 14 * deep, -18 * deep, 108 * deep)
    pose.limbs[:2] = (6 + 100 * deep, 8, 4, 14)
    pose.head[:] = (-8 * deep, 0, 0)
    return flat_feet(pose)


def _lunge(time: float, style: Array) -> Pose:
    deep = (0.5 - 0.5 * np.cos(2 * np.pi * 0.38 * time)) * (0.8 + 0.2 * style[0])
    pose = standing(time, 0.0)
    pose.trunk[:] = (4 * deep, 0, 0, 0, 0, 0)
    pose.limbs[2] = (8 + 63 * deep, 4, 0, 6 + 66 * deep)
    pose.limbs[3] = (-6 - 20 * deep, 4, 0, 8 + 54 * deep)
    flat_feet(pose)
    pose.ankles[1] += (15 - pose.ankles[1]) * deep
    pose.limbs[:2] = (-16, 46, 72, 98)
    return pose


def _jumping_jack(time: float, style: Array) -> Pose:
    open_ = 0.5 - 0.5 * np.cos(2 * np.pi * 0.95 * time)
    pose = standing(time, 0.0)
    pose.trunk[:] = 0
    pose.head[:] = 0
    pose.limbs[:2] = (2, 12 + 148 * open_, -20 * open_, 14)
    pose.limbs[2:] = (3 + 5 * style[1], 3 + 20 * open_, -6, 8 + 8 * style[1])
    pose.lift = 5.0 * np.sin(np.pi * 1.9 * time) ** 2
    return flat_feet(pose)


def _dance(time: float, style: Array) -> Pose:
    beat = 2 * np.pi * (0.8 + 0.5 * style[0]) * time
    waves = np.sin(beat * np.array([1, 1, 0.5, 0.5, 1, 2, 0.5, 1]) + 6.3 * style[:8])
    pose = standing(time, 0.0)
    pose.trunk[:] = (4 + 3 * waves[5], 8 * waves[0], 16 * waves[2], 4, -9 * waves[0], -12 * waves[2])
    pose.head[:] = (4 * waves[5], 12 * waves[3], 7 * waves[1])
    pose.limbs[0] = (28 + 26 * waves[1], 50 + 36 * waves[2], -25 + 30 * waves[3], 72 + 36 * waves[4])
    pose.limbs[1] = (28 - 26 * waves[4], 50 + 36 * waves[3], -25 - 30 * waves[2], 72 - 36 * waves[1])
    dip = 12 + 8 * waves[5]
    pose.limbs[2:] = (dip, 8, -12, 2 * dip)
    pose.limbs[2:, 0] += 14 * np.maximum(0, waves[0] * np.array([1, -1]))
    pose.limbs[2:, 3] += 34 * np.maximum(0, waves[0] * np.array([1, -1]))
    pose.spread[:] = 0.5
    return flat_feet(pose)


def _kick(time: float, style: Array) -> Pose:
    up = (0.5 - 0.5 * np.cos(2 * np.pi * 0.5 * time)) ** 2
    pose = standing(time, 0.0)
    pose.trunk[0] = -8 * up
    pose.limbs[2] = (4 + (50 + 35 * style[0]) * up, 6, 0, 8 + 40 * (up - up * up) * 4 * 0.5)
    pose.limbs[:2] = (30, 24, 24, 100)
    pose.limbs[1, 0] -= 20 * up
    return flat_feet(pose)


EXERCISES: dict[str, Callable[[float, Array], Pose]] = {
    "squat": _squat,
    "lunge": _lunge,
    "jumping_jack": _jumping_jack,
    "dance": _dance,
    "kick": _kick,
}
"""Cyclic motions of (time, style [8] in 0..1)."""


def seated(time: float, style: Array) -> Pose:
    """Sitting upright or leaning forwards, by `style` [8] in 0..1; only the upper body moves, the feet stay."""
    pose = Pose()
    slow = np.sin(0.9 * time + 6.3 * style[0])
    forward = 30 * max(0.0, style[1] - 0.4)
    pose.trunk[:] = (-4 + 0.5 * forward, 0, 0, 6 + forward + 1.5 * slow, 2 * slow, 6 * np.sin(0.5 * time))
    pose.head[:] = (2 - 0.6 * forward + 3 * slow, 22 * np.sin(0.7 * time + 6.3 * style[2]), 0)
    pose.limbs[2:] = (86 + pose.trunk[0], 6 + 10 * style[3], 4, 84 + 10 * style[4])
    pose.limbs[3, 3] += 16 * (style[5] - 0.5)
    pose.limbs[:2] = (32 + 0.6 * forward, 8 + 8 * style[6], 16, 58)
    if style[7] > 0.6:
        pose.limbs[0] = (30 + 8 * slow, 14, 10 + 20 * np.sin(2.1 * time), 92 + 14 * np.sin(2.6 * time))
        pose.spread[0] = 0.7
    return flat_feet(pose)


def random_pose(rng: np.random.Generator) -> Pose:
    """Any pose within the joints' reach: for training samples, where variety counts more than sense."""
    pose = Pose()
    pose.trunk[:] = rng.normal((6, 0, 0, 8, 0, 0), (14, 6, 10, 12, 9, 14))
    pose.head[:] = rng.normal(0, (12, 24, 8))
    for arm in range(2):
        pose.limbs[arm] = (rng.uniform(-40, 150), rng.uniform(5, 120), rng.uniform(-80, 80), rng.uniform(2, 140))
    for leg in (2, 3):
        flexion = rng.triangular(-25, 10, 110)
        fold = rng.uniform(2, 25) + max(0.0, flexion) * rng.uniform(0.0, 1.25)
        pose.limbs[leg] = (flexion, abs(rng.normal(6, 10)), rng.normal(-8, 10), min(fold, 135.0))
    pose.ankles[:] = rng.normal(0, 12, 2)
    pose.spread[:] = rng.random(2)
    pose.lift = max(0.0, rng.normal(-4, 5))
    return pose

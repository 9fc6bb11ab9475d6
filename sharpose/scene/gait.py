"""Walking and running cycles. Angles are degrees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sharpose.scene.body import Pose
from sharpose.scene.camera import Array

__all__ = ["running", "walking"]


def _periodic(samples: Sequence[float]) -> Array:
    """Fourier coefficients of one cycle given at equal steps, so that it can be read smoothly at any phase."""
    return np.asarray(np.fft.rfft(samples)[:5] / len(samples)).view(np.float64)


def _at(coefficients: Array, phase: Array) -> Array:
    """The cycle's value at `phase` [n], where 1 is a whole cycle."""
    waves = coefficients.view(np.complex128)
    turns = np.exp(2j * np.pi * np.outer(phase, np.arange(len(waves))))
    return np.asarray((turns * waves * np.array([1.0, 2.0, 2.0, 2.0, 2.0])).sum(axis=1).real)


# One cycle of a leg from heel strike to heel strike, in tenths: the shape of textbook gait curves.
_WALK_HIP = _periodic([29, 26, 18, 8, 0, -8, -11, 4, 22, 31])
_WALK_KNEE = _periodic([4, 16, 17, 10, 6, 8, 32, 58, 48, 16])
_WALK_ANKLE = _periodic([0, -5, 4, 8, 11, 9, -14, -8, 2, 1])
_RUN_HIP = _periodic([34, 24, 9, -8, -22, -18, 2, 28, 46, 44])
_RUN_KNEE = _periodic([20, 38, 32, 18, 20, 58, 95, 100, 68, 28])
_RUN_ANKLE = _periodic([4, 14, 18, 0, -22, -18, -6, 0, 2, 3])


def walking(phase: float, vigour: float) -> Pose:
    """A walk at `phase` of its cycle (1: a whole one, left heel strikes at 0); `vigour` around 1 scales it."""
    pose = Pose()
    both = np.array([phase, phase + 0.5])
    swing = np.cos(2 * np.pi * both)
    pose.limbs[2:, 0] = 2 + vigour * (_at(_WALK_HIP, both) - 2)
    pose.limbs[2:, 1] = 1.0
    pose.limbs[2:, 2] = -5.0
    pose.limbs[2:, 3] = 3 + vigour * (_at(_WALK_KNEE, both) - 3)
    pose.ankles[:] = _at(_WALK_ANKLE, both)
    pose.limbs[:2, 0] = 2 - 23 * vigour * swing
    pose.limbs[:2, 1] = 8.0
    pose.limbs[:2, 2] = 8.0
    pose.limbs[:2, 3] = 20 - 12 * vigour * swing
    pose.trunk[:] = (3, 2.5 * swing[0], -4 * swing[0], 1, -2.5 * swing[0], 8 * vigour * swing[0])
    pose.head[:] = (-2, -4 * vigour * swing[0], 0)
    return pose


def running(phase: float, vigour: float) -> Pose:
    """A run at `phase` of its cycle; `vigour` around 1 scales it."""
    pose = Pose()
    both = np.array([phase, phase + 0.5])
    swing = np.cos(2 * np.pi * both)
    pose.limbs[2:, 0] = 10 + vigour * _at(_RUN_HIP, both)
    pose.limbs[2:, 3] = vigour * _at(_RUN_KNEE, both) + 2
    pose.ankles[:] = _at(_RUN_ANKLE, both)
    pose.limbs[:2, 0] = 0 - 42 * vigour * swing
    pose.limbs[:2, 1] = 14.0
    pose.limbs[:2, 2] = 22.0
    pose.limbs[:2, 3] = 88 - 14 * swing
    pose.trunk[:] = (9, 2 * swing[0], -7 * swing[0], 3, -2 * swing[0], 15 * vigour * swing[0])
    pose.head[:] = (-7, -7 * vigour * swing[0], 0)
    pose.lift = 4.5 * vigour * max(0.0, float(np.cos(4 * np.pi * (phase - 0.43)))) ** 2
    return pose

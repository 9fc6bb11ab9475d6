"""Who moves how: gaits, gestures and exercises, the paths of actors, and their joints in the world at any time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sharpose.scene.body import Body, Joints, Pose, solve
from sharpose.scene.canvas import Array


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
    pose.limbs[2:, 1:3] = (1.0, -5.0)
    pose.limbs[2:, 3] = 3 + vigour * (_at(_WALK_KNEE, both) - 3)
    pose.ankles[:] = _at(_WALK_ANKLE, both)
    pose.limbs[:2, 0] = 2 - 23 * vigour * swing
    pose.limbs[:2, 1:3] = 8.0
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
    pose.limbs[:2, 1:3] = (14.0, 22.0)
    pose.limbs[:2, 3] = 88 - 14 * swing
    pose.trunk[:] = (9, 2 * swing[0], -7 * swing[0], 3, -2 * swing[0], 15 * vigour * swing[0])
    pose.head[:] = (-7, -7 * vigour * swing[0], 0)
    pose.lift = 4.5 * vigour * max(0.0, float(np.cos(4 * np.pi * (phase - 0.43)))) ** 2
    return pose


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


GESTURES = (
    "idle", "wave", "high_wave", "hands_on_hips", "hand_on_hip", "arms_raised", "arms_wide", "arms_crossed",
    "phone_call", "reading_phone", "pointing", "pointing_aside", "clapping", "pockets", "thinking", "stretching",
    "talking", "bending",
)  # fmt: skip
"""What a standing person can do; one-sided ones are done with the left arm, `Pose.mirrored` gives the right."""


def gesture(name: str, time: float, sway: float) -> Pose:
    """The standing pose of gesture `name` at `time`."""
    pose = standing(time, sway)
    match name:
        case "wave":
            beat = np.sin(2 * np.pi * 1.3 * time)
            pose.limbs[0] = (12, 82 + 4 * beat, -84, 92 + 28 * beat)
            pose.head[2] = -4
            pose.spread[0] = 1
        case "high_wave":
            beat = np.sin(2 * np.pi * 1.1 * time)
            pose.limbs[0] = (10, 148 + 14 * beat, -40, 22 + 12 * beat)
            pose.spread[0] = 1
        case "hands_on_hips":
            pose.limbs[:2] = (-16, 46, 72, 98)
            pose.trunk[5] += 5 * np.sin(0.9 * time)
        case "hand_on_hip":
            pose.limbs[0] = (-16, 46, 72, 98)
            pose.trunk[1] += 3 + np.sin(time)
        case "arms_raised":
            beat = np.sin(2 * np.pi * 0.8 * time)
            pose.limbs[:2] = (4, 148 + 9 * beat, -20, 18)
            pose.spread[:] = 1
            pose.head[0] = -8
        case "arms_wide":
            pose.limbs[:2] = (8, 88 + 6 * np.sin(2 * time), -10, 12)
            pose.spread[:] = 0.6
        case "arms_crossed":
            pose.limbs[0] = (30, 8, 72, 104 + np.sin(time))
            pose.limbs[1] = (34, 8, 74, 98)
        case "phone_call":
            pose.limbs[0] = (52, 48, -2, 146 + 2 * np.sin(time))
            pose.head[:] = (6, -12, 8)
        case "reading_phone":
            pose.limbs[:2] = (30, 4, 30, 98 + 2 * np.sin(1.7 * time))
            pose.head[:] = (27, 2 * np.sin(time), 0)
            pose.trunk[3] = 10
        case "pointing":
            pose.limbs[0] = (84 + 3 * np.sin(1.5 * time), 22, 0, 6)
            pose.head[1] = 14
        case "pointing_aside":
            pose.limbs[0] = (18, 92 + 4 * np.sin(1.5 * time), 0, 8)
            pose.head[1] = 42
            pose.trunk[5] += 8
        case "clapping":
            beat = np.sin(2 * np.pi * 1.8 * time)
            pose.limbs[:2] = (48, 4, 30 + 12 * beat, 80)
            pose.spread[:] = 0.4
        case "pockets":
            pose.limbs[:2] = (-8, 20, 22, 38 + np.sin(time))
        case "thinking":
            pose.limbs[0] = (52, 2, 32, 140 + 2 * np.sin(time))
            pose.limbs[1] = (26, 8, 72, 92)
            pose.head[:] = (10, 4, -6)
        case "stretching":
            bend = np.sin(2 * np.pi * 0.35 * time)
            pose.limbs[:2] = (0, 166, -10, 28)
            pose.trunk[4] = 20 * bend
            pose.trunk[1] = 4 * bend
        case "talking":
            beat, other = np.sin(2 * np.pi * 0.9 * time), np.sin(2 * np.pi * 0.6 * time + 1)
            pose.limbs[0] = (28 + 10 * beat, 18, 5 + 14 * other, 78 + 16 * other)
            pose.limbs[1] = (22 - 9 * other, 16, 4 - 12 * beat, 70 + 18 * beat)
            pose.spread[:] = 0.6
        case "bending":
            pose.trunk[0] = 46 + 4 * np.sin(time)
            pose.trunk[3] = 26
            pose.limbs[:2] = (70, 6, 10, 16)
            pose.limbs[2:, 0] = 56
            pose.limbs[2:, 3] = 22
            pose.head[0] = -14
        case _ if name != "idle":
            raise KeyError(name)
    return flat_feet(pose)


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
    exercise.__name__[1:]: exercise for exercise in (_squat, _lunge, _jumping_jack, _dance, _kick)
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


_SLOT = 2.6
_BLEND = 0.8
_SOLE = 0.012


@dataclass(frozen=True)
class Path:
    """A closed way on the ground, walked at a constant speed."""

    points: Array  # [k, 2] world x, z in metres, the last equal to the first
    lengths: Array  # [k] metres walked at each point
    headings: Array  # [k, 2] unit direction of walking

    @classmethod
    def through(cls, points: Array) -> Path:
        """The path along `points` [k, 2], closed."""
        closed = np.concatenate([points, points[:1]])
        steps = np.diff(closed, axis=0)
        lengths = np.concatenate([[0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))])
        ahead = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
        ahead /= np.maximum(np.hypot(ahead[:, 0], ahead[:, 1]), 1e-9)[:, None]
        return cls(closed, lengths, np.concatenate([ahead, ahead[:1]]))

    def at(self, distance: float) -> tuple[Array, float]:
        """World x, z [2] and yaw in radians after `distance` metres."""
        along = distance % self.lengths[-1]
        x, z, dx, dz = (float(np.interp(along, self.lengths, column)) for column in (*self.points.T, *self.headings.T))
        return np.array([x, z]), float(np.arctan2(dx, dz))


def shuttle(start: Array, end: Array, turn: float) -> Path:
    """There and back between `start` and `end` (world x, z), turning on half circles of radius `turn` metres."""
    along = (end - start) / max(float(np.hypot(*(end - start))), 1e-6)
    across = np.array([-along[1], along[0]])
    arc = np.linspace(-np.pi / 2, np.pi / 2, 24)[:-1]
    cap = np.outer(np.cos(arc), along) * turn + np.outer(np.sin(arc), across) * turn
    line = np.linspace(0, 1, 40)[:-1, None]
    there = start - across * turn + line * (end - start)
    back = end + across * turn + line * (start - end)
    return Path.through(np.concatenate([there, end + cap, back, start - cap]))


def oval(center: Array, radius_x: float, radius_z: float, clockwise: bool) -> Path:
    """An ellipse on the ground around `center` (world x, z), radii in metres."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False) * (-1 if clockwise else 1)
    return Path.through(center + np.stack([radius_x * np.cos(angle), radius_z * np.sin(angle)], axis=1))


@lru_cache(maxsize=4096)
def _slot_gesture(seed: tuple[int, ...], slot: int) -> tuple[str, bool, float]:
    """Which gesture fills time slot `slot`, whether it is mirrored, and its start in its own time."""
    rng = np.random.default_rng([*seed, 77, slot + 1])
    name = GESTURES[int(rng.integers(1, len(GESTURES)))] if rng.random() < 0.86 else GESTURES[0]
    return name, bool(rng.random() < 0.5), float(rng.uniform(0, 10))


@dataclass(frozen=True)
class Actor:
    """What one person does over time."""

    seed: tuple[int, ...]  # numbers that start this person's random choices
    kind: str  # `walk`, `run`, `stand`, `sit`, `freeze` or an exercise's name
    body: Body  # their build
    spot: Array  # world x, z [2] where they stay; ignored on a path
    yaw: float  # which way they face there, radians; 0 is towards the camera
    turning: float  # radians a second that they turn on the spot
    path: Path | None  # where they walk, or None
    speed: float  # metres a second along it
    offset: float  # metres along the path, and seconds into the motion, at time 0
    vigour: float  # how large their steps are, around 1
    style: Array  # [8] numbers in 0..1 that make the motion their own
    habit: Array  # small constant angles added to every pose, degrees [Pose.SIZE]

    def joints(self, time: float) -> Joints:
        """Where the joints are at `time` seconds, in world metres."""
        pose = Pose(self._pose(time).vector + self.habit)
        if self.path is not None:
            spot, yaw = self.path.at(self.offset + self.speed * time)
            return self._grounded(solve(self.body, pose, yaw), pose.lift, spot, None)
        yaw = self.yaw + self.turning * time
        planted = None if self.kind == "freeze" else yaw
        return self._grounded(solve(self.body, pose, yaw), pose.lift, self.spot, planted)

    def _pose(self, time: float) -> Pose:
        own = time + self.offset
        if self.kind in ("walk", "run"):
            body, run = self.body, self.kind == "run"
            stride = (1.55 if run else 1.46) * (body.thigh + body.shank) * self.vigour
            stride *= 1.5 if run else 1.0
            phase = (self.offset + self.speed * time) / stride + float(self.style[0])
            return running(phase, self.vigour) if run else walking(phase, self.vigour)
        if self.kind == "sit":
            return seated(own, self.style)
        if self.kind == "freeze":
            return random_pose(np.random.default_rng([*self.seed, 99]))
        if self.kind in EXERCISES:
            return EXERCISES[self.kind](own, self.style)
        slot = int(np.floor(own / _SLOT))
        now = self._gesture(slot, own)
        into = own - slot * _SLOT
        if into >= _BLEND:
            return now
        share = min(max(into / _BLEND, 0.0), 1.0)
        return self._gesture(slot - 1, own).mix(now, share * share * (3 - 2 * share))

    def _gesture(self, slot: int, time: float) -> Pose:
        name, mirrored, start = _slot_gesture(self.seed, slot)
        pose = gesture(name, time + start, float(self.style[0]) * 9)
        return pose.mirrored() if mirrored else pose

    def _grounded(self, joints: Joints, lift: float, spot: Array, planted_yaw: float | None) -> Joints:
        """Set the lowest foot on the ground and, where `planted_yaw` is given, keep the feet where they stand."""
        soles = np.minimum(joints.heels[:, 1], joints.toes[:, 1])
        up = -float(soles.min()) + self.body.stature * (lift / 100) + _SOLE
        offset = np.array([spot[0], up, spot[1]])
        if planted_yaw is not None:
            bearing = np.exp(-(soles - soles.min()) / (0.02 * self.body.stature))
            bearing /= bearing.sum()
            left = np.array([np.cos(planted_yaw), -np.sin(planted_yaw)]) * self.body.hip_half
            home = np.stack([left, -left])
            offset[[0, 2]] += bearing @ (home - joints.ankles[:, [0, 2]]) if self.kind != "sit" else 0.0
        return joints.moved(offset)

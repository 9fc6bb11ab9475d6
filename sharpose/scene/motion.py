"""Who moves how: actors, their paths, and their joints in the world at any time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sharpose.scene.body import Body, Joints, Pose, solve
from sharpose.scene.camera import Array
from sharpose.scene.exercises import EXERCISES, random_pose, seated
from sharpose.scene.gait import running, walking
from sharpose.scene.gestures import GESTURES, gesture

__all__ = ["Actor", "Path", "oval", "shuttle"]

_SLOT = 2.6
_BLEND = 0.8
_SOLE = 0.012


@dataclass(frozen=True)
class Path:
    """A closed way on the ground, walked at a constant speed.

    Attributes:
        points: [k, 2] world x, z in metres, the last equal to the first.
        lengths: [k] metres walked at each point.
        headings: [k, 2] unit direction of walking.
    """

    points: Array
    lengths: Array
    headings: Array

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


def _smooth(share: float) -> float:
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)


@lru_cache(maxsize=4096)
def _slot_gesture(seed: tuple[int, ...], slot: int) -> tuple[str, bool, float]:
    """Which gesture fills time slot `slot`, whether it is mirrored, and its start in its own time."""
    rng = np.random.default_rng([*seed, 77, slot + 1])
    name = GESTURES[int(rng.integers(1, len(GESTURES)))] if rng.random() < 0.86 else GESTURES[0]
    return name, bool(rng.random() < 0.5), float(rng.uniform(0, 10))


@dataclass(frozen=True)
class Actor:
    """What one person does over time.

    Attributes:
        seed: Numbers that start this person's random choices.
        kind: `walk`, `run`, `stand`, `sit`, `freeze` or an exercise's name.
        body: Their build.
        spot: World x, z [2] where they stay; ignored on a path.
        yaw: Which way they face there, radians; 0 is towards the camera.
        turning: Radians a second that they turn on the spot.
        path: Where they walk, or None.
        speed: Metres a second along it.
        offset: Metres along the path, and seconds into the motion, at time 0.
        vigour: How large their steps are, around 1.
        style: [8] numbers in 0..1 that make the motion their own.
        habit: Small constant angles added to every pose, degrees [Pose.SIZE].
    """

    seed: tuple[int, ...]
    kind: str
    body: Body
    spot: Array
    yaw: float
    turning: float
    path: Path | None
    speed: float
    offset: float
    vigour: float
    style: Array
    habit: Array

    def joints(self, time: float) -> Joints:
        """Where the joints are at `time` seconds, in world metres."""
        pose = self._pose(time)
        pose = Pose(pose.vector + self.habit)
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
        return now if into >= _BLEND else self._gesture(slot - 1, own).mix(now, _smooth(into / _BLEND))

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

"""Bodies: proportions in metres, the angles of a pose, and where they put every joint."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sharpose.scene.canvas import Array, rot_x, rot_y, rot_z

_SIDES = np.array([1.0, -1.0])
_LIMB_SIDES = np.array([1.0, -1.0, 1.0, -1.0])


@dataclass(frozen=True)
class Body:
    """A person's build. Lengths are metres; `girth`, `belly` and `shape` are factors around 1."""

    stature: float  # height of the standing person, bare-headed
    head: float  # chin to top of the head
    neck: float  # base of the neck to the middle of the head
    trunk: float  # hip line to the base of the neck
    shoulder_half: float  # half the distance between the shoulder joints
    hip_half: float  # half the distance between the hip joints
    upper_arm: float  # shoulder to elbow
    forearm: float  # elbow to wrist
    hand: float  # wrist to fingertips
    thigh: float  # hip to knee
    shank: float  # knee to ankle
    ankle: float  # ankle above the ground
    foot: float  # heel to toes
    girth: float  # thickness of limbs and trunk
    belly: float  # thickness of the waist
    shape: float  # waist to hips: above 1 hourglass, below 1 straight
    child: bool  # whether this is a child


def sample_body(rng: np.random.Generator) -> Body:
    """A body of human proportions: one in six a child; slim, average and stocky adults."""
    child = bool(rng.random() < 0.16)
    stature = float(rng.uniform(1.05, 1.45) if child else np.clip(rng.normal(1.71, 0.09), 1.5, 1.97))
    girth = float(np.clip(rng.normal(1.0, 0.12), 0.8, 1.35))
    womanly = float(rng.random())
    leg = float(rng.normal(1.0, 0.025)) * (0.95 if child else 1.0)
    head = stature * (0.13 + max(0.0, 1.5 - stature) * 0.085)
    wide = 0.104 - 0.012 * womanly + 0.012 * (girth - 1.0)

    def part(share: float) -> float:
        return float(stature * share * rng.normal(1.0, 0.02))

    thigh, shank, ankle = part(0.24) * leg, part(0.236) * leg, 0.042 * stature
    neck = 0.016 * stature + head * 0.46
    trunk = stature - (thigh + shank + ankle) - neck - head * 0.5
    return Body(
        stature=stature,
        head=head,
        neck=neck,
        trunk=trunk,
        shoulder_half=part(wide),
        hip_half=part(0.050 + 0.004 * womanly),
        upper_arm=part(0.172),
        forearm=part(0.146),
        hand=part(0.1),
        thigh=thigh,
        shank=shank,
        ankle=ankle,
        foot=part(0.15),
        girth=girth * (1.06 if child else 1.0),
        belly=float(np.clip(rng.normal(girth, 0.1), 0.8, 1.5)),
        shape=float(0.94 + 0.12 * womanly),
        child=child,
    )


class Pose:
    """The angles of a pose, in degrees, as one vector so that poses can be mixed.

    Limbs are left arm, right arm, left leg, right leg; their angles are mirrored, so equal numbers look alike on both
    sides: flexion (forwards), abduction (sideways, away from the body), inward rotation, and the bend of elbow or knee.
    """

    __slots__ = ("vector",)
    SIZE = 30

    def __init__(self, vector: Array | None = None) -> None:
        self.vector: Array = np.zeros(self.SIZE) if vector is None else vector

    @property
    def trunk(self) -> Array:
        """[6]: pelvis lean forwards, roll, turn left; spine bend forwards, sideways, twist."""
        return self.vector[0:6]

    @property
    def head(self) -> Array:
        """[3]: nod, turn left, tilt."""
        return self.vector[6:9]

    @property
    def limbs(self) -> Array:
        """[4, 4]: limbs by (flexion, abduction, rotation, bend)."""
        return self.vector[9:25].reshape(4, 4)

    @property
    def ankles(self) -> Array:
        """[2]: toes up, left and right."""
        return self.vector[25:27]

    @property
    def lift(self) -> float:
        """Hundredths of the stature that the lowest foot is off the ground."""
        return float(self.vector[27])

    @lift.setter
    def lift(self, value: float) -> None:
        self.vector[27] = value

    @property
    def spread(self) -> Array:
        """[2]: how far the fingers are spread, 0 to 1, left and right."""
        return self.vector[28:30]

    def mix(self, other: Pose, share: float) -> Pose:
        """This pose moved by `share` (0 to 1) towards another."""
        return Pose(self.vector + (other.vector - self.vector) * share)

    def mirrored(self) -> Pose:
        """The same pose with left and right exchanged."""
        result = Pose(self.vector.copy())
        result.vector[[1, 2, 4, 5, 7, 8]] *= -1
        result.limbs[:] = self.limbs[[1, 0, 3, 2]]
        result.ankles[:] = self.ankles[::-1]
        result.spread[:] = self.spread[::-1]
        return result


@dataclass(frozen=True)
class Joints:
    """Where a posed body is: points [3], or left and right [2, 3]; frames have (left, up, forward) columns."""

    pelvis: Array
    waist: Array
    neck: Array
    head: Array
    shoulders: Array
    elbows: Array
    wrists: Array
    fingers: Array
    hips: Array
    knees: Array
    ankles: Array
    heels: Array
    toes: Array
    pelvis_frame: Array
    chest_frame: Array
    head_frame: Array
    forearm_frames: Array
    foot_frames: Array

    def moved(self, offset: Array) -> Joints:
        """All joints shifted by `offset` [3]."""
        points = {name: value + offset for name, value in vars(self).items() if "frame" not in name}
        return replace(self, **points)


def solve(body: Body, pose: Pose, yaw: float) -> Joints:
    """Joints of `body` in `pose`, the middle of the hips at the origin, facing `yaw` radians (0: the camera)."""
    angles = np.radians(pose.vector)
    lean, roll, turn, bend, side, twist = angles[0:6]
    pelvis_frame = rot_y(yaw + turn) @ rot_z(roll) @ rot_x(lean)
    chest_frame = pelvis_frame @ rot_x(bend) @ rot_z(side) @ rot_y(twist)
    head_frame = chest_frame @ rot_y(angles[7]) @ rot_x(angles[6]) @ rot_z(angles[8])

    flexion, abduction, rotation, fold = angles[9:25].reshape(4, 4).T
    swing = rot_z(_LIMB_SIDES * abduction) @ rot_x(-flexion) @ rot_y(-_LIMB_SIDES * rotation)
    parents = np.stack([chest_frame, chest_frame, pelvis_frame, pelvis_frame])
    upper = parents @ swing
    lower = upper @ rot_x(fold * np.array([-1.0, -1.0, 1.0, 1.0]))
    foot = lower[2:] @ rot_x(-angles[25:27])

    # The back bends along its whole length: the waist follows the pelvis and the chest half each.
    waist = pelvis_frame[:, 1] * (0.36 * body.trunk)
    neck = waist + (0.25 * pelvis_frame[:, 1] + 0.75 * chest_frame[:, 1]) * (0.64 * body.trunk)
    # Raised arms lift the shoulders.
    raised = np.clip((np.einsum("ni,i->n", -upper[:2, :, 1], chest_frame[:, 1]) + 0.2) / 1.2, 0.0, 1.0)
    shoulders = (
        neck
        - chest_frame[:, 1] * (0.128 * body.trunk - 0.11 * body.trunk * raised[:, None])
        + chest_frame[:, 0] * (_SIDES * body.shoulder_half * (1 - 0.12 * raised))[:, None]
    )
    hips = pelvis_frame[:, 0] * (_SIDES * body.hip_half)[:, None]
    elbows = shoulders - upper[:2, :, 1] * body.upper_arm
    wrists = elbows - lower[:2, :, 1] * body.forearm
    knees = hips - upper[2:, :, 1] * body.thigh
    ankles = knees - lower[2:, :, 1] * body.shank
    sole = ankles - foot[:, :, 1] * body.ankle
    head = neck + (0.45 * chest_frame[:, 1] + 0.55 * head_frame[:, 1] + 0.10 * head_frame[:, 2]) * body.neck
    fingers = wrists - lower[:2, :, 1] * body.hand
    heels, toes = sole - foot[:, :, 2] * (0.27 * body.foot), sole + foot[:, :, 2] * (0.73 * body.foot)
    points = np.zeros(3), waist, neck, head, shoulders, elbows, wrists, fingers, hips, knees, ankles, heels, toes
    return Joints(*points, pelvis_frame, chest_frame, head_frame, lower[:2], foot)

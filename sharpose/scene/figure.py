"""A person as rounded parts, projected and filled as lit, textured shapes, and the order in which they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from sharpose.scene.body import Body, Joints
from sharpose.scene.canvas import CIRCLE, Array, Camera, Canvas, unit
from sharpose.scene.looks import Light, Looks, Material

Links = tuple[tuple[int, int], ...]


@cache
def chain(count: int) -> Links:
    """Links that join each of `count` sections to the next."""
    return tuple((index, index + 1) for index in range(count - 1))


@dataclass
class Piece:
    """One part, ready to be drawn."""

    label: str  # which part of the body it is
    depth: float  # how far away its middle is, metres
    order: float  # sort key in metres; larger is drawn earlier
    bounds: tuple[float, float, float, float]  # picture x1, y1, x2, y2 that it spans
    outlines: npt.NDArray[np.float32]  # float32 [k, 16, 2], the picture outlines of its sections
    links: Links  # pairs of sections that are joined by their hull
    start: Array  # picture x, y [2] of the middle of the first section
    end: Array  # likewise of the last one
    material: Material  # what covers it
    facing: float  # which angle of a material that goes around the body faces the viewer

    def draw(self, canvas: Canvas, light: Light, owner: int) -> None:
        """Fill it on `canvas` and claim its pixels for `owner`."""
        axis = self.end - self.start
        length = float(np.hypot(axis[0], axis[1]))
        dx, dy = (float(axis[0] / length), float(axis[1] / length)) if length > 1e-3 else (0.0, 1.0)
        across = (dy, -dx)
        points = self.outlines.reshape(-1, 2)
        axes = (across[0], dx), (across[1], dy)
        turned = points @ np.array(axes, np.float32)
        (s0, a0), (s1, a1) = turned.min(axis=0).tolist(), turned.max(axis=0).tolist()
        texture = self.material.lit(light, across, self.facing)
        rows, columns = texture.shape[:2]
        per_column, per_row = (s1 - s0) / columns, (a1 - a0) / rows
        s0, a0 = s0 + 0.5 * per_column, a0 + 0.5 * per_row
        to_picture = np.array([(s * per_column, a * per_row, s * s0 + a * a0) for s, a in axes])
        canvas.textured(self.outlines, self.links, self.bounds, texture, to_picture, owner)


@dataclass
class _Plan:
    label: str
    first: int
    last: int
    rings: bool
    links: Links
    material: Material
    bias: float
    facing: float


class Parts:
    """Collects the parts of one person; projects them all at once."""

    def __init__(self) -> None:
        self._plans: list[_Plan] = []
        self._centers: list[Array] = []
        self._radii: list[Array] = []
        self._rings: list[Array] = []
        self._balls_so_far = 0
        self._rings_so_far = 0

    def balls(
        self, label: str, centers: Array, radii: Array, material: Material, bias: float, links: Links | None = None
    ) -> None:
        """A part through balls in metres, joined by `links` or each to the next; `bias` is added to its depth."""
        first = self._balls_so_far
        self._centers.append(centers)
        self._radii.append(radii)
        self._balls_so_far += len(centers)
        links = links or chain(len(centers))
        self._plans.append(_Plan(label, first, self._balls_so_far, False, links, material, bias, 0.0))

    def rings(
        self, label: str, centers: Array, left: Array, forward: Array, material: Material, bias: float, facing: float
    ) -> None:
        """A part through elliptic rings with half axes `left` and `forward` [k, 3]; `facing` as in `Piece`."""
        first = self._rings_so_far
        ring = CIRCLE[None, :, 0:1] * left[:, None, :] + CIRCLE[None, :, 1:2] * forward[:, None, :]
        self._rings.append(ring + centers[:, None, :])
        self._rings_so_far += len(centers)
        self._plans.append(_Plan(label, first, self._rings_so_far, True, chain(len(centers)), material, bias, facing))

    def project(self, camera: Camera) -> list[Piece]:
        """All parts as `camera` sees them, in the order they were added."""
        ball_xy, ball_depth = camera.project(np.concatenate(self._centers))
        radius = np.concatenate(self._radii) * camera.focal / ball_depth
        balls = (ball_xy[:, None, :] + radius[:, None, None] * CIRCLE).astype(np.float32)
        ring_points, ring_depth = camera.project(np.concatenate(self._rings))
        # Balls first, then rings.
        shift = len(balls)
        outlines = np.concatenate([balls, ring_points.astype(np.float32)])
        middles = np.concatenate([ball_xy, ring_points.mean(axis=1)])
        depths = np.concatenate([ball_depth, ring_depth.mean(axis=1)])
        low, high = outlines.min(axis=1).tolist(), outlines.max(axis=1).tolist()
        pieces = []
        for plan in self._plans:
            first, last = (plan.first + shift, plan.last + shift) if plan.rings else (plan.first, plan.last)
            (lefts, tops), (rights, bottoms) = zip(*low[first:last], strict=True), zip(*high[first:last], strict=True)
            depth = float(depths[first:last].sum()) / (last - first)
            bounds = min(lefts), min(tops), max(rights), max(bottoms)
            shape = outlines[first:last], plan.links, middles[first], middles[last - 1]
            pieces.append(Piece(plan.label, depth, depth + plan.bias, bounds, *shape, plan.material, plan.facing))
        return pieces


@dataclass(frozen=True)
class Layer:
    """One thing to draw."""

    depth: float  # how far away its middle is, metres
    order: float  # sort key among things that are not loose, metres; larger is drawn earlier
    bounds: tuple[float, float, float, float]  # picture x1, y1, x2, y2 that it spans
    loose: bool  # whether it may come anywhere between the others (arms), so that only true depths count
    index: int  # whatever the caller knows it by


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def painter_order(layers: Sequence[Layer]) -> list[int]:
    """Indices of `layers`, farthest first.

    Legs go under shirts whatever their depth, so trunk, legs and head have sort keys of their own. Arms are then put
    where they contradict the true depths of what they overlap least.
    """
    fixed = sorted((layer for layer in layers if not layer.loose), key=lambda layer: -layer.order)
    slots: list[tuple[int, float, int]] = []
    for arm in layers:
        if not arm.loose:
            continue
        # Cost of drawing it before everything, then moved past one thing after the other.
        gains = [other.depth - arm.order if _overlap(arm.bounds, other.bounds) else 0.0 for other in fixed]
        best, best_slot, total = 0.0, 0, 0.0
        for slot, gain in enumerate(gains, start=1):
            total += gain
            if total >= best:
                best, best_slot = total, slot
        slots.append((best_slot, -arm.order, arm.index))
    slots.sort()
    result: list[int] = []
    for slot in range(len(fixed) + 1):
        result += [index for at, _, index in slots if at == slot]
        if slot < len(fixed):
            result.append(fixed[slot].index)
    return result


_SIDE = ("left", "right")
LABELS = (
    "neck", "head", "hair", "torso", "pelvis", "skirt",
    "left_upper_arm", "left_forearm", "left_hand", "left_thigh", "left_shank", "left_foot",
    "right_upper_arm", "right_forearm", "right_hand", "right_thigh", "right_shank", "right_foot",
)  # fmt: skip
"""Names of the parts of a body, in the order of their labels on the canvas."""
ARMS = frozenset(label for label in LABELS if label.endswith(("arm", "hand")))


def _between(start: Array, end: Array, *shares: float) -> Array:
    """Points [k, 3] at `shares` of the way from `start` to `end`."""
    return start + np.array(shares)[:, None] * (end - start)


def figure(body: Body, looks: Looks, hair: Material, joints: Joints, camera: Camera) -> list[Piece]:
    """The parts of a person in picture coordinates, unsorted; of the head only the `hair` that falls behind it."""
    parts = Parts()
    _back_hair(parts, body, looks, joints, hair, camera)
    for side in range(2):
        _leg(parts, body, looks, joints, side)
    _trunk(parts, body, looks, joints, camera)
    for side in range(2):
        _arm(parts, body, looks, joints, side)
    return parts.project(camera)


def _facing(frame: Array, view: Array) -> float:
    """The angle around the body, from front to left, that faces the viewer."""
    return float(np.arctan2(view @ frame[:, 0], view @ frame[:, 2]))


def _trunk(parts: Parts, body: Body, looks: Looks, joints: Joints, camera: Camera) -> None:
    size = body.stature
    girth, belly = body.girth, body.belly
    pelvis, chest = joints.pelvis_frame, joints.chest_frame
    up, top = pelvis[:, 1], chest[:, 1]
    loose = 1.02 + 0.10 * looks.loose
    view = camera.towards(joints.waist)
    hips_wide = (0.098 + 0.5 * (body.hip_half / size - 0.052)) * size * girth * (0.5 + 0.5 * body.shape)
    waist_wide = 0.079 * size * (0.35 * girth + 0.65 * belly) * (1.55 - 0.55 * body.shape)
    chest_wide = max(0.094 * girth, 0.092) * size
    line_wide = body.shoulder_half * 0.98
    middle = 0.5 * (pelvis + chest)

    # Below the waist: trousers, shorts or skirt around the hips.
    middle_ring = joints.pelvis + up * (0.005 * size) - pelvis[:, 2] * (0.006 * size)
    centers = np.stack([joints.waist - up * (0.06 * size), middle_ring, joints.pelvis - up * (0.04 * size)])
    wide = np.array([0.95 * waist_wide, hips_wide, 0.86 * hips_wide])
    deep = np.array([0.061 * size * belly, 0.066 * size * girth, 0.05 * size * girth])
    left, forward = wide[:, None] * pelvis[:, 0], deep[:, None] * pelvis[:, 2]
    parts.rings("pelvis", centers, left, forward, looks.waist, 0.06 * size, _facing(pelvis, view))
    if looks.bottom == "skirt":
        _skirt(parts, body, looks, joints, hips_wide, view)

    neck, waist = joints.neck, joints.waist
    rise = neck - waist
    hem = joints.pelvis + up * (0.012 * size) if looks.top != "dress" else joints.pelvis - up * (0.01 * size)
    bust = 0.012 * size * max(0.0, body.shape - 0.98) / 0.08
    centers = np.stack(
        [
            neck - chest[:, 2] * (0.008 * size),
            waist + 0.86 * rise - chest[:, 2] * (0.004 * size),
            waist + 0.55 * rise + chest[:, 2] * bust,
            waist + 0.2 * rise,
            waist - 0.25 * (waist - hem) + middle[:, 2] * (0.03 * size * max(0.0, belly - 1.0)),
            hem,
        ]
    )
    ribs_wide, bust_deep = 0.5 * (chest_wide + waist_wide), 0.066 * girth + 0.4 * bust / size
    wide = loose * np.array([0.05 * size, line_wide, chest_wide, ribs_wide, waist_wide, hips_wide])
    deep = size * np.array([0.04, 0.052 * girth, bust_deep, 0.062 * belly, 0.063 * belly, 0.067 * girth])
    if looks.top == "tank":
        wide[1] *= 0.86
    frames = np.stack([chest, chest, chest, middle, middle, pelvis])
    left = wide[:, None] * unit(frames[:, :, 0])
    forward = (loose * deep)[:, None] * unit(frames[:, :, 2])
    # Texture rows run from the neck down.
    parts.rings("torso", centers, left, forward, looks.trunk, 0.0, _facing(middle, view))

    throat = joints.head - joints.head_frame[:, 1] * (0.26 * body.head) - joints.head_frame[:, 2] * (0.08 * body.head)
    radius = 0.0285 * size * (0.6 + 0.4 * girth) * (0.9 if body.child else 1.0)
    collar = joints.neck + top * (0.006 * size)
    # A collar covers the neck from behind.
    bias = -0.03 * size if chest[:, 2] @ view > -0.15 else 0.05 * size
    ends = _between(collar - top * 0.03 * size, throat, 0, 1)
    parts.balls("neck", ends, np.array([1.12, 1.0]) * radius, looks.skin_cover, bias)


def _skirt(parts: Parts, body: Body, looks: Looks, joints: Joints, hips_wide: float, view: Array) -> None:
    size = body.stature
    pelvis = joints.pelvis_frame
    ends = joints.hips + looks.hem * (joints.knees - joints.hips)
    middle = ends.mean(axis=0)
    spread = ends[0] - ends[1]
    sideways = np.abs(spread @ pelvis[:, 0]) / 2 + 0.075 * size
    down = unit(joints.pelvis - middle)
    ahead = unit(pelvis[:, 2] - (pelvis[:, 2] @ down) * down)
    lengthways = np.abs(spread @ ahead) / 2 + 0.07 * size
    centers = np.stack([joints.pelvis + pelvis[:, 1] * (0.05 * size), joints.pelvis, middle])
    left = np.array([0.86 * hips_wide, 1.03 * hips_wide, sideways])[:, None] * pelvis[:, 0]
    forward = np.stack([pelvis[:, 2] * 0.06 * size, pelvis[:, 2] * 0.07 * size, ahead * lengthways])
    # Just before the thighs, whichever is nearer.
    knees_near = float((((joints.knees + joints.hips) / 2 - joints.pelvis) @ view).max())
    own = float(((middle - joints.pelvis) @ view) * 0.5)
    bias = min(0.095 * size - knees_near, 0.06 * size) + own - 0.02 * size
    parts.rings("skirt", centers, left, forward, looks.waist, bias, _facing(pelvis, view))


def _leg(parts: Parts, body: Body, looks: Looks, joints: Joints, side: int) -> None:
    size, girth = body.stature, body.girth
    name = _SIDE[side]
    hip, knee, ankle = joints.hips[side], joints.knees[side], joints.ankles[side]
    heel, toe = joints.heels[side], joints.toes[side]
    behind = -joints.pelvis_frame[:, 2]
    down = unit(ankle - knee)
    behind = unit(behind - (behind @ down) * down)
    covered = looks.bottom in ("trousers", "leggings")
    loose = 1 + (0.05 + 0.22 * looks.loose if looks.bottom == "trousers" else 0.03) * covered
    thigh = np.array([0.05, 0.051, 0.044, 0.033]) * size * girth * np.array([1, 1, 1 + 0.4 * (loose - 1), loose])
    shin = np.array([0.033 * loose, 0.037 * loose, 0.028 * (2 * loose - 1), 0.021 * (2.6 * loose - 1.6)]) * size * girth
    cover = looks.legs if covered else looks.skin_cover
    calf = _between(knee, ankle, 0, 0.28, 0.65, 0.97)
    calf += behind * np.array([0.0, 0.010, 0.005, 0.0])[:, None] * size
    if looks.bottom == "shorts":
        hem = min(looks.hem, 0.92)
        wide = np.array([0.052, 0.054, 0.049 - 0.008 * (hem - 0.5)]) * size * girth * (1.02 + 0.12 * looks.loose)
        bare = _between(hip, knee, min(hem + 0.08, 0.94), 0.5 * hem + 0.5, 1)
        parts.balls(f"{name}_thigh", bare, thigh[1:] * np.array([0.92, 1, 1]), cover, 0.102 * size)
        parts.balls(f"{name}_thigh", _between(hip, knee, -0.03, 0.3, hem), wide, looks.legs, 0.085 * size)
    else:
        parts.balls(f"{name}_thigh", _between(hip, knee, -0.03, 0.25, 0.62, 1), thigh, cover, 0.095 * size)
    parts.balls(f"{name}_shank", calf, shin, cover, 0.085 * size)
    if not covered:
        sock = _between(knee, ankle, 0.84, 1.0)
        parts.balls(f"{name}_shank", sock, np.array([0.0255, 0.0235]) * size * girth, looks.sock, 0.082 * size)
    frame = joints.foot_frames[side]
    sole_up = frame[:, 1]
    sole = np.stack([heel, 0.45 * heel + 0.55 * toe, toe - 0.1 * (toe - heel)]) + sole_up * (0.020 * size)
    upper = np.stack([ankle - sole_up * (0.012 * size), 0.5 * (heel + toe) + sole_up * (0.026 * size)])
    radii = np.array([0.024, 0.025, 0.019, 0.027, 0.021]) * size
    shape = np.concatenate([sole, upper])[[3, 0, 4, 1, 2]]
    # From the ankle to the heel, over the instep to the toes, and along the sole.
    links = ((0, 1), (0, 2), (2, 4), (1, 3), (3, 4), (0, 3))
    parts.balls(f"{name}_foot", shape, radii[[3, 0, 4, 1, 2]], looks.shoe, 0.08 * size, links)


def _arm(parts: Parts, body: Body, looks: Looks, joints: Joints, side: int) -> None:
    size, girth = body.stature, body.girth
    name = _SIDE[side]
    shoulder, elbow, wrist = joints.shoulders[side], joints.elbows[side], joints.wrists[side]
    long = looks.top in ("long", "jacket") or (looks.top == "dress" and looks.loose > 0.75)
    thick = 0.55 * girth + 0.45
    loose = (1.06 + 0.2 * looks.loose) if long else 1.0
    upper = np.array([0.030, 0.031, 0.027, 0.0235]) * size * thick * loose
    lower = np.array([0.0235, 0.0255, 0.0205, 0.0165]) * size * thick * (1 + 0.9 * (loose - 1))
    cover = looks.sleeve if long else looks.skin_cover
    if long or looks.top == "tank":
        parts.balls(f"{name}_upper_arm", _between(shoulder, elbow, 0.03, 0.35, 0.7, 1), upper, cover, -0.02 * size)
    else:
        sleeve = np.array([0.031, 0.033, 0.0335]) * size * thick * (1 + 0.10 * looks.loose)
        parts.balls(f"{name}_upper_arm", _between(shoulder, elbow, 0.4, 0.7, 1), upper[1:], cover, -0.02 * size)
        covered = _between(shoulder, elbow, 0.03, 0.3, 0.56)
        parts.balls(f"{name}_upper_arm", covered, sleeve, looks.sleeve, -0.022 * size)
    parts.balls(f"{name}_forearm", _between(elbow, wrist, 0, 0.28, 0.7, 0.99), lower, cover, -0.03 * size)
    _hand(parts, body, looks, joints, side)


def _hand(parts: Parts, body: Body, looks: Looks, joints: Joints, side: int) -> None:
    size = body.hand
    name = _SIDE[side]
    frame = joints.forearm_frames[side]
    along, forward = -frame[:, 1], frame[:, 2]
    palm_side = frame[:, 0] * (1.0, -1.0)[side]
    wrist = joints.wrists[side]
    palm = wrist + along * (0.28 * size)
    knuckles = wrist + along * (0.52 * size)
    thumb = palm + forward * (0.3 * size) + along * (0.16 * size)
    tips = joints.fingers[side] - palm_side * (0.1 * size)
    shifts = np.array([-0.13, 0.0, 0.13])[:, None] * size
    fingers = np.concatenate([knuckles + forward * shifts, tips + forward * (1.15 * shifts)])
    centers = np.concatenate([np.stack([wrist, palm, knuckles, palm + forward * (0.1 * size), thumb]), fingers])
    radii = np.array([0.17, 0.215, 0.2, 0.1, 0.075, 0.095, 0.095, 0.095, 0.075, 0.075, 0.075]) * size
    links = ((0, 1), (1, 2), (3, 4), (5, 8), (6, 9), (7, 10))
    parts.balls(f"{name}_hand", centers, radii, looks.skin_cover, -0.033 * body.stature, links)


# In head heights (chin to top): left, up and forward from the middle of the head, and the radius.
_BACK_HAIR: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "long": ((0, 0.0, -0.14, 0.38), (0, -0.45, -0.2, 0.36), (0, -0.95, -0.22, 0.25)),
    "bob": ((0, 0.0, -0.1, 0.39), (0, -0.36, -0.1, 0.35)),
    "ponytail": ((0, 0.2, -0.44, 0.11), (0, -0.05, -0.6, 0.13), (0, -0.6, -0.56, 0.06)),
    "bun": ((0, 0.34, -0.36, 0.17), (0, 0.38, -0.42, 0.17)),
}


def _back_hair(parts: Parts, body: Body, looks: Looks, joints: Joints, material: Material, camera: Camera) -> None:
    """The hair that falls behind the head."""
    if looks.hair_style not in _BACK_HAIR:
        return
    table = np.array(_BACK_HAIR[looks.hair_style])
    centers = joints.head + body.head * table[:, :3] @ joints.head_frame.T
    # From behind it comes after the head, else before it.
    bias = -0.16 if camera.towards(joints.head) @ joints.head_frame[:, 2] < -0.2 else 0.01
    parts.balls("hair", centers, table[:, 3] * body.head, material, bias * body.stature)

"""From joints to the rounded parts of a dressed body (all but the head)."""

from __future__ import annotations

import numpy as np

from sharpose.scene.body import Body, Joints
from sharpose.scene.canvas import Array, Camera, unit
from sharpose.scene.head import add_back_hair
from sharpose.scene.looks import Looks, Material
from sharpose.scene.parts import Parts, Piece

__all__ = ["ARMS", "LABELS", "figure"]

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
    add_back_hair(parts, body, looks, joints, hair, camera)
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
    centers = np.stack(
        [
            joints.waist - up * (0.06 * size),
            joints.pelvis + up * (0.005 * size) - pelvis[:, 2] * (0.006 * size),
            joints.pelvis - up * (0.04 * size),
        ]
    )
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
    wide = loose * np.array(
        [0.05 * size, line_wide, chest_wide, 0.5 * (chest_wide + waist_wide), waist_wide, hips_wide]
    )
    deep = size * np.array(
        [0.04, 0.052 * girth, 0.066 * girth + 0.4 * bust / size, 0.062 * belly, 0.063 * belly, 0.067 * girth]
    )
    if looks.top == "tank":
        wide[1] *= 0.86
    frames = np.stack([chest, chest, chest, middle, middle, pelvis])
    left = (wide)[:, None] * unit(frames[:, :, 0])
    forward = (loose * deep)[:, None] * unit(frames[:, :, 2])
    # Texture rows run from the neck down.
    parts.rings("torso", centers, left, forward, looks.trunk, 0.0, _facing(middle, view))

    throat = joints.head - joints.head_frame[:, 1] * (0.26 * body.head) - joints.head_frame[:, 2] * (0.08 * body.head)
    radius = 0.0285 * size * (0.6 + 0.4 * girth) * (0.9 if body.child else 1.0)
    collar = joints.neck + top * (0.006 * size)
    # A collar covers the neck from behind.
    bias = -0.03 * size if chest[:, 2] @ view > -0.15 else 0.05 * size
    parts.balls(
        "neck",
        _between(collar - top * 0.03 * size, throat, 0, 1),
        np.array([1.12, 1.0]) * radius,
        looks.skin_cover,
        bias,
    )


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
        parts.balls(
            f"{name}_upper_arm", _between(shoulder, elbow, 0.03, 0.3, 0.56), sleeve, looks.sleeve, -0.022 * size
        )
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

"""Heads: skull, hair and hats around a face."""

from __future__ import annotations

import numpy as np

from sharpose.scene.body import Body, Joints
from sharpose.scene.camera import Array, Camera
from sharpose.scene.canvas import Canvas, Color
from sharpose.scene.cloth import Material, mixed
from sharpose.scene.face import draw_ears, draw_features, draw_glasses, draw_nose
from sharpose.scene.headview import SKULL, Ellipsoid, HeadView, hull
from sharpose.scene.outfit import Looks
from sharpose.scene.parts import CIRCLE, Parts

__all__ = ["EAR_COVERING", "add_back_hair", "draw_head"]

# All below is in head heights (chin to top), as (left, up, forward) from the middle of the head.
_JAW = np.array(
    [(0.0, -0.365, 0.2), (0.15, -0.21, 0.06), (-0.15, -0.21, 0.06), (0.2, -0.03, 0.17), (-0.2, -0.03, 0.17)]
)
_JAW_RADII = np.array([0.135, 0.11, 0.11, 0.11, 0.11])

# Outlines on the skull: azimuth from the face and elevation, in degrees, for one side; the other is its mirror image.
# The face shows through the hair; patches stay within the front half of the head.
_FACES: dict[str, tuple[tuple[float, float], ...]] = {
    "short": ((0, 46), (28, 43), (42, 34), (52, 14), (60, -2), (74, -10), (84, -14), (86, -40), (60, -70), (0, -80)),
    "crop": ((0, 54), (28, 50), (44, 40), (55, 20), (64, 4), (76, -4), (86, -10), (86, -40), (60, -70), (0, -80)),
    "long": ((0, 52), (22, 46), (42, 30), (56, 2), (62, -30), (64, -58), (40, -74), (0, -80)),
}
_FACES["curly"] = _FACES["ponytail"] = _FACES["bun"] = _FACES["short"]
_FACES["bob"] = _FACES["long"]
_BEARD = ((0, -24), (22, -25), (44, -32), (62, -22), (76, 2), (86, -6), (84, -40), (60, -66), (0, -78))
# Hats cover all above these.
_BRIMS = {"cap": ((0, 24), (60, 20), (120, 10), (180, 4)), "beanie": ((0, 28), (90, 14), (180, 0))}
_BRIMS["sunhat"] = ((0, 20), (180, 14))

EAR_COVERING = frozenset({"bob"})
"""Hair styles under which the ears don't show."""
_HAIR_CENTER = (0.0, 0.115, -0.045)
_HAIR_AXES = {
    "short": (0.365, 0.425, 0.425),
    "crop": (0.352, 0.395, 0.40),
    "curly": (0.42, 0.48, 0.47),
    "ponytail": (0.355, 0.405, 0.415),
    "bun": (0.355, 0.405, 0.415),
    "bob": (0.40, 0.43, 0.44),
    "long": (0.385, 0.425, 0.43),
}

_BACK_HAIR: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "long": ((0, 0.0, -0.14, 0.38), (0, -0.45, -0.2, 0.36), (0, -0.95, -0.22, 0.25)),
    "bob": ((0, 0.0, -0.1, 0.39), (0, -0.36, -0.1, 0.35)),
    "ponytail": ((0, 0.2, -0.44, 0.11), (0, -0.05, -0.6, 0.13), (0, -0.6, -0.56, 0.06)),
    "bun": ((0, 0.34, -0.36, 0.17), (0, 0.38, -0.42, 0.17)),
}


def add_back_hair(parts: Parts, body: Body, looks: Looks, joints: Joints, material: Material, camera: Camera) -> None:
    """Add the hair that falls behind the head to a body's parts."""
    hair = _BACK_HAIR.get(looks.hair_style)
    if hair is None:
        return
    table = np.array(hair)
    centers = joints.head + body.head * table[:, :3] @ joints.head_frame.T
    # From behind it comes after the head, else before it.
    bias = -0.16 if camera.towards(joints.head) @ joints.head_frame[:, 2] < -0.2 else 0.01
    parts.balls("hair", centers, table[:, 3] * body.head, material, bias * body.stature)


def _direction(azimuth: Array, elevation: Array) -> Array:
    """Unit vectors [k, 3] in head axes of angles in degrees."""
    a, e = np.radians(azimuth), np.radians(elevation)
    return np.stack([np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)], axis=1)


def _curve(half: tuple[tuple[float, float], ...], *, ring: bool) -> Array:
    """A closed symmetric curve [k, 3] on the unit ball: a `ring` around the top, or one around a patch of the face."""
    table = np.array(half, np.float64)
    steps = np.linspace(0, len(table) - 1, 28)
    azimuth, elevation = (np.interp(steps, np.arange(len(table)), column) for column in table.T)
    if ring:
        azimuth, elevation = (
            np.concatenate([azimuth, -azimuth[-2:0:-1]]),
            np.concatenate([elevation, elevation[-2:0:-1]]),
        )
    else:
        azimuth, elevation = np.concatenate([-azimuth, azimuth[::-1]]), np.concatenate([elevation, elevation[::-1]])
    return _direction(azimuth, elevation)


_FACE_CURVES = {style: _curve(line, ring=False) for style, line in _FACES.items()}
_HAT_CURVES = {style: _curve(line, ring=True) for style, line in _BRIMS.items()}
_BEARD_CURVE = _curve(_BEARD, ring=False)
_BEARD_JAW = Ellipsoid(SKULL.center - np.array([0.0, 0.14, 0.0]), SKULL.axes)
_HAIR = {style: Ellipsoid.of(_HAIR_CENTER, axes) for style, axes in _HAIR_AXES.items()}


def draw_head(canvas: Canvas, view: HeadView, looks: Looks, head_owner: int, hair_owner: int) -> None:
    """Draw a whole head but for the hair that falls behind it; skin and hair claim labels of their own."""
    draw_ears(canvas, view, looks, head_owner, near=False)
    if looks.hat == "cap" and view.ahead < 0:
        _visor(canvas, view, looks.hat_color, head_owner)
    if view.ahead < 0.1:
        draw_nose(canvas, view, looks, head_owner)
    _skull(canvas, view, looks, head_owner, hair_owner)
    if view.ahead > -0.3:
        if looks.beard:
            view.patch(canvas, _BEARD_CURVE, _BEARD_JAW, mixed(looks.hair, looks.skin, 0.15), head_owner)
        draw_features(canvas, view, looks, head_owner)
    if looks.hair_style not in EAR_COVERING:
        draw_ears(canvas, view, looks, head_owner, near=True)
    draw_glasses(canvas, view, looks)
    _hat(canvas, view, looks, head_owner)


def _skull(canvas: Canvas, view: HeadView, looks: Looks, owner: int, hair_owner: int) -> None:
    rim = view.rim(SKULL)
    jaw = (view.project(_JAW)[:, None, :] + (_JAW_RADII * view.pixels)[:, None, None] * CIRCLE).reshape(-1, 2)
    whole = np.concatenate([rim, jaw])
    if looks.hair_style == "bald":
        view.fill(canvas, hull(whole), looks.skin, owner)
        return
    hair = view.rim(_HAIR[looks.hair_style])
    if view.ahead < 0:
        view.fill(canvas, hull(whole), looks.skin, owner)
        view.fill(canvas, hair, looks.hair, hair_owner)
    else:
        view.fill(canvas, hair, looks.hair, hair_owner)
        view.fill(canvas, hull(jaw), looks.skin, owner, whole)
    if view.ahead < -0.15:
        _temple(canvas, view, looks, owner, whole)
    else:
        view.patch(canvas, _FACE_CURVES[looks.hair_style], SKULL, looks.skin, owner, whole)


def _temple(canvas: Canvas, view: HeadView, looks: Looks, owner: int, extent: Array) -> None:
    """The sliver of face that is seen from behind."""
    towards, rim = view.rim_directions(SKULL)
    table = np.array(_FACES[looks.hair_style][:-3], np.float64)
    azimuth, elevation = np.degrees(np.arctan2(np.abs(rim[:, 0]), rim[:, 2])), np.degrees(np.arcsin(rim[:, 1]))
    below = elevation < np.interp(azimuth, table[:, 0], table[:, 1])
    inside = (azimuth < table[-1, 0]) & (elevation > -42) & below
    curve = _FACE_CURVES[looks.hair_style]
    points = np.concatenate([curve[(curve @ towards > 0) & (curve[:, 1] > -0.66)], rim[inside]])
    if inside.any() and len(points) > 2:
        view.fill(canvas, hull(view.on(SKULL, points)), looks.skin, owner, extent)


def _visor(canvas: Canvas, view: HeadView, color: Color, owner: int) -> None:
    angle = np.radians(np.linspace(-62, 62, 9))
    sin, cos = np.sin(angle), np.cos(angle)
    edge = np.stack([0.38 * sin, np.full(9, 0.235), 0.40 * cos + 0.02], axis=1)
    front = np.stack([0.36 * sin, np.full(9, 0.19), 0.40 * cos + 0.34 * np.sqrt(cos)], axis=1)
    canvas.polygon(view.project(np.concatenate([edge, front[::-1]])), mixed(color, (0, 0, 0), 0.25), owner)


def _hat(canvas: Canvas, view: HeadView, looks: Looks, owner: int) -> None:
    hat, color = looks.hat, looks.hat_color
    if hat == "none":
        return
    hair = _HAIR.get(looks.hair_style, _HAIR["crop"])
    if hat == "sunhat":
        brim = np.stack([0.66 * CIRCLE[:, 0], np.full(len(CIRCLE), 0.2), 0.70 * CIRCLE[:, 1]], axis=1)
        canvas.polygon(view.project(brim), mixed(color, (0, 0, 0), 0.12), owner)
    _crown(canvas, view, _HAT_CURVES[hat], Ellipsoid(hair.center, hair.axes * 1.05), color, owner)
    if hat == "cap" and view.ahead >= 0:
        _visor(canvas, view, color, owner)


def _crown(canvas: Canvas, view: HeadView, curve: Array, ellipsoid: Ellipsoid, color: Color, owner: int) -> None:
    """Fill the visible part of an ellipsoid above `curve` [k, 3], a ring around the top."""
    towards, rim = view.rim_directions(ellipsoid)
    azimuth = np.degrees(np.arctan2(curve[:, 0], curve[:, 2]))
    order = np.argsort(azimuth)
    height = np.interp(np.degrees(np.arctan2(rim[:, 0], rim[:, 2])), azimuth[order], curve[order, 1], period=360)
    points = np.concatenate([curve[curve @ towards > -0.02], rim[rim[:, 1] >= height]])
    if len(points) > 2:
        view.fill(canvas, hull(view.on(ellipsoid, points)), color, owner)

"""Heads: skull, face, hair and hats as a camera sees them, and the five keypoints of the face."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.scene.body import Body, Joints
from sharpose.scene.canvas import CIRCLE, Array, Camera, Canvas, Color
from sharpose.scene.looks import Light, Looks, ball, mixed

_RIM: Array = np.stack([np.cos(np.arange(32) * np.pi / 16), np.sin(np.arange(32) * np.pi / 16)], axis=1)


def _cross(a: Array, b: Array) -> Array:
    """The cross product of vectors [..., 3]; numpy's own takes ten times as long for a few."""
    axes = ((1, 2), (2, 0), (0, 1))
    return np.stack([a[..., i] * b[..., j] - a[..., j] * b[..., i] for i, j in axes], axis=-1)


def _hull(points: Array) -> Array:
    """The convex hull [k, 2] of picture points."""
    return np.asarray(cv2.convexHull(points.astype(np.float32))[:, 0], np.float64)


@dataclass(frozen=True)
class _Ellipsoid:
    """An ellipsoid in head heights: its middle [3] and half axes [3] to the left, up and forwards."""

    center: Array
    axes: Array

    @classmethod
    def of(cls, center: tuple[float, float, float], axes: tuple[float, float, float]) -> _Ellipsoid:
        """From plain numbers."""
        return cls(np.array(center), np.array(axes))


_SKULL = _Ellipsoid.of((0.0, 0.08, 0.0), (0.345, 0.42, 0.43))
"""The skull without jaw and nose."""


class HeadView:
    """A head as a camera sees it. Its points are in head heights (chin to top): left, up, forward from the middle."""

    def __init__(self, body: Body, joints: Joints, camera: Camera, light: Light) -> None:
        self._light = light
        self.view: Array = camera.towards(joints.head) @ joints.head_frame  # direction to the viewer [3] in head axes
        xy, depth = camera.project(joints.head)
        self.depth = float(depth)  # metres from the camera
        self.pixels = float(camera.focal / depth * body.head)  # height of the head
        self.ahead = float(self.view[2])  # how far the face is turned to the viewer: 1 fully, 0 in profile, -1 away
        x, y, reach = float(xy[0]), float(xy[1]), 0.6 * self.pixels
        self.bounds = (x - reach, y - reach, x + reach, y + reach)  # roughly, in the picture
        # A head is small: one scale serves all of it.
        self._middle, (right, down) = xy, camera.picture_axes()
        self._to_picture: Array = self.pixels * np.stack([right @ joints.head_frame, down @ joints.head_frame], axis=1)

    def project(self, points: Array) -> Array:
        """Picture points [k, 2] of head points [k, 3]."""
        return np.asarray(self._middle + points @ self._to_picture, np.float64)

    def disc(self, center: tuple[float, float, float], wide: float, high: float, turn: float) -> Array:
        """A flat ellipse on the face, facing `turn` (the sine of its azimuth)."""
        tangent = np.array([np.sqrt(1 - turn * turn), 0.0, -turn])
        upright = np.array([0.0, high, 0.0])
        return self.project(np.array(center) + CIRCLE[:, :1] * tangent * wide + CIRCLE[:, 1:] * upright)

    def fill(self, canvas: Canvas, outline: Array, color: Color, owner: int, extent: Array | None = None) -> None:
        """Fill an outline [k, 2] with a colour lit like a ball over `extent` [k, 2] (or over itself)."""
        around = outline if extent is None else extent
        low, high = around.min(axis=0), around.max(axis=0)
        texture = ball(self._light, color)
        step = (high - low) / len(texture)
        to_picture = np.array([[step[0], 0, low[0] + step[0] / 2], [0, step[1], low[1] + step[1] / 2]])
        canvas.textured_polygon(outline, texture, to_picture, owner)

    def rim_directions(self, ellipsoid: _Ellipsoid) -> tuple[Array, Array]:
        """The direction to the viewer [3] and the rim that they see [32, 3], both as on a unit ball."""
        view = self.view / ellipsoid.axes
        view = view / np.sqrt(view @ view)
        first = _cross(view, np.array((0.0, 1.0, 0.0) if abs(view[1]) < 0.9 else (1.0, 0.0, 0.0)))
        first /= np.sqrt(first @ first)
        return view, _RIM[:, :1] * first + _RIM[:, 1:] * _cross(view, first)

    def on(self, ellipsoid: _Ellipsoid, directions: Array) -> Array:
        """Picture points [k, 2] of `directions` [k, 3] of the unit ball, on an ellipsoid."""
        return self.project(ellipsoid.center + directions * ellipsoid.axes)

    def rim(self, ellipsoid: _Ellipsoid) -> Array:
        """The outline [32, 2] of an ellipsoid in the picture."""
        return self.on(ellipsoid, self.rim_directions(ellipsoid)[1])

    def patch(
        self, canvas: Canvas, curve: Array, ellipsoid: _Ellipsoid, color: Color, owner: int, extent: Array | None = None
    ) -> None:
        """Fill the visible part of what `curve` [k, 3] encloses (anticlockwise around it) on an ellipsoid."""
        view = self.view / ellipsoid.axes
        view = view / np.sqrt(view @ view)
        # Points behind the horizon slide to the rim; what is enclosed there then has no area.
        shown = curve - np.minimum(curve @ view, 0)[:, None] * view
        shown /= np.sqrt((shown * shown).sum(axis=1, keepdims=True))
        winding = float(_cross(shown, np.roll(shown, -1, axis=0)).sum(axis=0) @ view)
        if winding > 0.02:
            self.fill(canvas, self.on(ellipsoid, shown), color, owner, extent)


# All below is in head heights (chin to top), as (left, up, forward) from the middle of the head.
_NOSE = (0.0, -0.09, 0.49)
_EYES = ((0.15, 0.035, 0.365), (-0.15, 0.035, 0.365))
_EARS = ((0.345, -0.02, -0.01), (-0.345, -0.02, -0.01))
_FACE = np.array([_NOSE, *_EYES, *_EARS])
_FACE_NORMALS = np.array([(0, 0, 1.0), (0.45, 0, 0.89), (-0.45, 0, 0.89), (0.97, 0, 0.22), (-0.97, 0, 0.22)])
# A point of the face is seen while its normal points at most this far away from the viewer (cosine).
_SEEN = np.array([-0.10, 0.0, 0.0, -0.05, -0.05])
_NOSE_SHAPE = np.array(
    [(0, 0.07, 0.41), (0, -0.05, 0.485), (0, -0.10, 0.50), (0, -0.15, 0.46), (0.07, -0.15, 0.40), (-0.07, -0.15, 0.40)]
)


def face_keypoints(body: Body, joints: Joints, camera: Camera) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Nose, eyes and ears (COCO's order) in the world [5, 3], and which of them the head itself does not hide [5]."""
    points = joints.head + body.head * _FACE @ joints.head_frame.T
    view = camera.towards(joints.head) @ joints.head_frame
    return points, _FACE_NORMALS @ view > _SEEN


def _draw_ears(canvas: Canvas, view: HeadView, looks: Looks, owner: int, *, near: bool) -> None:
    for side, ear in zip((1.0, -1.0), _EARS, strict=True):
        if (side * view.view[0] > -0.02) != near:
            continue
        outline = CIRCLE[:, :1] * (0.0, 0.0, 0.075) + CIRCLE[:, 1:] * (side * 0.02, 0.11, -0.02)
        # Ears stand off a little, so they show from the front.
        outline[:, 0] += side * 0.05 * (CIRCLE[:, 0] < 0)
        color = mixed(looks.skin, (40, 40, 110), 0.12)
        canvas.polygon(view.project(np.array(ear) + outline), color, owner)
        if near and view.pixels > 24:
            inner = view.project(np.array(ear) + (side * 0.03, 0, -0.01) + 0.55 * outline)
            canvas.polygon(inner, mixed(looks.skin, (20, 20, 60), 0.3))


def _draw_nose(canvas: Canvas, view: HeadView, looks: Looks, owner: int) -> None:
    shade = 0.90 if view.ahead > 0.3 else 0.96
    b, g, r = looks.skin
    canvas.polygon(_hull(view.project(_NOSE_SHAPE)), (b * shade * 0.95, g * shade * 0.97, r * shade), owner)


def _draw_features(canvas: Canvas, view: HeadView, looks: Looks, owner: int) -> None:
    """Draw nose, eyes, brows and mouth, where the face is turned to the viewer."""
    pixels = view.pixels
    dark = mixed(looks.skin, (20, 20, 40), 0.6)
    if view.ahead >= 0.1:
        _draw_nose(canvas, view, looks, owner)
    if view.ahead > 0.2 and pixels > 16:
        for x in (0.035, -0.035):
            canvas.polygon(view.disc((x, -0.135, 0.455), 0.022, 0.014, 0.0), dark)
    for side, eye, normal in zip((1.0, -1.0), _EYES, _FACE_NORMALS[1:3], strict=True):
        if normal @ view.view <= 0.02:
            continue
        turn = side * 0.42
        if pixels > 16:
            canvas.polygon(view.disc(eye, 0.078, 0.038, turn), (236, 238, 240))
            canvas.polygon(view.disc((eye[0], eye[1], eye[2] + 0.005), 0.036, 0.038, turn), looks.eyes)
            canvas.polygon(view.disc((eye[0], eye[1], eye[2] + 0.006), 0.018, 0.019, turn), (16, 16, 16))
            lid = view.disc(eye, 0.085, 0.045, turn)[0:8]
            canvas.line(lid, mixed(dark, (0, 0, 0), 0.4), 0.016 * pixels)
        else:
            canvas.polygon(view.disc(eye, 0.06, 0.04, turn), (40, 40, 44))
        brow = np.array([(side * 0.06, 0.115, 0.405), (side * 0.15, 0.145, 0.385), (side * 0.235, 0.115, 0.325)])
        canvas.line(view.project(brow), mixed(looks.hair, dark, 0.3), 0.04 * pixels)
    azimuth = np.linspace(-0.95, 0.95, 7)
    across, up, ahead = 0.125 * np.sin(azimuth) / 0.81, -0.262 + 0.018 * azimuth**2, 0.315 + 0.03 * np.cos(azimuth)
    mouth = np.stack([across, up, ahead], axis=1)
    seen = np.stack([np.sin(0.6 * azimuth), np.zeros(7), np.cos(0.6 * azimuth)], axis=1) @ view.view > 0.22
    if seen.sum() > 1:
        lips = view.project(mouth[seen])
        canvas.line(lips + np.array([0, 0.012 * pixels]), mixed(looks.skin, (70, 60, 190), 0.55), 0.05 * pixels)
        canvas.line(lips, mixed(dark, (30, 20, 90), 0.5), 0.018 * pixels)


def _draw_glasses(canvas: Canvas, view: HeadView, looks: Looks) -> None:
    if looks.glasses == "none" or view.ahead < -0.3 or view.pixels < 14:
        return
    frame = (24.0, 24.0, 28.0)
    for side in (1.0, -1.0):
        hinge, lens = (side * 0.27, 0.05, 0.33), (side * 0.15, 0.03, 0.40)
        if side * view.view[0] > 0.05:
            canvas.line(view.project(np.array([hinge, (side * 0.36, 0.04, 0.0)])), frame, 0.03 * view.pixels)
        if np.array([side * 0.35, 0, 0.93]) @ view.view <= 0.05:
            continue
        rim = view.disc(lens, 0.115, 0.085, side * 0.3)
        if looks.glasses == "dark":
            canvas.polygon(rim, (36, 30, 28))
        canvas.line(np.concatenate([rim, rim[:1]]), frame, 0.026 * view.pixels)
    if view.ahead > 0:
        canvas.line(view.project(np.array([(0.05, 0.045, 0.44), (-0.05, 0.045, 0.44)])), frame, 0.026 * view.pixels)


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


def _curve(half: tuple[tuple[float, float], ...], *, ring: bool) -> Array:
    """A closed symmetric curve [k, 3] on the unit ball: a `ring` around the top, or one around a patch of the face."""
    table = np.array(half, np.float64)
    steps = np.linspace(0, len(table) - 1, 28)
    azimuth, elevation = (np.interp(steps, np.arange(len(table)), column) for column in table.T)
    other = slice(-2, 0, -1) if ring else slice(None, None, -1)
    sign = 1 if ring else -1
    azimuth = np.concatenate([sign * azimuth, -sign * azimuth[other]])
    a, e = np.radians(azimuth), np.radians(np.concatenate([elevation, elevation[other]]))
    return np.stack([np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)], axis=1)


_FACE_CURVES = {style: _curve(line, ring=False) for style, line in _FACES.items()}
_HAT_CURVES = {style: _curve(line, ring=True) for style, line in _BRIMS.items()}
_BEARD_CURVE = _curve(_BEARD, ring=False)
_BEARD_JAW = _Ellipsoid(_SKULL.center - np.array([0.0, 0.14, 0.0]), _SKULL.axes)
_HAIR = {style: _Ellipsoid.of(_HAIR_CENTER, axes) for style, axes in _HAIR_AXES.items()}


def draw_head(canvas: Canvas, view: HeadView, looks: Looks, head_owner: int, hair_owner: int) -> None:
    """Draw a whole head but for the hair that falls behind it; skin and hair claim labels of their own."""
    _draw_ears(canvas, view, looks, head_owner, near=False)
    if looks.hat == "cap" and view.ahead < 0:
        _visor(canvas, view, looks.hat_color, head_owner)
    if view.ahead < 0.1:
        _draw_nose(canvas, view, looks, head_owner)
    _skull(canvas, view, looks, head_owner, hair_owner)
    if view.ahead > -0.3:
        if looks.beard:
            view.patch(canvas, _BEARD_CURVE, _BEARD_JAW, mixed(looks.hair, looks.skin, 0.15), head_owner)
        _draw_features(canvas, view, looks, head_owner)
    if looks.hair_style not in EAR_COVERING:
        _draw_ears(canvas, view, looks, head_owner, near=True)
    _draw_glasses(canvas, view, looks)
    _hat(canvas, view, looks, head_owner)


def _skull(canvas: Canvas, view: HeadView, looks: Looks, owner: int, hair_owner: int) -> None:
    rim = view.rim(_SKULL)
    jaw = (view.project(_JAW)[:, None, :] + (_JAW_RADII * view.pixels)[:, None, None] * CIRCLE).reshape(-1, 2)
    whole = np.concatenate([rim, jaw])
    if looks.hair_style == "bald":
        view.fill(canvas, _hull(whole), looks.skin, owner)
        return
    hair = view.rim(_HAIR[looks.hair_style])
    if view.ahead < 0:
        view.fill(canvas, _hull(whole), looks.skin, owner)
        view.fill(canvas, hair, looks.hair, hair_owner)
    else:
        view.fill(canvas, hair, looks.hair, hair_owner)
        view.fill(canvas, _hull(jaw), looks.skin, owner, whole)
    if view.ahead < -0.15:
        _temple(canvas, view, looks, owner, whole)
    else:
        view.patch(canvas, _FACE_CURVES[looks.hair_style], _SKULL, looks.skin, owner, whole)


def _temple(canvas: Canvas, view: HeadView, looks: Looks, owner: int, extent: Array) -> None:
    """The sliver of face that is seen from behind."""
    towards, rim = view.rim_directions(_SKULL)
    table = np.array(_FACES[looks.hair_style][:-3], np.float64)
    azimuth, elevation = np.degrees(np.arctan2(np.abs(rim[:, 0]), rim[:, 2])), np.degrees(np.arcsin(rim[:, 1]))
    below = elevation < np.interp(azimuth, table[:, 0], table[:, 1])
    inside = (azimuth < table[-1, 0]) & (elevation > -42) & below
    curve = _FACE_CURVES[looks.hair_style]
    points = np.concatenate([curve[(curve @ towards > 0) & (curve[:, 1] > -0.66)], rim[inside]])
    if inside.any() and len(points) > 2:
        view.fill(canvas, _hull(view.on(_SKULL, points)), looks.skin, owner, extent)


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
    _crown(canvas, view, _HAT_CURVES[hat], _Ellipsoid(hair.center, hair.axes * 1.05), color, owner)
    if hat == "cap" and view.ahead >= 0:
        _visor(canvas, view, color, owner)


def _crown(canvas: Canvas, view: HeadView, curve: Array, ellipsoid: _Ellipsoid, color: Color, owner: int) -> None:
    """Fill the visible part of an ellipsoid above `curve` [k, 3], a ring around the top."""
    towards, rim = view.rim_directions(ellipsoid)
    azimuth = np.degrees(np.arctan2(curve[:, 0], curve[:, 2]))
    order = np.argsort(azimuth)
    height = np.interp(np.degrees(np.arctan2(rim[:, 0], rim[:, 2])), azimuth[order], curve[order, 1], period=360)
    points = np.concatenate([curve[curve @ towards > -0.02], rim[rim[:, 1] >= height]])
    if len(points) > 2:
        view.fill(canvas, _hull(view.on(ellipsoid, points)), color, owner)

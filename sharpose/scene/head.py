"""Heads: face, ears, hair, hats; and the five keypoints of the face."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.scene.body import Body, Joints
from sharpose.scene.camera import Array, Camera
from sharpose.scene.canvas import Canvas, Color
from sharpose.scene.cloth import Light, Material, ball, mixed
from sharpose.scene.outfit import Looks
from sharpose.scene.parts import CIRCLE, Parts

__all__ = ["Head", "add_back_hair", "face_keypoints"]

# All below is in head heights (chin to top), as (left, up, forward) from the middle of the head.
_NOSE = (0.0, -0.09, 0.49)
_EYES = ((0.15, 0.035, 0.365), (-0.15, 0.035, 0.365))
_EARS = ((0.345, -0.02, -0.01), (-0.345, -0.02, -0.01))
_FACE = np.array([_NOSE, *_EYES, *_EARS])
_FACE_NORMALS = np.array([(0, 0, 1.0), (0.45, 0, 0.89), (-0.45, 0, 0.89), (0.97, 0, 0.22), (-0.97, 0, 0.22)])
# A point of the face is seen while its normal points at most this far away from the viewer (cosine).
_SEEN = np.array([-0.10, 0.0, 0.0, -0.05, -0.05])

_SKULL = ((0.0, 0.08, 0.0), (0.345, 0.42, 0.43))
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


def face_keypoints(body: Body, joints: Joints, camera: Camera) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Nose, eyes and ears (COCO's order) in the world [5, 3], and which of them the head itself does not hide [5]."""
    points = joints.head + body.head * _FACE @ joints.head_frame.T
    view = camera.towards(joints.head) @ joints.head_frame
    return points, _FACE_NORMALS @ view > _SEEN


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


def _hull(points: Array) -> Array:
    """The convex hull [k, 2] of picture points."""
    return np.asarray(cv2.convexHull(points.astype(np.float32))[:, 0], np.float64)


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


_RIM = np.stack([np.cos(np.arange(32) * np.pi / 16), np.sin(np.arange(32) * np.pi / 16)], axis=1)
_FACE_CURVES = {style: _curve(line, ring=False) for style, line in _FACES.items()}
_HAT_CURVES = {style: _curve(line, ring=True) for style, line in _BRIMS.items()}
_BEARD_CURVE = _curve(_BEARD, ring=False)


class Head:
    """One head as a camera sees it; draw its stages in the order of the methods.

    Args:
        body: Whose head it is.
        looks: Face, hair and hat.
        joints: Where it is.
        camera: Who looks.
        light: From where it is lit.
    """

    def __init__(self, body: Body, looks: Looks, joints: Joints, camera: Camera, light: Light) -> None:
        self._looks, self._light = looks, light
        self._frame = joints.head_frame
        self._view: Array = camera.towards(joints.head) @ joints.head_frame
        xy, depth = camera.project(joints.head)
        self.depth = float(depth)
        self._pixels = float(camera.focal / depth * body.head)
        self._ahead = float(self._view[2])
        reach = 0.6 * self._pixels
        self.bounds = (float(xy[0]) - reach, float(xy[1]) - reach, float(xy[0]) + reach, float(xy[1]) + reach)
        # A head is small: one scale serves all of it.
        self._middle, (right, down) = xy, camera.picture_axes()
        self._to_picture: Array = self._pixels * np.stack([right @ self._frame, down @ self._frame], axis=1)

    def draw(self, canvas: Canvas, head_owner: int, hair_owner: int) -> None:
        """Draw the whole head."""
        looks = self._looks
        hidden_ears = looks.hair_style in ("long", "bob")
        self._ears(canvas, head_owner, near=False)
        if looks.hat == "cap" and self._ahead < 0:
            self._visor(canvas, head_owner)
        if self._ahead < 0.1:
            self._nose(canvas, head_owner)
        self._skull(canvas, head_owner, hair_owner)
        if hidden_ears:
            self._ears(canvas, head_owner, near=True)
        if self._ahead > -0.3:
            self._features(canvas, head_owner)
        if not hidden_ears:
            self._ears(canvas, head_owner, near=True)
        self._glasses(canvas)
        self._hat(canvas, head_owner)

    def _project(self, points: Array) -> Array:
        """Picture points [k, 2] of head points [k, 3]."""
        return np.asarray(self._middle + points @ self._to_picture, np.float64)

    def _lit_fill(self, canvas: Canvas, outline: Array, color: Color, owner: int, extent: Array | None = None) -> None:
        """Fill an outline [k, 2] with a colour lit like a ball over `extent` [k, 2] (or over itself)."""
        around = outline if extent is None else extent
        low, high = around.min(axis=0), around.max(axis=0)
        side = 48
        texture = np.minimum(ball(self._light, side)[:, :, None] * np.asarray(color, np.float32), 255).astype(np.uint8)
        step = (high - low) / side
        to_picture = np.array([[step[0], 0, low[0] + step[0] / 2], [0, step[1], low[1] + step[1] / 2]])
        canvas.textured_polygon(outline, texture, to_picture, owner)

    def _rim(self, center: tuple[float, float, float], axes: Array) -> Array:
        """The outline [k, 2] of an ellipsoid."""
        return self._project(center + self._rim_directions(axes)[1] * axes)

    def _skull(self, canvas: Canvas, owner: int, hair_owner: int) -> None:
        looks = self._looks
        rim = self._rim(_SKULL[0], np.array(_SKULL[1]))
        jaw = (self._project(_JAW)[:, None, :] + (_JAW_RADII * self._pixels)[:, None, None] * CIRCLE).reshape(-1, 2)
        whole = np.concatenate([rim, jaw])
        if looks.hair_style == "bald":
            self._lit_fill(canvas, _hull(whole), looks.skin, owner)
            return
        hair = self._rim(_HAIR_CENTER, np.array(_HAIR_AXES[looks.hair_style]))
        if self._ahead < 0:
            self._lit_fill(canvas, _hull(whole), looks.skin, owner)
            self._lit_fill(canvas, hair, looks.hair, hair_owner)
        else:
            self._lit_fill(canvas, hair, looks.hair, hair_owner)
            self._lit_fill(canvas, _hull(jaw), looks.skin, owner, whole)
        if self._ahead < -0.15:
            self._temple(canvas, looks, owner, whole)
        else:
            skull = (_SKULL[0], np.array(_SKULL[1]))
            self._patch(canvas, _FACE_CURVES[looks.hair_style], skull, looks.skin, owner, whole)

    def _rim_directions(self, axes: Array) -> tuple[Array, Array]:
        """For an ellipsoid: the direction to the viewer [3] and the rim that they see [32, 3], as on a unit ball."""
        view = self._view / axes
        view = view / np.sqrt(view @ view)
        first = np.cross(view, (0.0, 1.0, 0.0) if abs(view[1]) < 0.9 else (1.0, 0.0, 0.0))
        first /= np.sqrt(first @ first)
        return view, _RIM[:, :1] * first + _RIM[:, 1:] * np.cross(view, first)

    def _temple(self, canvas: Canvas, looks: Looks, owner: int, extent: Array) -> None:
        """The sliver of face that is seen from behind."""
        axes = np.array(_SKULL[1])
        view, rim = self._rim_directions(axes)
        table = np.array(_FACES[looks.hair_style][:-3], np.float64)
        azimuth, elevation = np.degrees(np.arctan2(np.abs(rim[:, 0]), rim[:, 2])), np.degrees(np.arcsin(rim[:, 1]))
        inside = (
            (azimuth < table[-1, 0]) & (elevation > -42) & (elevation < np.interp(azimuth, table[:, 0], table[:, 1]))
        )
        curve = _FACE_CURVES[looks.hair_style]
        points = np.concatenate([curve[(curve @ view > 0) & (curve[:, 1] > -0.66)], rim[inside]])
        if inside.any() and len(points) > 2:
            self._lit_fill(canvas, _hull(self._project(_SKULL[0] + points * axes)), looks.skin, owner, extent)

    def _patch(
        self,
        canvas: Canvas,
        curve: Array,
        ellipsoid: tuple[tuple[float, float, float], Array],
        color: Color,
        owner: int,
        extent: Array | None = None,
    ) -> None:
        """Fill the visible part of what `curve` [k, 3] encloses (anticlockwise around it) on an ellipsoid."""
        center, axes = ellipsoid
        view = self._view / axes
        view = view / np.sqrt(view @ view)
        # Points behind the horizon slide to the rim; what is enclosed there then has no area.
        shown = curve - np.minimum(curve @ view, 0)[:, None] * view
        shown /= np.sqrt((shown * shown).sum(axis=1, keepdims=True))
        winding = float(np.cross(shown, np.roll(shown, -1, axis=0)).sum(axis=0) @ view)
        if winding > 0.02:
            self._lit_fill(canvas, self._project(center + shown * axes), color, owner, extent)

    def _crown(self, canvas: Canvas, curve: Array, axes: Array, color: Color, owner: int) -> None:
        """Fill the visible part of an ellipsoid above `curve` [k, 3], a ring around the top."""
        view, rim = self._rim_directions(axes)
        azimuth = np.degrees(np.arctan2(curve[:, 0], curve[:, 2]))
        order = np.argsort(azimuth)
        height = np.interp(np.degrees(np.arctan2(rim[:, 0], rim[:, 2])), azimuth[order], curve[order, 1], period=360)
        points = np.concatenate([curve[curve @ view > -0.02], rim[rim[:, 1] >= height]])
        if len(points) > 2:
            self._lit_fill(canvas, _hull(self._project(_HAIR_CENTER + points * axes)), color, owner)

    def _ears(self, canvas: Canvas, owner: int, *, near: bool) -> None:
        for side, ear in zip((1.0, -1.0), _EARS, strict=True):
            if (side * self._view[0] > -0.02) != near:
                continue
            outline = CIRCLE[:, :1] * (0.0, 0.0, 0.075) + CIRCLE[:, 1:] * (side * 0.02, 0.11, -0.02)
            # Ears stand off a little, so they show from the front.
            outline[:, 0] += side * 0.05 * (CIRCLE[:, 0] < 0)
            color = mixed(self._looks.skin, (40, 40, 110), 0.12)
            canvas.polygon(self._project(np.array(ear) + outline), color, owner)
            if near and self._pixels > 24:
                inner = self._project(np.array(ear) + (side * 0.03, 0, -0.01) + 0.55 * outline)
                canvas.polygon(inner, mixed(self._looks.skin, (20, 20, 60), 0.3))

    def _nose(self, canvas: Canvas, owner: int) -> None:
        points = self._project(
            np.array(
                [
                    (0, 0.07, 0.41),
                    (0.0, -0.05, 0.485),
                    (0, -0.10, 0.50),
                    (0, -0.15, 0.46),
                    (0.07, -0.15, 0.40),
                    (-0.07, -0.15, 0.40),
                ]
            )
        )
        hull = _hull(points)
        shade = 0.90 if self._ahead > 0.3 else 0.96
        b, g, r = self._looks.skin
        canvas.polygon(hull, (b * shade * 0.95, g * shade * 0.97, r * shade), owner)

    def _disc(self, center: tuple[float, float, float], wide: float, high: float, turn: float) -> Array:
        """A flat ellipse on the face, facing `turn` (the sine of its azimuth)."""
        tangent = np.array([np.sqrt(1 - turn * turn), 0.0, -turn])
        return self._project(
            np.array(center) + CIRCLE[:, :1] * tangent * wide + CIRCLE[:, 1:] * np.array([0.0, high, 0.0])
        )

    def _features(self, canvas: Canvas, owner: int) -> None:
        looks, pixels = self._looks, self._pixels
        dark = mixed(looks.skin, (20, 20, 40), 0.6)
        if looks.beard:
            jaw = ((0.0, -0.06, 0.0), np.array(_SKULL[1]))
            self._patch(canvas, _BEARD_CURVE, jaw, mixed(looks.hair, looks.skin, 0.15), owner)
        if self._ahead >= 0.1:
            self._nose(canvas, owner)
        if self._ahead > 0.2 and pixels > 16:
            for x in (0.035, -0.035):
                canvas.polygon(self._disc((x, -0.135, 0.455), 0.022, 0.014, 0.0), dark)
        for side, eye, normal in zip((1.0, -1.0), _EYES, _FACE_NORMALS[1:3], strict=True):
            if normal @ self._view <= 0.02:
                continue
            turn = side * 0.42
            if pixels > 16:
                canvas.polygon(self._disc(eye, 0.078, 0.038, turn), (236, 238, 240))
                canvas.polygon(self._disc((eye[0], eye[1], eye[2] + 0.005), 0.036, 0.038, turn), looks.eyes)
                canvas.polygon(self._disc((eye[0], eye[1], eye[2] + 0.006), 0.018, 0.019, turn), (16, 16, 16))
                lid = self._disc(eye, 0.085, 0.045, turn)[0:8]
                canvas.line(lid, mixed(dark, (0, 0, 0), 0.4), 0.016 * pixels)
            else:
                canvas.polygon(self._disc(eye, 0.06, 0.04, turn), (40, 40, 44))
            brow = self._project(
                np.array([(side * 0.06, 0.115, 0.405), (side * 0.15, 0.145, 0.385), (side * 0.235, 0.115, 0.325)])
            )
            canvas.line(brow, mixed(looks.hair, dark, 0.3), 0.04 * pixels)
        azimuth = np.linspace(-0.95, 0.95, 7)
        mouth = np.stack(
            [0.125 * np.sin(azimuth) / 0.81, -0.262 + 0.018 * azimuth**2, 0.315 + 0.03 * np.cos(azimuth)], axis=1
        )
        seen = np.stack([np.sin(0.6 * azimuth), np.zeros(7), np.cos(0.6 * azimuth)], axis=1) @ self._view > 0.22
        if seen.sum() > 1:
            lips = self._project(mouth[seen])
            canvas.line(lips + np.array([0, 0.012 * pixels]), mixed(looks.skin, (70, 60, 190), 0.55), 0.05 * pixels)
            canvas.line(lips, mixed(dark, (30, 20, 90), 0.5), 0.018 * pixels)

    def _glasses(self, canvas: Canvas) -> None:
        looks = self._looks
        if looks.glasses == "none" or self._ahead < -0.3 or self._pixels < 14:
            return
        frame = (24.0, 24.0, 28.0)
        for side in (1.0, -1.0):
            hinge, lens = (side * 0.27, 0.05, 0.33), (side * 0.15, 0.03, 0.40)
            if side * self._view[0] > 0.05:
                temple = self._project(np.array([hinge, (side * 0.36, 0.04, 0.0)]))
                canvas.line(temple, frame, 0.03 * self._pixels)
            if np.array([side * 0.35, 0, 0.93]) @ self._view <= 0.05:
                continue
            rim = self._disc(lens, 0.115, 0.085, side * 0.3)
            if looks.glasses == "dark":
                canvas.polygon(rim, (36, 30, 28))
            canvas.line(np.concatenate([rim, rim[:1]]), frame, 0.026 * self._pixels)
        if self._ahead > 0:
            canvas.line(
                self._project(np.array([(0.05, 0.045, 0.44), (-0.05, 0.045, 0.44)])), frame, 0.026 * self._pixels
            )

    def _visor(self, canvas: Canvas, owner: int) -> None:
        angle = np.radians(np.linspace(-62, 62, 9))
        edge = np.stack([0.38 * np.sin(angle), np.full(9, 0.235), 0.40 * np.cos(angle) + 0.02], axis=1)
        front = np.stack(
            [0.36 * np.sin(angle), np.full(9, 0.19), 0.40 * np.cos(angle) + 0.34 * np.cos(angle) ** 0.5], axis=1
        )
        points = self._project(np.concatenate([edge, front[::-1]]))
        canvas.polygon(points, mixed(self._looks.hat_color, (0, 0, 0), 0.25), owner)

    def _hat(self, canvas: Canvas, owner: int) -> None:
        hat, color = self._looks.hat, self._looks.hat_color
        if hat == "none":
            return
        axes = np.array(_HAIR_AXES.get(self._looks.hair_style, _HAIR_AXES["crop"])) * 1.05
        if hat == "sunhat":
            brim = np.stack([0.66 * CIRCLE[:, 0], np.full(len(CIRCLE), 0.2), 0.70 * CIRCLE[:, 1]], axis=1)
            canvas.polygon(self._project(brim), mixed(color, (0, 0, 0), 0.12), owner)
        self._crown(canvas, _HAT_CURVES[hat], axes, color, owner)
        if hat == "cap" and self._ahead >= 0:
            self._visor(canvas, owner)

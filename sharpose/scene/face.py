"""Faces: eyes, brows, nose, mouth, ears, glasses; and the five keypoints of the face."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharpose.scene.body import Body, Joints
from sharpose.scene.camera import Array, Camera
from sharpose.scene.canvas import Canvas
from sharpose.scene.cloth import mixed
from sharpose.scene.headview import HeadView, hull
from sharpose.scene.outfit import Looks
from sharpose.scene.parts import CIRCLE

__all__ = ["draw_ears", "draw_features", "draw_glasses", "draw_nose", "face_keypoints"]

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


def draw_ears(canvas: Canvas, view: HeadView, looks: Looks, owner: int, *, near: bool) -> None:
    """Draw the ears on the near or far side of the head."""
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


def draw_nose(canvas: Canvas, view: HeadView, looks: Looks, owner: int) -> None:
    """Draw the nose."""
    shade = 0.90 if view.ahead > 0.3 else 0.96
    b, g, r = looks.skin
    canvas.polygon(hull(view.project(_NOSE_SHAPE)), (b * shade * 0.95, g * shade * 0.97, r * shade), owner)


def draw_features(canvas: Canvas, view: HeadView, looks: Looks, owner: int) -> None:
    """Draw nose, eyes, brows and mouth, where the face is turned to the viewer."""
    pixels = view.pixels
    dark = mixed(looks.skin, (20, 20, 40), 0.6)
    if view.ahead >= 0.1:
        draw_nose(canvas, view, looks, owner)
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
        brow = view.project(
            np.array([(side * 0.06, 0.115, 0.405), (side * 0.15, 0.145, 0.385), (side * 0.235, 0.115, 0.325)])
        )
        canvas.line(brow, mixed(looks.hair, dark, 0.3), 0.04 * pixels)
    azimuth = np.linspace(-0.95, 0.95, 7)
    mouth = np.stack(
        [0.125 * np.sin(azimuth) / 0.81, -0.262 + 0.018 * azimuth**2, 0.315 + 0.03 * np.cos(azimuth)], axis=1
    )
    seen = np.stack([np.sin(0.6 * azimuth), np.zeros(7), np.cos(0.6 * azimuth)], axis=1) @ view.view > 0.22
    if seen.sum() > 1:
        lips = view.project(mouth[seen])
        canvas.line(lips + np.array([0, 0.012 * pixels]), mixed(looks.skin, (70, 60, 190), 0.55), 0.05 * pixels)
        canvas.line(lips, mixed(dark, (30, 20, 90), 0.5), 0.018 * pixels)


def draw_glasses(canvas: Canvas, view: HeadView, looks: Looks) -> None:
    """Draw glasses, if there are any."""
    if looks.glasses == "none" or view.ahead < -0.3 or view.pixels < 14:
        return
    frame = (24.0, 24.0, 28.0)
    for side in (1.0, -1.0):
        hinge, lens = (side * 0.27, 0.05, 0.33), (side * 0.15, 0.03, 0.40)
        if side * view.view[0] > 0.05:
            temple = view.project(np.array([hinge, (side * 0.36, 0.04, 0.0)]))
            canvas.line(temple, frame, 0.03 * view.pixels)
        if np.array([side * 0.35, 0, 0.93]) @ view.view <= 0.05:
            continue
        rim = view.disc(lens, 0.115, 0.085, side * 0.3)
        if looks.glasses == "dark":
            canvas.polygon(rim, (36, 30, 28))
        canvas.line(np.concatenate([rim, rim[:1]]), frame, 0.026 * view.pixels)
    if view.ahead > 0:
        canvas.line(view.project(np.array([(0.05, 0.045, 0.44), (-0.05, 0.045, 0.44)])), frame, 0.026 * view.pixels)

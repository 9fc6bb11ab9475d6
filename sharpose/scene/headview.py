"""A head as a camera sees it: its points in the picture, and lit fills on ellipsoids."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sharpose.scene.body import Body, Joints
from sharpose.scene.camera import Array, Camera
from sharpose.scene.canvas import Canvas, Color
from sharpose.scene.cloth import Light, ball
from sharpose.scene.parts import CIRCLE

__all__ = ["SKULL", "Ellipsoid", "HeadView", "cross", "hull"]

_RIM: Array = np.stack([np.cos(np.arange(32) * np.pi / 16), np.sin(np.arange(32) * np.pi / 16)], axis=1)


def cross(a: Array, b: Array) -> Array:
    """The cross product of vectors [..., 3]; numpy's own takes ten times as long for a few."""
    return np.stack(
        [
            a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1],
            a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2],
            a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0],
        ],
        axis=-1,
    )


def hull(points: Array) -> Array:
    """The convex hull [k, 2] of picture points."""
    return np.asarray(cv2.convexHull(points.astype(np.float32))[:, 0], np.float64)


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid in head heights: its middle [3] and half axes [3] to the left, up and forwards."""

    center: Array
    axes: Array

    @classmethod
    def of(cls, center: tuple[float, float, float], axes: tuple[float, float, float]) -> Ellipsoid:
        """From plain numbers."""
        return cls(np.array(center), np.array(axes))


SKULL = Ellipsoid.of((0.0, 0.08, 0.0), (0.345, 0.42, 0.43))
"""The skull without jaw and nose."""


class HeadView:
    """A head as a camera sees it. Its points are in head heights (chin to top): left, up, forward from the middle.

    Args:
        body: Whose head it is.
        joints: Where it is.
        camera: Who looks.
        light: From where it is lit.

    Attributes:
        view: Direction to the viewer [3] in head axes.
        ahead: How far the face is turned to the viewer: 1 fully, 0 in profile, -1 away.
        depth: Metres from the camera.
        pixels: Height of the head in pixels.
        bounds: x1, y1, x2, y2 in the picture, roughly.
    """

    def __init__(self, body: Body, joints: Joints, camera: Camera, light: Light) -> None:
        self._light = light
        self.view: Array = camera.towards(joints.head) @ joints.head_frame
        xy, depth = camera.project(joints.head)
        self.depth = float(depth)
        self.pixels = float(camera.focal / depth * body.head)
        self.ahead = float(self.view[2])
        reach = 0.6 * self.pixels
        self.bounds = (float(xy[0]) - reach, float(xy[1]) - reach, float(xy[0]) + reach, float(xy[1]) + reach)
        # A head is small: one scale serves all of it.
        self._middle, (right, down) = xy, camera.picture_axes()
        self._to_picture: Array = self.pixels * np.stack([right @ joints.head_frame, down @ joints.head_frame], axis=1)

    def project(self, points: Array) -> Array:
        """Picture points [k, 2] of head points [k, 3]."""
        return np.asarray(self._middle + points @ self._to_picture, np.float64)

    def disc(self, center: tuple[float, float, float], wide: float, high: float, turn: float) -> Array:
        """A flat ellipse on the face, facing `turn` (the sine of its azimuth)."""
        tangent = np.array([np.sqrt(1 - turn * turn), 0.0, -turn])
        return self.project(
            np.array(center) + CIRCLE[:, :1] * tangent * wide + CIRCLE[:, 1:] * np.array([0.0, high, 0.0])
        )

    def fill(self, canvas: Canvas, outline: Array, color: Color, owner: int, extent: Array | None = None) -> None:
        """Fill an outline [k, 2] with a colour lit like a ball over `extent` [k, 2] (or over itself)."""
        around = outline if extent is None else extent
        low, high = around.min(axis=0), around.max(axis=0)
        texture = ball(self._light, color)
        step = (high - low) / len(texture)
        to_picture = np.array([[step[0], 0, low[0] + step[0] / 2], [0, step[1], low[1] + step[1] / 2]])
        canvas.textured_polygon(outline, texture, to_picture, owner)

    def rim_directions(self, ellipsoid: Ellipsoid) -> tuple[Array, Array]:
        """The direction to the viewer [3] and the rim that they see [32, 3], both as on a unit ball."""
        view = self.view / ellipsoid.axes
        view = view / np.sqrt(view @ view)
        first = cross(view, np.array((0.0, 1.0, 0.0) if abs(view[1]) < 0.9 else (1.0, 0.0, 0.0)))
        first /= np.sqrt(first @ first)
        return view, _RIM[:, :1] * first + _RIM[:, 1:] * cross(view, first)

    def on(self, ellipsoid: Ellipsoid, directions: Array) -> Array:
        """Picture points [k, 2] of `directions` [k, 3] of the unit ball, on an ellipsoid."""
        return self.project(ellipsoid.center + directions * ellipsoid.axes)

    def rim(self, ellipsoid: Ellipsoid) -> Array:
        """The outline [32, 2] of an ellipsoid in the picture."""
        return self.on(ellipsoid, self.rim_directions(ellipsoid)[1])

    def patch(
        self,
        canvas: Canvas,
        curve: Array,
        ellipsoid: Ellipsoid,
        color: Color,
        owner: int,
        extent: Array | None = None,
    ) -> None:
        """Fill the visible part of what `curve` [k, 3] encloses (anticlockwise around it) on an ellipsoid."""
        view = self.view / ellipsoid.axes
        view = view / np.sqrt(view @ view)
        # Points behind the horizon slide to the rim; what is enclosed there then has no area.
        shown = curve - np.minimum(curve @ view, 0)[:, None] * view
        shown /= np.sqrt((shown * shown).sum(axis=1, keepdims=True))
        winding = float(cross(shown, np.roll(shown, -1, axis=0)).sum(axis=0) @ view)
        if winding > 0.02:
            self.fill(canvas, self.on(ellipsoid, shown), color, owner, extent)

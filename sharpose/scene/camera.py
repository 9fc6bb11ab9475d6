"""The static pinhole camera of a scene, and small rotation helpers.

World axes are right-handed, in metres: X to the picture's right, Y up from the ground, Z towards the viewer, so
people stand at negative Z. Body axes are (left, up, forward), also right-handed: a person of yaw 0 faces the camera
and has their left on the picture's right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Camera", "rot_x", "rot_y", "rot_z", "unit"]

Array = npt.NDArray[np.float64]

_NEAR = 0.25


def rot_x(angle: npt.ArrayLike) -> Array:
    """Rotations [..., 3, 3] about x by `angle` [...] radians; positive turns up towards forward."""
    a = np.asarray(angle, np.float64)
    matrix = np.zeros((*a.shape, 3, 3))
    matrix[..., 0, 0] = 1.0
    matrix[..., 1, 1] = matrix[..., 2, 2] = np.cos(a)
    matrix[..., 2, 1] = np.sin(a)
    matrix[..., 1, 2] = -matrix[..., 2, 1]
    return matrix


def rot_y(angle: npt.ArrayLike) -> Array:
    """Rotations [..., 3, 3] about y; positive turns forward towards left."""
    a = np.asarray(angle, np.float64)
    matrix = np.zeros((*a.shape, 3, 3))
    matrix[..., 1, 1] = 1.0
    matrix[..., 0, 0] = matrix[..., 2, 2] = np.cos(a)
    matrix[..., 0, 2] = np.sin(a)
    matrix[..., 2, 0] = -matrix[..., 0, 2]
    return matrix


def rot_z(angle: npt.ArrayLike) -> Array:
    """Rotations [..., 3, 3] about z; positive turns left towards up."""
    a = np.asarray(angle, np.float64)
    matrix = np.zeros((*a.shape, 3, 3))
    matrix[..., 2, 2] = 1.0
    matrix[..., 0, 0] = matrix[..., 1, 1] = np.cos(a)
    matrix[..., 1, 0] = np.sin(a)
    matrix[..., 0, 1] = -matrix[..., 1, 0]
    return matrix


def unit(vector: Array) -> Array:
    """`vector` [..., 3] scaled to length 1."""
    length = np.sqrt((vector * vector).sum(axis=-1, keepdims=True))
    return np.asarray(vector / np.maximum(length, 1e-9), np.float64)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera above the origin of the ground, looking along -Z and `pitch` radians down.

    Attributes:
        focal: Focal length in pixels.
        cx: Principal point x in pixels.
        cy: Principal point y in pixels.
        height: Metres above the ground.
        pitch: Radians below the horizontal.
    """

    focal: float
    cx: float
    cy: float
    height: float
    pitch: float

    @property
    def horizon(self) -> float:
        """The picture row, in pixels, of points infinitely far away on the ground."""
        return self.cy - self.focal * float(np.tan(self.pitch))

    @property
    def forward(self) -> Array:
        """The viewing direction [3]."""
        return np.array([0.0, -np.sin(self.pitch), -np.cos(self.pitch)])

    def picture_axes(self) -> tuple[Array, Array]:
        """World directions [3] that point right and down in the picture."""
        return np.array([1.0, 0.0, 0.0]), np.array([0.0, -np.cos(self.pitch), np.sin(self.pitch)])

    def project(self, points: Array) -> tuple[Array, Array]:
        """World `points` [..., 3] as picture x, y [..., 2] in pixels and depth [...] in metres (at least 0.25)."""
        y = points[..., 1] - self.height
        sin, cos = np.sin(self.pitch), np.cos(self.pitch)
        depth = np.maximum(-y * sin - points[..., 2] * cos, _NEAR)
        scale = self.focal / depth
        xy = np.empty((*points.shape[:-1], 2))
        xy[..., 0] = self.cx + points[..., 0] * scale
        xy[..., 1] = self.cy - (y * cos - points[..., 2] * sin) * scale
        return xy, depth

    def towards(self, point: Array) -> Array:
        """The unit vector [3] from `point` to the camera."""
        return unit(np.array([0.0, self.height, 0.0]) - point)

    def ground_depth(self, row: float) -> float:
        """How far away (metres along -Z) the ground at picture `row` is; only below the horizon."""
        slope = (row - self.cy) / self.focal
        angle = self.pitch + np.arctan(slope)
        return float(self.height / np.tan(max(angle, 1e-3)))

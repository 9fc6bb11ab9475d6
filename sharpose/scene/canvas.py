"""The camera of a scene, and antialiased, textured fills beside a map of whose surface each pixel shows."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_NEAR = 0.25


def _rotation(angle: npt.ArrayLike, axis: int) -> Array:
    a = np.asarray(angle, np.float64)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*a.shape, 3, 3))
    matrix[..., axis, axis] = 1.0
    matrix[..., first, first] = matrix[..., second, second] = np.cos(a)
    matrix[..., second, first] = np.sin(a)
    matrix[..., first, second] = -matrix[..., second, first]
    return matrix


def rot_x(angle: npt.ArrayLike) -> Array:
    """Rotations [..., 3, 3] about x by `angle` [...] radians; positive turns up towards forward."""
    return _rotation(angle, 0)


def rot_y(angle: npt.ArrayLike) -> Array:
    """Rotations [..., 3, 3] about y; positive turns forward towards left."""
    return _rotation(angle, 1)


def rot_z(angle: npt.ArrayLike) -> Array:
    """Rotations [..., 3, 3] about z; positive turns left towards up."""
    return _rotation(angle, 2)


def unit(vector: Array) -> Array:
    """`vector` [..., 3] scaled to length 1."""
    length = np.sqrt((vector * vector).sum(axis=-1, keepdims=True))
    return np.asarray(vector / np.maximum(length, 1e-9), np.float64)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera above the origin of the ground, looking along -Z and `pitch` radians down."""

    focal: float  # focal length in pixels
    cx: float  # principal point x in pixels
    cy: float  # principal point y in pixels
    height: float  # metres above the ground
    pitch: float  # radians below the horizontal

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
        angle = self.pitch + np.arctan((row - self.cy) / self.focal)
        return float(self.height / np.tan(max(angle, 1e-3)))


_ANGLES = np.arange(16) * 2 * np.pi / 16
CIRCLE: Array = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
"""[16, 2], a unit circle."""

Color = tuple[float, float, float]
"""Blue, green, red in 0..255."""
Texture = npt.NDArray[np.uint8]
"""uint8 [rows, columns, 3], BGR."""

NOBODY = 0
_SHIFT = 4
_LIMIT = 480000.0
_NOTHING = (float("inf"), float("inf"), float("-inf"), float("-inf"))


def _fixed(points: npt.NDArray[np.floating], dx: float = 0.0, dy: float = 0.0) -> npt.NDArray[np.int32]:
    """Points [k, 2] moved by (-dx, -dy), in the 1/16 pixel units that OpenCV's shift wants."""
    moved = (points - np.array([dx, dy])) * float(1 << _SHIFT)
    np.rint(np.minimum(np.maximum(moved, -_LIMIT, out=moved), _LIMIT, out=moved), out=moved)
    return np.asarray(moved, np.int32)


def _span(points: npt.NDArray[np.floating]) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of points [k, 2]."""
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right, bottom


class Canvas:
    """A picture, uint8 [H, W, 3], BGR, that is drawn back to front."""

    def __init__(self, image: npt.NDArray[np.uint8]) -> None:
        self.image = image
        self.height, self.width = image.shape[:2]
        # The label of the surface in front at each pixel (`NOBODY`: background).
        self.owner: npt.NDArray[np.uint16] = np.zeros((self.height, self.width), np.uint16)
        self.bounds = _NOTHING  # x1, y1, x2, y2 of all that was filled for an owner, also outside the picture

    def new_bounds(self) -> None:
        """Measure `bounds` from here on."""
        self.bounds = _NOTHING

    def _claim(self, left: float, top: float, right: float, bottom: float) -> tuple[int, int, int, int] | None:
        """Add a rectangle to the bounds; its window as `_inside` gives it."""
        x1, y1, x2, y2 = self.bounds
        self.bounds = (min(x1, left), min(y1, top), max(x2, right), max(y2, bottom))
        return self._inside(left, top, right, bottom)

    def _inside(self, left: float, top: float, right: float, bottom: float) -> tuple[int, int, int, int] | None:
        """The part of the picture under a rectangle, a little wider, as x1, y1, x2, y2; None: outside."""
        if not (right > -1 and bottom > -1 and left < self.width and top < self.height):
            return None
        x1, y1 = max(int(left) - 2, 0), max(int(top) - 2, 0)
        return x1, y1, min(int(right) + 3, self.width), min(int(bottom) + 3, self.height)

    def polygon(self, points: Array, color: Color, owner: int | None = None) -> None:
        """Fill the polygon [k, 2] with one colour, and claim its pixels for `owner` where one is given."""
        span = _span(points)
        if (self._inside(*span) if owner is None else self._claim(*span)) is None:
            return
        fixed = _fixed(points)
        cv2.fillPoly(self.image, [fixed], color, cv2.LINE_AA, _SHIFT)
        if owner is not None:
            cv2.fillPoly(self.owner, [fixed], owner, cv2.LINE_8, _SHIFT)

    def line(self, points: Array, color: Color, thickness: float) -> None:
        """Draw the open polyline [k, 2]; lines under a pixel wide fade instead of vanishing."""
        if thickness < 0.35 or self._inside(*_span(points)) is None:
            return
        cv2.polylines(self.image, [_fixed(points)], False, color, max(round(thickness), 1), cv2.LINE_AA, _SHIFT)

    def textured(
        self,
        outlines: npt.NDArray[np.float32],
        links: tuple[tuple[int, int], ...],
        bounds: tuple[float, float, float, float],
        texture: Texture,
        to_picture: Array,
        owner: int,
    ) -> None:
        """Fill the hulls of linked pairs of outlines [k, points, 2] with a texture; where they overlap no seam shows.

        `bounds` (x1, y1, x2, y2) are what the outlines span; `to_picture` [2, 3] maps texture x, y to picture x, y.
        """
        window = self._claim(*bounds)
        if window is None:
            return
        x1, y1, x2, y2 = window
        mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
        fixed = _fixed(outlines, x1, y1)
        for first, second in links:
            hull = cv2.convexHull(np.concatenate([fixed[first], fixed[second]]))
            cv2.fillConvexPoly(mask, hull, 255, cv2.LINE_AA, _SHIFT)
        self._texture(window, mask, texture, to_picture, owner)

    def textured_polygon(self, points: Array, texture: Texture, to_picture: Array, owner: int) -> None:
        """Fill one polygon [k, 2], convex or not, with a texture; arguments as in `textured`."""
        window = self._claim(*_span(points))
        if window is None:
            return
        x1, y1, x2, y2 = window
        mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
        cv2.fillPoly(mask, [_fixed(points, x1, y1)], 255, cv2.LINE_AA, _SHIFT)
        self._texture(window, mask, texture, to_picture, owner)

    def _texture(
        self,
        window: tuple[int, int, int, int],
        mask: npt.NDArray[np.uint8],
        texture: Texture,
        to_picture: Array,
        owner: int,
    ) -> None:
        x1, y1, x2, y2 = window
        np.copyto(self.owner[y1:y2, x1:x2], owner, where=mask > 127, casting="unsafe")
        matrix = to_picture.copy()
        matrix[:, 2] -= (x1, y1)
        # Nearest is several times faster, and textures are finer than small parts.
        scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
        flags = cv2.INTER_NEAREST if scale < 2.2 else cv2.INTER_LINEAR
        colors = cv2.warpAffine(texture, matrix, (x2 - x1, y2 - y1), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        self._blend(x1, y1, colors, mask)

    def _blend(self, x: int, y: int, colors: cv2.typing.MatLike, mask: npt.NDArray[np.uint8]) -> None:
        """Lay `colors` uint8 [h, w, 3] over the picture at x, y with `mask` uint8 [h, w] as opacity."""
        target = self.image[y : y + mask.shape[0], x : x + mask.shape[1]]
        weight = cv2.merge([mask, mask, mask])
        front = cv2.multiply(colors, weight, scale=1 / 255)
        back = cv2.multiply(target, cv2.bitwise_not(weight), scale=1 / 255)
        cv2.add(front, back, dst=target)

    def sprite(self, x: int, y: int, colors: Texture, mask: npt.NDArray[np.uint8], owner: int) -> None:
        """Lay a picture with its opacity `mask` uint8 [h, w] at x, y, and claim what is more than half opaque."""
        x1, y1 = max(x, 0), max(y, 0)
        x2, y2 = min(x + mask.shape[1], self.width), min(y + mask.shape[0], self.height)
        if x2 <= x1 or y2 <= y1:
            return
        inside = (slice(y1 - y, y2 - y), slice(x1 - x, x2 - x))
        self._blend(x1, y1, colors[inside], mask[inside])
        np.copyto(self.owner[y1:y2, x1:x2], owner, where=mask[inside] > 127, casting="unsafe")

    def shadow(self, center: Array, axis_x: Array, axis_y: Array, strength: float) -> None:
        """Darken a soft ellipse by its middle and half axes [2] in the picture; `strength` 1 is black in the middle."""
        corners = np.array([axis_x + axis_y, axis_x - axis_y, -axis_x - axis_y, -axis_x + axis_y]) + center
        window = self._inside(*_span(corners))
        if window is None:
            return
        x1, y1, x2, y2 = window
        half = (_BLOB.shape[0] - 1) / 2
        matrix = np.empty((2, 3))
        matrix[:, 0], matrix[:, 1] = axis_x / half, axis_y / half
        matrix[:, 2] = center - axis_x - axis_y - (x1, y1)
        blob = cv2.warpAffine(_BLOB, matrix, (x2 - x1, y2 - y1), flags=cv2.INTER_LINEAR)
        light = cv2.bitwise_not(cv2.convertScaleAbs(blob, alpha=strength))
        target = self.image[y1:y2, x1:x2]
        cv2.multiply(target, cv2.merge([light, light, light]), dst=target, scale=1 / 255)


_LINE = np.linspace(-1.0, 1.0, 65)
_BLOB = np.asarray(255 * np.clip(1 - np.sqrt(_LINE[:, None] ** 2 + _LINE**2), 0, 1) ** 1.3, np.uint8)
"""A round soft spot, 255 in the middle and 0 at the rim."""

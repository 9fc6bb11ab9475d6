"""What lies in the picture, and what is too far off for OpenCV's integers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharpose.runtime.frames import Image

__all__ = ["MARGIN", "SHIFT", "Floats", "Point", "Rect", "clip_line", "fixed_point", "inside", "near"]

Floats = npt.NDArray[np.float64]
Point = tuple[float, float]
Rect = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels, x2 and y2 left out."""

SHIFT = 4
"""OpenCV takes coordinates in sixteenths of a pixel."""
MARGIN = 64.0
"""How far outside the picture something may lie and still show, in pixels."""


def near(points: Floats, canvas: Image) -> npt.NDArray[np.bool_]:
    """Whether what lies at each point [..., 2] can show in the picture; false where a number is not finite."""
    high = np.array([canvas.shape[1] + MARGIN, canvas.shape[0] + MARGIN])
    x, y = points[..., 0], points[..., 1]
    answers: npt.NDArray[np.bool_] = (x >= -MARGIN) & (x <= high[0]) & (y >= -MARGIN) & (y <= high[1])
    return answers


def fixed_point(points: Floats) -> npt.NDArray[np.int32]:
    """Points [..., 2] near the picture as OpenCV wants them."""
    return np.rint(points * (1 << SHIFT)).astype(np.int32)


def inside(boxes: Floats, canvas: Image) -> list[Rect]:
    """Boxes [n, 4] in whole pixels, moved to the picture's edge where they reach beyond; here x2 and y2 are in them."""
    limit = np.array([canvas.shape[1] - 1, canvas.shape[0] - 1] * 2)
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in np.clip(np.round(boxes), 0, limit).astype(int).tolist()]


def clip_line(start: Point, end: Point, canvas: Image) -> tuple[Point, Point] | None:
    """The part of a line that lies near the picture, its direction kept; None where no part does.

    Moving a far end to the picture's edge would turn the line; OpenCV's own clipping overflows on huge numbers.
    """
    low, high = -MARGIN, (canvas.shape[1] + MARGIN, canvas.shape[0] + MARGIN)
    enter, leave = 0.0, 1.0  # the part of the line that is inside the bounds of the axes so far
    for axis in (0, 1):
        step = end[axis] - start[axis]
        if step == 0:
            if not low <= start[axis] <= high[axis]:
                return None
            continue
        bounds = sorted(((low - start[axis]) / step, (high[axis] - start[axis]) / step))
        enter, leave = max(enter, bounds[0]), min(leave, bounds[1])
    if enter > leave:
        return None

    def at(part: float) -> Point:
        # Clamped as well: at 1e30 a sum of floats misses the edge by more than a picture.
        x, y = (start[axis] + part * (end[axis] - start[axis]) for axis in (0, 1))
        return min(max(x, low), high[0]), min(max(y, low), high[1])

    return at(enter), at(leave)

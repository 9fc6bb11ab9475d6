"""Standing a picture upright as its stream's display matrix asks (phones store sideways pictures with one)."""

from __future__ import annotations

import cv2
import numpy as np

from sharpose.runtime.frames import Image

__all__ = ["Orientation", "orientation_of"]


class Orientation:
    """One of the eight ways to lay a picture down: maybe swap x and y, then maybe mirror each axis."""

    def __init__(self, *, transpose: bool, flip_x: bool, flip_y: bool) -> None:
        self.transpose = transpose
        self.flip_x = flip_x
        self.flip_y = flip_y

    def apply(self, image: Image) -> Image:
        """`image` [H, W, 3] as it is to be looked at: [H, W, 3], or [W, H, 3] where x and y change places."""
        turned = cv2.transpose(image) if self.transpose else image
        if self.flip_x or self.flip_y:
            turned = cv2.flip(turned, -1 if self.flip_x and self.flip_y else int(self.flip_x))
        return np.ascontiguousarray(turned, dtype=np.uint8)


def orientation_of(matrix: bytes) -> Orientation | None:
    """Reads a display matrix; None where the picture already stands upright.

    Args:
        matrix: Nine int32, `a b u c d v x y w`: a stored pixel (p, q) is shown at (a·p + c·q + x, b·p + d·q + y).
            Turns that are no multiple of 90 degrees are taken as the nearest one.
    """
    if len(matrix) < 36:
        return None
    a, b, _, c, d = np.frombuffer(matrix, np.int32, count=5).astype(np.int64).tolist()
    transpose = abs(b) + abs(c) > abs(a) + abs(d)
    flip_x, flip_y = (c < 0, b < 0) if transpose else (a < 0, d < 0)
    if not (transpose or flip_x or flip_y):
        return None
    return Orientation(transpose=transpose, flip_x=flip_x, flip_y=flip_y)

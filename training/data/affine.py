"""Frames in a picture, and the unbiased (UDP) affine map from a turned frame to a crop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Frame", "at_aspect", "frame_of_box", "map_points", "warp_matrix"]

_MIN_SIZE = 1.0  # pixels: a frame without area can't be mapped


@dataclass(frozen=True)
class Frame:
    """A rectangle at the crop's aspect: `center` and `size`, float32 [2] each, x first, in picture pixels."""

    center: npt.NDArray[np.float32]
    size: npt.NDArray[np.float32]


def at_aspect(width: float, height: float, aspect: float, padding: float) -> npt.NDArray[np.float32]:
    """float32 [2]: the smallest size of that aspect (width over height) that holds a box, then grown by `padding`."""
    size = np.array([max(width, aspect * height), max(height, width / aspect)]) / 200.0
    # The released pipeline keeps sizes as float32 multiples of 200 pixels.
    grown = size.astype(np.float32) * np.float32(padding) * np.float32(200.0)
    return np.maximum(grown, np.float32(_MIN_SIZE))


def frame_of_box(box_xyxy: npt.NDArray[np.float32], aspect: float, padding: float) -> Frame:
    """The frame around a box."""
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    center = np.array([x1 + (x2 - x1) * 0.5, y1 + (y2 - y1) * 0.5], np.float32)
    return Frame(center, at_aspect(x2 - x1, y2 - y1, aspect, padding))


def warp_matrix(frame: Frame, rotation: float, crop_size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """float32 [2, 3]: from picture pixels to crop pixels.

    The frame turned by `rotation` degrees about its centre covers the crop, "sizes minus one".
    """
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    center = frame.center.astype(np.float64)
    size = frame.size.astype(np.float64)
    scale = (np.array([crop_size[1], crop_size[0]]) - 1.0) / size
    turn = np.array([[cosine, -sine], [sine, cosine]])
    linear = scale[:, None] * turn
    offset = scale * (0.5 * size - turn @ center)
    return np.column_stack([linear, offset]).astype(np.float32)


def map_points(points: npt.NDArray[np.float32], matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 [n, 2]: points [n, 2] through a matrix [2, 3]."""
    mapped: npt.NDArray[np.float32] = points @ matrix[:, :2].T + matrix[:, 2]
    return mapped

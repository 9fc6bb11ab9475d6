"""Where the fine stage looked: a see-through tile a region."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.runtime.drawing.colours import Colour
from sharpose.runtime.frames import Image

__all__ = ["draw_regions"]

_STRENGTH = 0.35


def draw_regions(canvas: Image, regions_xyxy: npt.NDArray[np.float32], colour: Colour) -> None:
    """Tint one person's regions, float32 [K, 4] in picture pixels; those with a number that is not finite are left out.

    Neighbours keep a line of the picture between them, so that each can be told.
    """
    height, width = canvas.shape[:2]
    regions = regions_xyxy[np.isfinite(regions_xyxy).all(axis=1)].astype(np.float64)
    tiles = np.rint(np.clip(regions, 0, np.array([width, height, width, height]))).astype(int)
    tiles = tiles[(tiles[:, 2] > tiles[:, 0]) & (tiles[:, 3] > tiles[:, 1])]
    if not len(tiles):
        return
    left, top = tiles[:, :2].min(axis=0).tolist()
    right, bottom = tiles[:, 2:].max(axis=0).tolist()
    part = canvas[top:bottom, left:right]
    tinted = part.copy()
    line = max(round((height * width) ** 0.5 / 1000), 1)
    for x1, y1, x2, y2 in (tiles - [left, top, left, top]).tolist():
        end = (max(x2 - 1 - line, x1), max(y2 - 1 - line, y1))  # OpenCV's rectangles hold their last pixel
        cv2.rectangle(tinted, (x1, y1), end, colour, cv2.FILLED)
    cv2.addWeighted(tinted, _STRENGTH, part, 1 - _STRENGTH, 0, dst=part)

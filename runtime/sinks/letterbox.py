"""Fitting pictures of any size into a video, whose size is fixed."""

from __future__ import annotations

import cv2
import numpy as np

from sharpose.runtime.frames import Image

__all__ = ["letterbox", "pad_even"]


def letterbox(image: Image, height: int, width: int) -> Image:
    """`image` [H, W, 3] scaled to fit `[height, width, 3]`, centred, its aspect kept, black bars around it."""
    if image.shape[:2] == (height, width):
        return image
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_height = min(height, max(1, round(image.shape[0] * scale)))
    inner_width = min(width, max(1, round(image.shape[1] * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    canvas[top : top + inner_height, left : left + inner_width] = cv2.resize(
        image, (inner_width, inner_height), interpolation=interpolation
    )
    return canvas


def pad_even(image: Image) -> Image:
    """`image` with its last row and column repeated where their number is odd: chroma has half the resolution."""
    bottom, right = image.shape[0] % 2, image.shape[1] % 2
    if not (bottom or right):
        return image
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="edge")

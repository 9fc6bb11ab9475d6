"""A picture whose people's poses are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sharpose.errors import InputError
from sharpose.runtime.frames import Image
from sharpose.runtime.result import Boxes

__all__ = ["Picture"]


@dataclass(frozen=True)
class Picture:
    """A picture, the people in it, and by when their poses are wanted.

    Attributes:
        image: uint8 [H, W, 3], BGR.
        boxes: Its people; may reach outside the picture.
        stream: Which stream it belongs to: what is remembered of people from frame to frame is kept apart by it.
        time: When it was taken, in seconds of its stream, never decreasing.
        deadline: The `time.perf_counter()` by which the poses should be there; None for as long as it takes.

    Raises:
        InputError: the picture has another type, dtype or shape, or a time or the deadline isn't a number.
    """

    image: Image
    boxes: Boxes
    stream: int = 0
    time: float = 0.0
    deadline: float | None = None

    def __post_init__(self) -> None:
        image = self.image
        if not isinstance(image, np.ndarray):
            raise InputError(f"image_bgr: expected a uint8 array [H, W, 3], got {type(image).__name__}")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InputError(f"image_bgr: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        if not math.isfinite(self.time):
            raise InputError(f"time: expected seconds, got {self.time}")
        if self.deadline is not None and math.isnan(self.deadline):
            raise InputError("deadline: expected a time.perf_counter() value, got NaN")

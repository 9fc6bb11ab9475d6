"""Fitting a picture into a detector's input, and boxes back into the picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["PADDING_GREY", "Letterbox"]

PADDING_GREY = 114
"""What the space around the picture is filled with, in all families of detectors."""


@dataclass(frozen=True)
class Letterbox:
    """How a picture lies in an input of another size, its aspect kept.

    Attributes:
        picture: Height and width of the picture.
        input_size: Height and width of the detector's input.
        scaled: Height and width of the picture as it lies in the input.
        offset: Where its top left corner lies, y and x.
    """

    picture: tuple[int, int]
    input_size: tuple[int, int]
    scaled: tuple[int, int]
    offset: tuple[int, int]

    @classmethod
    def fit(cls, picture: tuple[int, int], input_size: tuple[int, int], *, centred: bool) -> Letterbox:
        """The largest fit of `picture` in `input_size` (height, width): in the middle, or else in the top left."""
        ratio = min(input_size[0] / picture[0], input_size[1] / picture[1])
        # To whole pixels as the families' own tools do, so that the graph sees the pixels that they would show it;
        # a hair-thin picture still has one.
        whole = round if centred else int
        height = min(max(whole(picture[0] * ratio), 1), input_size[0])
        width = min(max(whole(picture[1] * ratio), 1), input_size[1])
        top, left = ((input_size[0] - height) // 2, (input_size[1] - width) // 2) if centred else (0, 0)
        return cls(picture, input_size, (height, width), (top, left))

    def apply(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The input picture: uint8 [H, W, 3], the resized `image` with grey around it."""
        (height, width), (top, left) = self.scaled, self.offset
        canvas = np.full((*self.input_size, 3), PADDING_GREY, np.uint8)
        inside = canvas[top : top + height, left : left + width]
        inside[:] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return canvas

    def to_picture(self, xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes [n, 4] of input pixels as boxes of picture pixels, clipped to the picture."""
        top, left = self.offset
        # Each axis by its own ratio: rounding the scaled size made them differ by up to a pixel at the far edge.
        scale = np.array([self.picture[1] / self.scaled[1], self.picture[0] / self.scaled[0]] * 2, np.float32)
        limit = np.array([self.picture[1], self.picture[0]] * 2, np.float32)
        mapped = (xyxy - np.array([left, top] * 2, np.float32)) * scale
        clipped: npt.NDArray[np.float32] = np.clip(mapped, np.float32(0), limit)
        return clipped

"""From boxes to crops and back: the released models' unbiased (UDP) top-down geometry. Torch-free.

A box grows to the crop's aspect, then by `PADDING`; the frame that results is mapped onto the crop so that the centres
of its corner pixels coincide ("sizes minus one", UDP, Huang et al. 2020). Arithmetic is in float32, as it was in
training, so that crops are the same (a matrix may differ in its last bit, from rounding boxes).
"""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError

PADDING = 1.25
"""How much larger than the box, along each side, the crop's frame is."""

_MIN_SIZE = 1.0  # pixels: a box without area still has a frame, and a matrix that can be inverted


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels, from `720x1280`; raises `ValueError` for anything else."""
    match = re.fullmatch("([0-9]{1,9})x([0-9]{1,9})", text.lower())
    if match is None:
        raise ValueError(f"expected HEIGHTxWIDTH as in 720x1280, got {reprlib.repr(text)}")
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class CropFrames:
    """Where n crops lie in their picture.

    Attributes:
        center: float32 [n, 2], x and y in picture pixels.
        size: float32 [n, 2], width and height in picture pixels, at the crop's aspect as a player shows them.
        crop_size: `(height, width)` of the crop in pixels.
    """

    center: npt.NDArray[np.float32]
    size: npt.NDArray[np.float32]
    crop_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.center)

    def matrix(self, index: int) -> npt.NDArray[np.float32]:
        """float32 [2, 3]: the affine map from picture pixels to pixels of crop `index`."""
        height, width = self.crop_size
        size_x, size_y = (float(value) for value in self.size[index])
        center_x, center_y = (float(value) for value in self.center[index])
        scale_x, scale_y = (width - 1.0) / size_x, (height - 1.0) / size_y
        return np.array(
            [
                [scale_x, 0.0, scale_x * (0.5 * size_x - center_x)],
                [0.0, scale_y, scale_y * (0.5 * size_y - center_y)],
            ],
            dtype=np.float32,
        )


def crop_frames(
    boxes_xyxy: npt.NDArray[np.float32],
    crop_size: tuple[int, int],
    padding: float = PADDING,
    sample_aspect_ratio: float | npt.NDArray[np.float64] = 1.0,
) -> CropFrames:
    """The frames that boxes are cropped by.

    Args:
        boxes_xyxy: float32 [n, 4], `x1, y1, x2, y2` in picture pixels.
        crop_size: `(height, width)` of the crop.
        padding: Growth of the frame after it has the crop's aspect.
        sample_aspect_ratio: Width of the picture's pixels to their height, one or [n]; crops have square pixels.
    """
    aspect = crop_size[1] / crop_size[0] / sample_aspect_ratio
    boxes = boxes_xyxy.astype(np.float64)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    center = np.stack([boxes[:, 0] + width * 0.5, boxes[:, 1] + height * 0.5], axis=1).astype(np.float32)
    size = np.stack([np.maximum(width, aspect * height), np.maximum(height, width / aspect)], axis=1)
    # The released pipeline keeps sizes as float32 multiples of 200 pixels.
    size = (size / 200.0).astype(np.float32) * np.float32(padding) * np.float32(200.0)
    return CropFrames(center, np.maximum(size, np.float32(_MIN_SIZE)), (crop_size[0], crop_size[1]))


def extract_crops(
    image_bgr: npt.NDArray[np.uint8], frames: CropFrames, out: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Crop people out of a picture: bilinear on uint8, black outside the picture.

    Args:
        image_bgr: uint8 [H, W, 3], BGR.
        frames: n frames.
        out: uint8 [n or more, crop height, crop width, 3], C-contiguous; the first n are overwritten.

    Returns:
        `out[:n]`, RGB.

    Raises:
        InputError: `out` has another dtype or shape, is too short, or isn't contiguous.
    """
    count = len(frames)
    height, width = frames.crop_size
    fits = out.dtype == np.uint8 and out.ndim == 4 and out.shape[1:] == (height, width, 3) and len(out) >= count
    if not fits or not out.flags.c_contiguous:
        layout = "" if out.flags.c_contiguous else ", not contiguous"
        raise InputError(
            f"out: expected contiguous uint8 [{count} or more, {height}, {width}, 3], "
            f"got {out.dtype} {list(out.shape)}{layout}"
        )
    for index in range(count):
        crop = out[index]
        cv2.warpAffine(image_bgr, frames.matrix(index), (width, height), dst=crop, flags=cv2.INTER_LINEAR)
        cv2.cvtColor(crop, cv2.COLOR_BGR2RGB, dst=crop)
    return out[:count]


def keypoints_to_image(keypoints: npt.NDArray[np.float32], frames: CropFrames) -> npt.NDArray[np.float32]:
    """The exact inverse of the crop, for keypoints.

    A score is a heatmap's peak, which may lie a little above 1, or below 0 where nothing was found; here it is clipped.

    Args:
        keypoints: float32 [n, J, 3], `x, y` in crop pixels and a score.
        frames: The n frames the crops were cut by.

    Returns:
        float32 [n, J, 3], `x, y` in picture pixels and the score, clipped to 0 to 1.
    """
    crop_height, crop_width = frames.crop_size
    crop_extent = np.array([crop_width - 1.0, crop_height - 1.0], dtype=np.float32)
    mapped: npt.NDArray[np.float32] = np.array(keypoints, dtype=np.float32, copy=True)
    scale = (frames.size / crop_extent)[:, None, :]
    mapped[:, :, :2] = mapped[:, :, :2] * scale + (frames.center - frames.size * np.float32(0.5))[:, None, :]
    np.clip(mapped[:, :, 2], 0, 1, out=mapped[:, :, 2])
    return mapped

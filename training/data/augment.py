"""The recipe's augmentation: frames, half bodies and what is drawn by chance, and the crop that comes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from sharpose.geometry import PADDING
from sharpose.skeleton import Skeleton
from sharpose.training.data.sample import Sample

__all__ = [
    "HALF_BODY_PADDING",
    "AugmentSpec",
    "CropSample",
    "Frame",
    "at_aspect",
    "frame_of_box",
    "half_body_frame",
    "make_crop",
    "map_points",
    "upper_body",
    "warp_matrix",
]

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


HALF_BODY_PADDING = 1.5
"""Growth of the frame around half a body, in place of the box's padding."""

_LOWER_WORDS = ("hip", "pelvis", "knee", "ankle", "heel", "toe", "foot")
_FEW = 2  # a half with no more keypoints than this gives way to the other
_UPPER_BELOW = 0.5  # a standard NORMAL number below it picks the upper half: 69 % of the time, as released


def upper_body(skeleton: Skeleton) -> npt.NDArray[np.bool_]:
    """Which keypoints lie above the hips, by their names: bool [J]."""
    return np.array([not any(word in name for word in _LOWER_WORDS) for name in skeleton.keypoints])


def half_body_frame(
    points: npt.NDArray[np.float32],
    labelled: npt.NDArray[np.bool_],
    skeleton: Skeleton,
    aspect: float,
    rng: np.random.Generator,
) -> Frame | None:
    """A frame around half of a body.

    Args:
        points: float32 [J, 2], picture pixels.
        labelled: bool [J].
        skeleton: Whose keypoints they are.
        aspect: Width over height of the frame.
        rng: Chooses the half.

    Returns:
        The frame, centred on the mean of the half's keypoints; None where there are too few of them.
    """
    is_upper = upper_body(skeleton)
    upper, lower = points[labelled & is_upper], points[labelled & ~is_upper]
    if rng.standard_normal() < _UPPER_BELOW and len(upper) > _FEW:
        chosen = upper
    elif len(lower) > _FEW:
        chosen = lower
    else:
        chosen = upper
    if len(chosen) < _FEW:
        return None
    width, height = (float(extent) for extent in chosen.max(axis=0) - chosen.min(axis=0))
    return Frame(chosen.mean(axis=0).astype(np.float32), at_aspect(width, height, aspect, HALF_BODY_PADDING))


class AugmentSpec(BaseModel):
    """How crops are varied. The defaults are the recipe's; `none()` varies nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    padding: float = Field(default=PADDING, gt=0, description="growth of the box, at the crop's aspect")
    shift: float = Field(default=0.16, ge=0, description="most that the centre moves, in sizes of the frame")
    shift_probability: float = Field(default=0.3, ge=0, le=1)
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    half_body_probability: float = Field(default=0.3, ge=0, le=1)
    half_body_above: int = Field(default=8, ge=0, description="half bodies need more labelled keypoints than this")
    scale: float = Field(default=0.5, ge=0, lt=1, description="standard deviation and largest change of the size")
    rotation: float = Field(default=40.0, ge=0, description="standard deviation in degrees; at most twice that")
    rotation_probability: float = Field(default=0.6, ge=0, le=1)

    @classmethod
    def none(cls, padding: float = PADDING) -> AugmentSpec:
        """The crop as evaluation takes it."""
        return cls(
            padding=padding,
            shift_probability=0,
            flip_probability=0,
            half_body_probability=0,
            scale=0,
            rotation=0,
            rotation_probability=0,
        )


@dataclass(frozen=True)
class CropSample:
    """A person, cropped.

    Attributes:
        crop: uint8 [H, W, 3], RGB.
        keypoints: float32 [J, 3], `x, y` in crop pixels and COCO visibility; zeros where it is not labelled.
        weights: float32 [J], trust in the label.
        center: float32 [2], centre of the frame in picture pixels (of the mirrored picture if `flipped`).
        size: float32 [2], width and height of the frame in picture pixels.
        rotation: Degrees.
        flipped: Whether the picture was mirrored.
        area: Square crop pixels that the person covers.
    """

    crop: npt.NDArray[np.uint8]
    keypoints: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    center: npt.NDArray[np.float32]
    size: npt.NDArray[np.float32]
    rotation: float
    flipped: bool
    area: float


def make_crop(
    sample: Sample, spec: AugmentSpec, crop_size: tuple[int, int], skeleton: Skeleton, rng: np.random.Generator
) -> CropSample:
    """Draw one variation of a person and cut it out.

    Args:
        sample: The person.
        spec: What may vary.
        crop_size: `(height, width)`.
        skeleton: Whose mirror pairs and upper body count.
        rng: The only source of chance.
    """
    image, keypoints, weights = sample.image_bgr, sample.keypoints.copy(), sample.weights
    aspect = crop_size[1] / crop_size[0]
    frame = frame_of_box(sample.box_xyxy, aspect, spec.padding)
    if rng.random() < spec.shift_probability:
        moved = frame.center + rng.uniform(-1, 1, 2) * spec.shift * frame.size
        frame = Frame(moved.astype(np.float32), frame.size)
    flipped = bool(rng.random() < spec.flip_probability)
    if flipped:
        last = image.shape[1] - 1
        image = np.ascontiguousarray(image[:, ::-1])
        order = list(skeleton.flip_order)
        keypoints, weights = keypoints[order], weights[order]
        keypoints[:, 0] = last - keypoints[:, 0]
        frame = Frame(np.array([last - frame.center[0], frame.center[1]], np.float32), frame.size)
    labelled = (keypoints[:, 2] > 0) & (weights > 0)
    if labelled.sum() > spec.half_body_above and rng.random() < spec.half_body_probability:
        frame = half_body_frame(keypoints[:, :2], labelled, skeleton, aspect, rng) or frame
    factor = np.clip(rng.standard_normal() * spec.scale + 1, 1 - spec.scale, 1 + spec.scale)
    angle = float(np.clip(rng.standard_normal() * spec.rotation, -2 * spec.rotation, 2 * spec.rotation))
    rotation = angle if rng.random() < spec.rotation_probability else 0.0

    frame = Frame(frame.center, (frame.size * factor).astype(np.float32))
    matrix = warp_matrix(frame, rotation, crop_size)
    crop = cv2.warpAffine(image, matrix, (crop_size[1], crop_size[0]), flags=cv2.INTER_LINEAR)
    mapped = np.zeros_like(keypoints)
    mapped[labelled, :2] = map_points(keypoints[labelled, :2], matrix)
    mapped[labelled, 2] = keypoints[labelled, 2]
    return CropSample(
        crop=np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2RGB), np.uint8),
        keypoints=mapped,
        weights=np.where(labelled, weights, 0).astype(np.float32),
        center=frame.center,
        size=frame.size,
        rotation=rotation,
        flipped=flipped,
        area=sample.area * abs(float(np.linalg.det(matrix[:, :2].astype(np.float64)))),
    )

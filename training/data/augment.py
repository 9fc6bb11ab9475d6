"""Augmentation: a person's crop, shifted, mirrored, cut to half a body, scaled, turned, recoloured and partly covered
by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from sharpose.geometry import PADDING, crop_frames
from sharpose.skeleton import Skeleton
from sharpose.training.data.sample import Sample

Floats = npt.NDArray[np.float32]


class AugmentSpec(BaseModel):
    """Settings of the augmentation. The defaults are the released recipes'; `none()` turns it off."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    padding: float = Field(
        default=PADDING, description="growth of the box, at the crop's aspect; all commands crop with 1.25, so no other"
    )
    shift: float = Field(default=0.16, ge=0, description="largest shift of the centre, in sizes of the crop's frame")
    shift_probability: float = Field(default=0.3, ge=0, le=1)
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    half_body_probability: float = Field(default=0.3, ge=0, le=1)
    half_body_above: int = Field(default=8, ge=0, description="half bodies need more labelled keypoints than this")
    scale: float = Field(default=0.5, ge=0, lt=1, description="standard deviation and largest change of the size")
    rotation: float = Field(default=40.0, ge=0, description="standard deviation in degrees; at most twice that")
    rotation_probability: float = Field(default=0.6, ge=0, le=1)
    brightness: float = Field(default=0.0, ge=0, lt=1, description="largest change of a crop's mean, as a share of it")
    colour: float = Field(default=0.0, ge=0, lt=1, description="the same for each of red, green and blue by itself")
    contrast: float = Field(default=0.0, ge=0, lt=1, description="largest change of differences from the mean, a share")
    lightness: float = Field(default=0.0, ge=0, le=255, description="largest value added to all pixels, of 255")
    cut_out_probability: float = Field(default=0.0, ge=0, le=1, description="a rectangle is covered with one colour")
    cut_out_sides: tuple[float, float] = Field(
        default=(0.1, 0.35), description="smallest and largest side of it, as a share of the crop's"
    )

    @model_validator(mode="after")
    def _check(self) -> AugmentSpec:
        if self.padding != PADDING:
            raise ValueError(
                f"padding: expected {PADDING:g}, with which evaluation, bundles and sharpose-run crop, got "
                f"{self.padding:g}; leave it out"
            )
        smallest, largest = self.cut_out_sides
        if not 0 < smallest <= largest <= 1:
            raise ValueError(f"cut_out_sides: expected 0 < smallest <= largest <= 1, got {list(self.cut_out_sides)}")
        return self

    @property
    def changes_pixels(self) -> bool:
        """Whether colours or a cut-out are drawn."""
        return any((self.brightness, self.colour, self.contrast, self.lightness, self.cut_out_probability))

    @classmethod
    def none(cls) -> AugmentSpec:
        """The crop as evaluation takes it."""
        return cls(
            shift_probability=0,
            flip_probability=0,
            half_body_probability=0,
            scale=0,
            rotation=0,
            rotation_probability=0,
        )


class PixelChange(NamedTuple):
    """What augmentation changes of the pixels of B crops, which themselves stay as they are.

    The network applies it as one multiply-add together with the normalisation; a teacher sees the crop without it.
    """

    gain: Tensor  # float32 [B], factor on all values of 0 to 255
    offset: Tensor  # float32 [B, 3], added after that
    hole: Tensor  # int64 [B, 4], `x1, y1, x2, y2` of the rectangle to cover, the ends excluded; zeros for none
    fill: Tensor  # float32 [B, 3], its colour, normalised


@dataclass(frozen=True)
class CropSample:
    """A person, cropped."""

    crop: npt.NDArray[np.uint8]  # uint8 [H, W, 3], RGB
    keypoints: Floats  # float32 [J, 3], `x, y` in crop pixels and COCO visibility; zeros where it is not labelled
    weights: Floats  # float32 [J], trust in the label
    center: Floats  # float32 [2], `x, y` of the crop's centre in picture pixels (of the mirrored picture if `flipped`)
    size: Floats  # float32 [2], width and height of the crop in picture pixels
    rotation: float  # degrees
    flipped: bool  # whether the picture was mirrored
    change: PixelChange | None  # of this crop alone (B is 1); None where the augmentation has none


def make_crop(
    sample: Sample, spec: AugmentSpec, crop_size: tuple[int, int], skeleton: Skeleton, rng: np.random.Generator
) -> CropSample:
    """Draw one variation of a person and cut it out at `crop_size`, `(height, width)`; all chance comes from `rng`."""
    image, keypoints, weights = sample.image_bgr, sample.keypoints.copy(), sample.weights
    frames = crop_frames(sample.box_xyxy[None], crop_size, spec.padding)
    center, size = frames.center[0], frames.size[0]
    if rng.random() < spec.shift_probability:
        center = (center + rng.uniform(-1, 1, 2) * spec.shift * size).astype(np.float32)
    flipped = bool(rng.random() < spec.flip_probability)
    if flipped:
        last = image.shape[1] - 1
        image = np.ascontiguousarray(image[:, ::-1])
        order = list(skeleton.flip_order)
        keypoints, weights = keypoints[order], weights[order]
        keypoints[:, 0] = last - keypoints[:, 0]
        center = np.array([last - center[0], center[1]], np.float32)
    labelled = (keypoints[:, 2] > 0) & (weights > 0)
    if labelled.sum() > spec.half_body_above and rng.random() < spec.half_body_probability:
        half = half_body(keypoints[:, :2], labelled, skeleton, crop_size, rng)
        center, size = (center, size) if half is None else half
    factor = np.clip(rng.standard_normal() * spec.scale + 1, 1 - spec.scale, 1 + spec.scale)
    angle = float(np.clip(rng.standard_normal() * spec.rotation, -2 * spec.rotation, 2 * spec.rotation))
    rotation = angle if rng.random() < spec.rotation_probability else 0.0

    size = (size * factor).astype(np.float32)
    matrix = _warp_matrix(center, size, rotation, crop_size)
    warped = cv2.warpAffine(image, matrix, (crop_size[1], crop_size[0]), flags=cv2.INTER_LINEAR)
    crop = np.asarray(cv2.cvtColor(warped, cv2.COLOR_BGR2RGB), np.uint8)
    mapped = np.zeros_like(keypoints)
    mapped[labelled, :2] = keypoints[labelled, :2] @ matrix[:, :2].T + matrix[:, 2]
    mapped[labelled, 2] = keypoints[labelled, 2]
    return CropSample(
        crop=crop,
        keypoints=mapped,
        weights=np.where(labelled, weights, 0).astype(np.float32),
        center=center,
        size=size,
        rotation=rotation,
        flipped=flipped,
        change=draw_pixel_change(crop, spec, rng) if spec.changes_pixels else None,
    )


_MEAN_STEP = 4  # pixels between those that a crop's mean colour is taken of


def draw_pixel_change(crop: npt.NDArray[np.uint8], spec: AugmentSpec, rng: np.random.Generator) -> PixelChange:
    """A change of the pixels of a crop, uint8 [H, W, 3] in RGB."""
    mean = crop[::_MEAN_STEP, ::_MEAN_STEP].mean(axis=(0, 1))
    level = (1 + rng.uniform(-spec.colour, spec.colour, 3)) * (1 + rng.uniform(-spec.brightness, spec.brightness))
    gain = 1 + rng.uniform(-spec.contrast, spec.contrast)
    offset = mean * (level - gain) + rng.uniform(-spec.lightness, spec.lightness)
    hole = np.zeros(4, np.int64)
    if rng.random() < spec.cut_out_probability:
        extent = np.array([crop.shape[1], crop.shape[0]])
        sides = np.maximum((rng.uniform(*spec.cut_out_sides, 2) * extent).astype(np.int64), 1)
        corner = rng.integers(0, extent - sides + 1)
        hole = np.concatenate([corner, corner + sides])
    fill = rng.standard_normal(3)
    values = (np.float32(gain)[None], np.float32(offset)[None], hole[None], np.float32(fill)[None])
    return PixelChange(*(torch.from_numpy(value) for value in values))


_HALF_BODY_PADDING = 1.5  # growth around half a body, in place of the box's padding
_FEW = 2  # the other half is taken where one has no more keypoints than this
_UPPER_BELOW = 0.5  # a standard NORMAL number below it picks the upper half: 69 % of the time, as released


def half_body(
    points: Floats,
    labelled: npt.NDArray[np.bool_],
    skeleton: Skeleton,
    crop_size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[Floats, Floats] | None:
    """Centre and size of a crop around half of a body, which `rng` chooses; None where there are too few keypoints, or
    the skeleton has but one half.

    `points` is float32 [J, 2] in picture pixels, `labelled` bool [J]. Centre and size are float32 [2], x first: the
    mean of the half's keypoints, and the size at the aspect of `crop_size`, `(height, width)`.
    """
    is_upper = np.array(skeleton.is_upper)
    if is_upper.all() or not is_upper.any():
        return None
    upper, lower = points[labelled & is_upper], points[labelled & ~is_upper]
    wants_upper = rng.standard_normal() < _UPPER_BELOW
    chosen = upper if (wants_upper and len(upper) > _FEW) or len(lower) <= _FEW else lower
    if len(chosen) < _FEW:
        return None
    extent = np.concatenate([np.zeros(2, np.float32), chosen.max(axis=0) - chosen.min(axis=0)])
    return chosen.mean(axis=0).astype(np.float32), crop_frames(extent[None], crop_size, _HALF_BODY_PADDING).size[0]


def _warp_matrix(center: Floats, size: Floats, rotation: float, crop_size: tuple[int, int]) -> Floats:
    """float32 [2, 3], picture pixels to crop pixels: the frame turned by `rotation` degrees about its centre covers the
    crop, "sizes minus one" (UDP).
    """
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    extent = size.astype(np.float64)
    scale = (np.array([crop_size[1], crop_size[0]]) - 1.0) / extent
    turn = np.array([[cosine, -sine], [sine, cosine]])
    offset = scale * (0.5 * extent - turn @ center.astype(np.float64))
    return np.column_stack([scale[:, None] * turn, offset]).astype(np.float32)

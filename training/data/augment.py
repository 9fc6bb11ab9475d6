"""The recipe's augmentation: what is drawn by chance, and the crop that comes of it.

The definitions are those of the released pipeline (MMPose 0.29, top-down): shift, flip, half body, scale and rotation,
in that order, then one UDP affine. Its half-body step needs MORE than 8 labelled keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from sharpose.geometry import PADDING
from sharpose.skeleton import Skeleton
from sharpose.training.data.affine import Frame, frame_of_box, map_points, warp_matrix
from sharpose.training.data.half_body import half_body_frame
from sharpose.training.data.sample import Sample

__all__ = ["AugmentSpec", "CropSample", "make_crop"]


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

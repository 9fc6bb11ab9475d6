"""The gate: which people are refined, and where the fine stage looks in the picture."""

from __future__ import annotations

import math
import reprlib
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError
from sharpose.geometry import CropFrames, keypoints_to_image
from sharpose.tokens import REGION_SIZE, region_grid

Refine = Literal["auto", "always", "never"]


def check_refine(refine: str) -> Refine:
    """`refine` if it is one of the modes; raises `InputError` otherwise."""
    if refine not in get_args(Refine):
        raise InputError(f"refine: expected one of {', '.join(get_args(Refine))}, got {refine!r}")
    return cast("Refine", refine)


def check_threshold(threshold: float) -> float:
    """`threshold` as a number; raises `InputError` where it isn't one."""
    try:
        number = float(threshold)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"quality_threshold: expected a number, got {reprlib.repr(threshold)}") from None
    if math.isnan(number):
        raise InputError("quality_threshold: expected a number, got NaN")
    return number


def check_rows(rows: npt.ArrayLike, people: int) -> npt.NDArray[np.bool_]:
    """Bool [people], true at `rows`; raises `InputError` where they aren't indices of people."""
    try:
        index = np.asarray(rows)
    except ValueError:  # lists of several lengths
        raise InputError(f"rows: expected indices in [0, {people}), got {reprlib.repr(rows)}") from None
    if not index.size and index.ndim == 1:
        index = index.astype(np.int64)  # an empty list is one of floats to numpy
    if index.dtype.kind not in "iu":
        raise InputError(f"rows: expected whole numbers, indices of people, got {index.dtype} {reprlib.repr(rows)}")
    if index.ndim != 1 or (index.size and (index.min() < 0 or index.max() >= people)):
        raise InputError(f"rows: expected indices in [0, {people}), got {reprlib.repr(rows)}")
    chosen = np.zeros(people, dtype=np.bool_)
    chosen[index] = True
    return chosen


def gate(quality: npt.NDArray[np.float32], threshold: float, refine: Refine) -> npt.NDArray[np.int32]:
    """Rows of a coarse batch that go on to the fine stage.

    Args:
        quality: float32 [N], predicted quality.
        threshold: Rows strictly below it are refined, compared in float32; NaN is not below anything.
        refine: `auto` asks the threshold, `always` takes every row, `never` none.

    Returns:
        int32 [M], ascending.
    """
    if refine == "never":
        return np.zeros(0, dtype=np.int32)
    if refine == "always":
        return np.arange(len(quality), dtype=np.int32)
    return np.flatnonzero(quality < np.float32(threshold)).astype(np.int32)


def region_boxes(region_order: npt.NDArray[np.int32], frames: CropFrames, selected: int) -> npt.NDArray[np.float32]:
    """Where the most relevant regions lie in the picture.

    Args:
        region_order: int32 [n, R], regions of every crop, most relevant first.
        frames: The n crops' frames.
        selected: K, how many regions a crop.

    Returns:
        float32 [n, K, 4], `x1, y1, x2, y2` in picture pixels: the outer edges of the pixels, so that neighbours touch.
    """
    columns = region_grid(frames.crop_size)[1]
    top = region_order[:, :selected]
    corner = np.stack([top % columns, top // columns], axis=-1).astype(np.float32) * REGION_SIZE - np.float32(0.5)
    corners = np.zeros((*top.shape, 2, 3), dtype=np.float32)
    corners[..., 0, :2] = corner
    corners[..., 1, :2] = corner + np.float32(REGION_SIZE)
    mapped = keypoints_to_image(corners.reshape(len(top), 2 * selected, 3), frames)
    return mapped[:, :, :2].reshape(len(top), selected, 4)

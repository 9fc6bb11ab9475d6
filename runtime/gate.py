"""The gate: which people are refined, and the patches that the fine stage gets of them."""

from __future__ import annotations

from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError
from sharpose.geometry import CropFrames, keypoints_to_image
from sharpose.tokens import FINE_PER_SIDE, PATCH_SIZE, PATCHES_PER_REGION, REGION_SIZE, region_grid

__all__ = ["Refine", "check_refine", "gate", "gather_patches", "patches_shape", "region_boxes"]

Refine = Literal["auto", "always", "never"]


def check_refine(refine: str) -> Refine:
    """`refine` if it is one of the modes; raises `InputError` otherwise."""
    if refine not in get_args(Refine):
        raise InputError(f"refine: expected one of {', '.join(get_args(Refine))}, got {refine!r}")
    return cast("Refine", refine)


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


_PIXELS = PATCH_SIZE * PATCH_SIZE * 3


def patches_shape(people: int, selected: int) -> tuple[int, int, int]:
    """The shape `[M, s*s*K, P*P*3]` of the patches of `people` crops with `selected` regions each."""
    return people, PATCHES_PER_REGION * selected, _PIXELS


def gather_patches(
    crops: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int32],
    region_order: npt.NDArray[np.int32],
    selected: int,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """Copy the pixels of the most relevant regions.

    Args:
        crops: uint8 [N, H, W, 3], RGB.
        rows: int32 [M], which crops.
        region_order: int32 [N, R], regions of every crop, most relevant first.
        selected: K, how many regions a crop.
        out: uint8 [M or more, s*s*K, P*P*3], overwritten; made if None.

    Returns:
        uint8 [M, s*s*K, P*P*3]: regions in order, the patches of a region row by row, pixels row by row, RGB last.

    Raises:
        InputError: `out` doesn't fit.
    """
    shape = patches_shape(len(rows), selected)
    if out is None:
        out = np.empty(shape, dtype=np.uint8)
    elif out.dtype != np.uint8 or out.shape[1:] != shape[1:] or len(out) < len(rows) or not out.flags.c_contiguous:
        raise InputError(f"out: expected contiguous uint8 {list(shape)} or longer, got {out.dtype} {list(out.shape)}")
    grid_rows, grid_columns = region_grid((crops.shape[1], crops.shape[2]))
    side, patch = FINE_PER_SIDE, PATCH_SIZE
    # Views of one pixel buffer each: [N, region row, region column, s, s, P, P, 3].
    regions = crops.reshape(len(crops), grid_rows, side, patch, grid_columns, side, patch, 3)
    regions = regions.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    target = out[: len(rows)].reshape(len(rows), selected, side, side, patch, patch, 3)
    for index, row in enumerate(rows):
        top = region_order[row, :selected]
        target[index] = regions[row][top // grid_columns, top % grid_columns]
    return out[: len(rows)]


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

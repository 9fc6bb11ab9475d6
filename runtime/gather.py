"""Cutting the fine stage's patches out of the uint8 crops."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError
from sharpose.tokens import FINE_PER_SIDE, PATCH_SIZE, PATCHES_PER_REGION, region_grid

__all__ = ["gather_patches", "patches_shape"]

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

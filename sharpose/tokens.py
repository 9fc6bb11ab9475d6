"""Regions and patches: how a crop is cut into the model's tokens, and the pixels of the fine stage's. Torch-free.

A crop of H x W pixels is a grid of square regions. The coarse stage sees the crop at half size, so that a region is one
coarse patch; the fine stage sees a region at full size, as `PATCHES_PER_REGION` fine patches.
"""

from __future__ import annotations

import math
import reprlib

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError

PATCH_SIZE = 16
"""Side of a patch in pixels of the picture that a stage sees (P)."""

FINE_PER_SIDE = 2
"""Fine patches along one side of a region (s)."""

PATCHES_PER_REGION = FINE_PER_SIDE**2
"""Fine patches in a region."""

REGION_SIZE = PATCH_SIZE * FINE_PER_SIDE
"""Side of a region in crop pixels."""

HEATMAP_STRIDE = 4
"""Crop pixels to one heatmap pixel."""


def region_grid(crop_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of regions in a crop of `(height, width)` pixels."""
    return crop_size[0] // REGION_SIZE, crop_size[1] // REGION_SIZE


def check_alpha(alpha: object) -> float:
    """A share of the regions as a number; raises `InputError` where it isn't one above 0 and at most 1."""
    if isinstance(alpha, float | int | np.floating) and not isinstance(alpha, bool) and 0 < alpha <= 1:
        return float(alpha)
    raise InputError(f"alpha: expected a number above 0 and at most 1, got {reprlib.repr(alpha)}")


def selected_regions(alpha: float, regions: int) -> int:
    """How many regions the fine stage looks at: `ceil(alpha * R)`.

    A product that is a whole number but for rounding (0.28 * 25) counts as that number.
    """
    return min(regions, max(1, math.ceil(alpha * regions - 1e-9)))


def fine_patch_index(grid: tuple[int, int]) -> npt.NDArray[np.int64]:
    """int64 [R, s*s]: row-major index in the fine grid of each region's patches, regions and patches row by row."""
    rows, columns = grid
    fine = np.arange(rows * columns * PATCHES_PER_REGION, dtype=np.int64)
    fine = fine.reshape(rows, FINE_PER_SIDE, columns, FINE_PER_SIDE).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(fine.reshape(rows * columns, PATCHES_PER_REGION))


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

"""Regions and patches: how a crop is cut into the model's tokens. Torch-free.

A crop of H x W pixels is a grid of square regions. The coarse stage sees the crop at half size, so that a region is one
coarse patch; the fine stage sees a region at full size, as `PATCHES_PER_REGION` fine patches.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = [
    "FINE_PER_SIDE",
    "HEATMAP_STRIDE",
    "PATCHES_PER_REGION",
    "PATCH_SIZE",
    "REGION_SIZE",
    "fine_patch_index",
    "region_grid",
    "selected_regions",
]

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

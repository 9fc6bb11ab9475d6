"""The flip test: heatmaps of a crop and of its mirror image, averaged. Without a shift, as UDP needs none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharpose.skeleton import Skeleton

__all__ = ["flip_back", "mirror_crops"]


def mirror_crops(crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Crops uint8 [n, H, W, 3] mirrored from left to right, contiguous."""
    return np.ascontiguousarray(crops[:, :, ::-1])


def flip_back(heatmaps: npt.NDArray[np.float32], skeleton: Skeleton) -> npt.NDArray[np.float32]:
    """Heatmaps [..., J, h, w] of mirrored crops as those of the crops themselves: left is right again."""
    return np.ascontiguousarray(heatmaps[..., list(skeleton.flip_order), :, ::-1])

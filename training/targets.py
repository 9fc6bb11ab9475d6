"""What a heatmap is trained towards: a Gaussian around the keypoint, on unbiased (UDP) coordinates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError

__all__ = ["DEFAULT_SIGMA", "heatmap_targets"]

DEFAULT_SIGMA = 2.0
"""Standard deviation in heatmap pixels of the released 256 x 192 recipes (384 x 288 uses 3)."""

_REACH = 3.0  # standard deviations: a keypoint farther outside the heatmap leaves no mark on it


def heatmap_targets(
    keypoints: npt.NDArray[np.float32],
    crop_size: tuple[int, int],
    heatmap_size: tuple[int, int],
    sigma: float = DEFAULT_SIGMA,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Target heatmaps and their weights.

    The Gaussian is centred on the keypoint itself, between pixels, so that decoding it gives the keypoint back. It is
    cut off three standard deviations from the pixel nearest to the keypoint.

    Args:
        keypoints: float32 [J, 3], `x, y` in crop pixels and COCO visibility (0: not labelled).
        crop_size: `(height, width)` of the crop.
        heatmap_size: `(h, w)`.
        sigma: Standard deviation in heatmap pixels.

    Returns:
        float32 [J, h, w] and float32 [J]: weight 0 where the keypoint isn't labelled or lies too far outside, else 1.

    Raises:
        InputError: `keypoints` has another shape, or `sigma` isn't positive.
    """
    if keypoints.ndim != 2 or keypoints.shape[1] != 3:
        raise InputError(f"keypoints: expected shape [J, 3], got {list(keypoints.shape)}")
    if not sigma > 0:
        raise InputError(f"sigma: expected a positive number, got {sigma}")
    height, width = heatmap_size
    stride = np.array([(crop_size[1] - 1.0) / (width - 1.0), (crop_size[0] - 1.0) / (height - 1.0)])
    targets = np.zeros((len(keypoints), height, width), dtype=np.float32)
    weights = (keypoints[:, 2] > 0).astype(np.float32)
    reach = sigma * _REACH
    columns, rows = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    for joint, (x, y) in enumerate(keypoints[:, :2] / stride):
        near_x, near_y = np.trunc(x + 0.5), np.trunc(y + 0.5)
        # The released rule, its one pixel more on the left and top included: such a target is empty, but counts.
        far_before = near_x + reach + 1 < 0 or near_y + reach + 1 < 0
        outside = far_before or near_x - reach >= width or near_y - reach >= height
        if outside or not weights[joint]:
            weights[joint] = 0.0
            continue
        across = np.exp(-((columns - x) ** 2) / (2 * sigma**2)) * (np.abs(columns - near_x) <= reach)
        down = np.exp(-((rows - y) ** 2) / (2 * sigma**2)) * (np.abs(rows - near_y) <= reach)
        targets[joint] = np.outer(down, across)
    return targets, weights

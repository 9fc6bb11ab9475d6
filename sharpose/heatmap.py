"""Heatmaps: decoding them to keypoints with DARK on UDP coordinates, in numpy. Torch-free.

The exported graphs decode by themselves (`sharpose.model.decode`); this is the same decoding for heatmaps that are
averaged outside a graph (flip test) and the yardstick that the graphs are tested with.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError

BLUR_KERNEL = 11
"""Side in heatmap pixels of the Gaussian that smooths a heatmap before its Taylor step."""

LOG_FLOOR, LOG_CEILING = 0.001, 50.0
"""A smoothed heatmap is clipped to this range before its logarithm is taken."""


def blur_matrix(size: int) -> npt.NDArray[np.float32]:
    """float32 [size, size]: the Gaussian blur along one axis as a matrix, borders mirrored without the edge pixel.

    Multiplying a heatmap by it from both sides is `cv2.GaussianBlur` with an 11-pixel kernel and its own sigma (2).
    """
    taps = cv2.getGaussianKernel(BLUR_KERNEL, 0, cv2.CV_64F)[:, 0]
    matrix = np.zeros((size, size), dtype=np.float64)
    period = max(2 * (size - 1), 1)
    for row in range(size):
        for offset, tap in enumerate(taps, start=-(BLUR_KERNEL // 2)):
            column = abs(row + offset) % period
            matrix[row, min(column, period - column) if size > 1 else 0] += tap
    return matrix.astype(np.float32)


def decode_heatmaps(heatmaps: npt.NDArray[np.float32], crop_size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Keypoints of heatmaps: the highest pixel, moved by one Newton step on the log of the smoothed heatmap.

    DARK (Zhang et al. 2020) as the released evaluation applies it to UDP heatmaps. A heatmap without a positive value
    has no peak: its keypoint is (-1, -1) in heatmap pixels, without a step.

    Args:
        heatmaps: float32 [n, J, h, w].
        crop_size: `(height, width)` of the crop that the heatmaps belong to.

    Returns:
        float32 [n, J, 3]: x, y in crop pixels, and the heatmap's maximum as score.

    Raises:
        InputError: `heatmaps` doesn't have four axes.
    """
    if heatmaps.ndim != 4:
        raise InputError(f"heatmaps: expected shape [n, J, h, w], got {list(heatmaps.shape)}")
    people, joints, height, width = heatmaps.shape
    keypoints = np.zeros((people, joints, 3), dtype=np.float32)
    to_crop = np.array([(crop_size[1] - 1.0) / (width - 1.0), (crop_size[0] - 1.0) / (height - 1.0)])
    for person in range(people):
        for joint in range(joints):
            heatmap = heatmaps[person, joint]
            peak_y, peak_x = divmod(int(np.argmax(heatmap)), width)
            score = heatmap[peak_y, peak_x]
            position = _newton_step(heatmap, peak_x, peak_y) if score > 0 else np.array([-1.0, -1.0])
            keypoints[person, joint, :2] = position * to_crop
            keypoints[person, joint, 2] = score
    return keypoints


def _newton_step(heatmap: npt.NDArray[np.float32], peak_x: int, peak_y: int) -> npt.NDArray[np.float64]:
    """`x, y` in heatmap pixels after the step from a peak."""
    smooth = cv2.GaussianBlur(heatmap, (BLUR_KERNEL, BLUR_KERNEL), 0)
    log = np.pad(np.log(np.clip(smooth, LOG_FLOOR, LOG_CEILING)), 1, mode="edge")
    around = log[peak_y : peak_y + 3, peak_x : peak_x + 3]
    center = around[1, 1]
    gradient = 0.5 * np.array([around[1, 2] - around[1, 0], around[2, 1] - around[0, 1]])
    dxx = around[1, 2] - 2 * center + around[1, 0]
    dyy = around[2, 1] - 2 * center + around[0, 1]
    dxy = 0.5 * (around[2, 2] - around[1, 2] - around[2, 1] + 2 * center - around[1, 0] - around[0, 1] + around[0, 0])
    hessian = np.array([[dxx, dxy], [dxy, dyy]], dtype=np.float64) + np.finfo(np.float32).eps * np.eye(2)
    step: npt.NDArray[np.float64] = np.array([peak_x, peak_y], dtype=np.float64) - np.linalg.solve(hessian, gradient)
    return step

"""Decoding heatmaps inside a graph: argmax and the DARK-UDP step with plain tensor operations.

The same decoding as `sharpose.heatmap.decode_heatmaps`, written so that ONNX and TensorRT take it: the Gaussian is two
matrix products, the 3 x 3 neighbourhood is gathered at clamped indices (which is edge padding).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharpose.heatmap import LOG_CEILING, LOG_FLOOR, blur_matrix

_FLOAT32_EPS = 1.1920929e-07  # what the released evaluation adds to the Hessian's diagonal
_MIN_DETERMINANT = 1e-20  # keeps a Hessian that is exactly singular in float32 from giving NaN


def row_of_peak(peak: Tensor, width: int) -> Tensor:
    """int64 indices into flattened heatmaps of this width to int64 rows.

    Half a pixel is added before the division: GPU kernels may multiply by a reciprocal that is one unit too low, which
    without it puts the peaks of column 0 into the row above.
    """
    return ((peak.to(torch.float32) + 0.5) / width).floor().to(torch.int64)


class HeatmapDecoder(nn.Module):
    """Heatmaps [B, J, h, w] in float32 to keypoints [B, J, 3]: x, y in crop pixels, score.

    Args:
        heatmap_size: `(h, w)`.
        crop_size: `(height, width)` in pixels.
    """

    blur_rows: Tensor
    blur_columns: Tensor

    def __init__(self, heatmap_size: tuple[int, int], crop_size: tuple[int, int]) -> None:
        super().__init__()
        self.heatmap_size = heatmap_size
        self.to_crop_x = (crop_size[1] - 1.0) / (heatmap_size[1] - 1.0)
        self.to_crop_y = (crop_size[0] - 1.0) / (heatmap_size[0] - 1.0)
        self.register_buffer("blur_rows", torch.from_numpy(blur_matrix(heatmap_size[0])), persistent=False)
        self.register_buffer("blur_columns", torch.from_numpy(blur_matrix(heatmap_size[1]).T.copy()), persistent=False)

    def forward(self, heatmaps: Tensor) -> Tensor:
        """Decode; see the class."""
        height, width = self.heatmap_size
        flat = heatmaps.flatten(2)
        peak = flat.argmax(dim=-1, keepdim=True)  # [B, J, 1], the first of equals
        score = flat.gather(2, peak)
        peak_y = row_of_peak(peak, width)
        peak_x = peak - peak_y * width

        smooth = self.blur_rows @ heatmaps @ self.blur_columns
        left, right = (peak_x - 1).clamp(min=0), (peak_x + 1).clamp(max=width - 1)
        up, down = (peak_y - 1).clamp(min=0), (peak_y + 1).clamp(max=height - 1)
        ys, xs = (up, peak_y, down), (left, peak_x, right)
        neighbours = torch.cat([y * width + x for y in ys for x in xs], dim=-1)  # [B, J, 9]
        log = smooth.flatten(2).gather(2, neighbours).clamp(LOG_FLOOR, LOG_CEILING).log()
        up_left, up_mid, _, mid_left, center, mid_right, _, down_mid, down_right = log.split(1, dim=-1)

        dx, dy = 0.5 * (mid_right - mid_left), 0.5 * (down_mid - up_mid)
        dxx = mid_right - 2.0 * center + mid_left + _FLOAT32_EPS
        dyy = down_mid - 2.0 * center + up_mid + _FLOAT32_EPS
        dxy = 0.5 * (down_right - mid_right - down_mid + 2.0 * center - mid_left - up_mid + up_left)
        determinant = dxx * dyy - dxy * dxy
        determinant = torch.where(determinant == 0.0, torch.full_like(determinant, _MIN_DETERMINANT), determinant)
        step_x = (dyy * dx - dxy * dy) / determinant
        step_y = (dxx * dy - dxy * dx) / determinant

        # A heatmap without a positive value has no peak: (-1, -1), as the released evaluation marks it.
        found = score > 0.0
        x = torch.where(found, peak_x.to(score.dtype) - step_x, torch.full_like(score, -1.0))
        y = torch.where(found, peak_y.to(score.dtype) - step_y, torch.full_like(score, -1.0))
        return torch.cat([x * self.to_crop_x, y * self.to_crop_y, score], dim=-1)

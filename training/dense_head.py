"""An auxiliary head on the patch tokens: each predicts its own piece of every heatmap. Dropped after training."""

from __future__ import annotations

from torch import Tensor, nn

from sharpose.config import ModelConfig
from sharpose.tokens import HEATMAP_STRIDE, REGION_SIZE

__all__ = ["DenseHead"]

_SIDE = REGION_SIZE // HEATMAP_STRIDE  # heatmap pixels along a region's side


class DenseHead(nn.Module):
    """A region's final feature becomes the 8 x 8 heatmap pixels of each keypoint that lie in it.

    A keypoint token has to learn where to look before it gets a signal; a region's token has what it needs in itself.
    So patch features become useful early, and the keypoint tokens find them so.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.grid = config.region_grid
        self.joints = config.num_keypoints
        self.norm = nn.LayerNorm(config.width)
        self.proj = nn.Linear(config.width, config.num_keypoints * _SIDE * _SIDE)
        nn.init.trunc_normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def forward(self, region_features: Tensor) -> Tensor:
        """[B, R, C] to heatmaps [B, J, h, w]."""
        rows, columns = self.grid
        pieces = self.proj(self.norm(region_features)).reshape(-1, rows, columns, self.joints, _SIDE, _SIDE)
        return pieces.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.joints, rows * _SIDE, columns * _SIDE)

"""The two heads: heatmaps from keypoint tokens, predicted quality from the quality token."""

from __future__ import annotations

from torch import Tensor, nn

from sharpose.config import ModelConfig

__all__ = ["HeatmapHead", "QualityPredictor"]


class HeatmapHead(nn.Module):
    """A keypoint token becomes its heatmap; one head serves both stages.

    `linear`: LayerNorm, Linear. `mlp`: LayerNorm, Linear, GELU, LayerNorm, Linear (released where C < h * w / 4).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heatmap_size = config.heatmap_size
        width, pixels = config.width, config.heatmap_size[0] * config.heatmap_size[1]
        if config.head == "linear":
            layers: list[nn.Module] = [nn.LayerNorm(width), nn.Linear(width, pixels)]
        else:
            hidden = config.head_hidden_width
            layers = [
                nn.LayerNorm(width),
                nn.Linear(width, hidden),
                nn.GELU(),
                nn.LayerNorm(hidden),
                nn.Linear(hidden, pixels),
            ]
        self.heatmap_mlp = nn.Sequential(*layers)

    def forward(self, keypoint_tokens: Tensor) -> Tensor:
        """[B, J, C] to heatmaps [B, J, h, w]."""
        return self.heatmap_mlp(keypoint_tokens).unflatten(-1, self.heatmap_size)


class QualityPredictor(nn.Module):
    """The quality token becomes the predicted quality of the coarse pose, an estimate of its OKS.

    The layers keep the released numbering (0, 3, 6), which leaves room for the dropout that training may want.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Linear(width, 1),
            nn.Sigmoid() if config.quality_activation == "sigmoid" else nn.GELU(),
        )

    def forward(self, quality_token: Tensor) -> Tensor:
        """[B, C] to [B], in the parameters' dtype, which stays float32 in a half model."""
        return self.mlp(self.norm(quality_token.to(self.norm.weight.dtype))).squeeze(-1)

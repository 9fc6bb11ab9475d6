"""The vision transformer that both stages share; its parameters carry the released checkpoints' names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharpose.config import ModelConfig
from sharpose.model.blocks import MLP, Block
from sharpose.model.heads import QualityPredictor
from sharpose.tokens import PATCH_SIZE, PATCHES_PER_REGION, fine_patch_index

__all__ = ["Backbone", "PatchEmbed"]


class PatchEmbed(nn.Module):
    """A patch of P x P pixels becomes a token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W], normalised, to tokens [B, H/P * W/P, C], row by row, in the parameters' dtype."""
        return self.proj(pixels.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)


class Backbone(nn.Module):
    """Tokens, position embeddings, patch embedding, blocks, final norm, reuse MLP and quality predictor.

    Attributes:
        depth_mined_from: The first block whose attention counts towards relevance (a quarter of the depth).
    """

    fine_index: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, regions = config.width, config.num_regions
        self.num_keypoints = config.num_keypoints
        self.num_regions = regions
        self.num_selected = config.num_selected
        self.keypoint_tokens = nn.Parameter(torch.zeros(1, config.num_keypoints, width))
        self.quality_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed_list = nn.ParameterList(
            [
                nn.Parameter(torch.zeros(1, regions, width)),
                nn.Parameter(torch.zeros(1, PATCHES_PER_REGION * regions, width)),
            ]
        )
        self.patch_embed = PatchEmbed(width)
        self.blocks = nn.ModuleList([Block(width, config.heads, config.mlp_hidden) for _ in range(config.depth)])
        self.depth_mined_from = config.depth // 4
        self.norm = nn.LayerNorm(width)
        self.reuse_block = nn.Sequential(nn.LayerNorm(width), MLP(width, config.mlp_hidden))
        self.quality_predictor = QualityPredictor(config)
        index = torch.from_numpy(fine_patch_index(config.region_grid))  # [R, s*s]
        self.register_buffer("fine_index", index, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Truncated normal (0.02) for tokens, positions and linear layers, as vision transformers start."""
        for parameter in (self.keypoint_tokens, self.quality_token, *self.pos_embed_list):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def fine_positions(self) -> Tensor:
        """[R, s*s, C]: the fine position embeddings, by region."""
        return self.pos_embed_list[1][0][self.fine_index]

"""The coarse stage: a half-size crop gives a pose, its quality, and the order in which regions matter."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharpose.model.backbone import Backbone
from sharpose.model.blocks import Block
from sharpose.model.heads import HeatmapHead

__all__ = ["RELEVANCE_DECAY", "CoarseOutput", "CoarseStage"]

RELEVANCE_DECAY = 0.99
"""beta: how much of the attention gathered so far stays when a block's is added (paper, section 3.2)."""


class CoarseOutput(NamedTuple):
    """What the coarse stage finds.

    Attributes:
        heatmaps: [B, J, h, w].
        quality: [B], predicted OKS of this pose.
        region_order: int64 [B, R], all regions, most relevant first.
        region_features: [B, R, C], final normalised features.
        region_embeddings: [B, R, C], the tokens as they entered the first block.
    """

    heatmaps: Tensor
    quality: Tensor
    region_order: Tensor
    region_features: Tensor
    region_embeddings: Tensor


class CoarseStage(nn.Module):
    """Runs `[quality, J keypoints, R regions]` through the blocks and mines relevance on the way."""

    def __init__(self, backbone: Backbone, keypoint_head: HeatmapHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.keypoint_head = keypoint_head

    @property
    def mined_rows(self) -> slice:
        """Token rows whose attention makes relevance: all keypoints but the LAST.

        The released models were trained with that slice (`1:J` of tokens that begin with the quality token), so their
        weights need exactly it.
        """
        return slice(1, self.backbone.num_keypoints)

    def forward(self, image: Tensor) -> CoarseOutput:
        """A normalised crop [B, 3, H, W] at full size."""
        backbone = self.backbone
        batch, joints = image.shape[0], backbone.num_keypoints
        half = functional.avg_pool2d(image, 2)  # bilinear at exactly half size
        embeddings = backbone.patch_embed(half) + backbone.pos_embed_list[0]
        tokens = torch.cat(
            [backbone.quality_token.expand(batch, -1, -1), backbone.keypoint_tokens.expand(batch, -1, -1), embeddings],
            dim=1,
        )
        relevance = embeddings.new_zeros(batch, backbone.num_regions, dtype=torch.float32)
        for depth, block in enumerate(backbone.blocks):
            assert isinstance(block, Block)
            if depth < backbone.depth_mined_from:
                tokens = block(tokens)
                continue
            tokens, attention = block.forward_mined(tokens, self.mined_rows)  # [B, heads, J-1, T]
            to_regions = attention[..., 1 + joints :].mean(dim=1).sum(dim=1)
            relevance = RELEVANCE_DECAY * relevance + (1 - RELEVANCE_DECAY) * to_regions
        tokens = backbone.norm(tokens)
        return CoarseOutput(
            heatmaps=self.keypoint_head(tokens[:, 1 : 1 + joints]),
            quality=backbone.quality_predictor(tokens[:, 0]),
            region_order=relevance.topk(backbone.num_regions, dim=1).indices,
            region_features=tokens[:, 1 + joints :],
            region_embeddings=embeddings,
        )

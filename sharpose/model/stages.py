"""SHaRPose in PyTorch: the coarse stage, the fine stage, and both behind the gate."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharpose.config import ModelConfig
from sharpose.model.backbone import Backbone, Block, HeatmapHead
from sharpose.tokens import PATCH_SIZE, PATCHES_PER_REGION

RELEVANCE_DECAY = 0.99
"""beta: how much of the attention gathered so far stays when a block's is added (paper, section 3.2)."""


class CoarseOutput(NamedTuple):
    """What the coarse stage finds."""

    heatmaps: Tensor  # [B, J, h, w]
    quality: Tensor  # [B], predicted OKS of this pose
    region_order: Tensor  # int64 [B, R], all regions, most relevant first
    region_features: Tensor  # [B, R, C], final normalised features
    region_embeddings: Tensor  # [B, R, C], the tokens as they entered the first block
    relevance: Tensor  # float32 [B, R], that of the regions in `region_order`, so descending; no graph gives it out


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
        ranked = relevance.topk(backbone.num_regions, dim=1)
        return CoarseOutput(
            heatmaps=self.keypoint_head(tokens[:, 1 : 1 + joints]),
            quality=backbone.quality_predictor(tokens[:, 0]),
            region_order=ranked.indices,
            region_features=tokens[:, 1 + joints :],
            region_embeddings=embeddings,
            relevance=ranked.values,
        )


class FineStage(nn.Module):
    """Runs `[J keypoints, s*s*K fine patches, R-K coarse patches]` through the coarse stage's blocks and head."""

    def __init__(self, backbone: Backbone, keypoint_head: HeatmapHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.keypoint_head = keypoint_head

    def forward(
        self, patches: Tensor, region_order: Tensor, region_features: Tensor, region_embeddings: Tensor
    ) -> Tensor:
        """Refined heatmaps.

        Args:
            patches: [M, s*s*K, 3, P, P], normalised pixels of the selected regions; regions in `region_order`, the
                patches of a region row by row. K may be any number of them, 1 to R.
            region_order: int64 [M, R], as the coarse stage gave it.
            region_features: [M, R, C], likewise.
            region_embeddings: [M, R, C], likewise.

        Returns:
            [M, J, h, w].
        """
        backbone = self.backbone
        batch, joints, width = patches.shape[0], backbone.num_keypoints, region_features.shape[-1]
        selected_count = patches.shape[1] // PATCHES_PER_REGION
        selected, others = region_order[:, :selected_count], region_order[:, selected_count:]

        pixels = backbone.patch_embed(patches.flatten(0, 1)).reshape(batch, selected_count, PATCHES_PER_REGION, width)
        positions = backbone.fine_positions()[selected]  # [M, K, s*s, C]
        reused = backbone.reuse_block(_take(region_features, selected)).unsqueeze(2)  # the same for a region's patches
        fine = (pixels + positions + reused).flatten(1, 2)

        tokens = torch.cat(
            [backbone.keypoint_tokens.expand(batch, -1, -1), fine, _take(region_embeddings, others)], dim=1
        )
        for block in backbone.blocks[:-1]:
            tokens = block(tokens)
        last = backbone.blocks[-1]
        assert isinstance(last, Block)
        return self.keypoint_head(backbone.norm(last.forward_first(tokens, joints)))


def _take(regions: Tensor, index: Tensor) -> Tensor:
    """[M, R, C] and indices [M, K] to [M, K, C]."""
    return regions.gather(1, index.unsqueeze(-1).expand(-1, -1, regions.shape[-1]))


def cut_patches(image: Tensor, region_order: Tensor, selected: int, columns: int) -> Tensor:
    """The fine patches of the most relevant regions.

    Args:
        image: [M, 3, H, W].
        region_order: int64 [M, R].
        selected: K, how many regions to take.
        columns: Regions in a row of the crop.

    Returns:
        [M, s*s*K, 3, P, P]; regions in order, the patches of a region row by row.
    """
    side = image.shape[-1] // columns // PATCH_SIZE
    batch = image.shape[0]
    grid = image.reshape(batch, 3, -1, side, PATCH_SIZE, columns, side, PATCH_SIZE)
    regions = grid.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(1, 2)  # [M, R, s, s, 3, P, P]
    rows = torch.arange(batch, device=image.device).unsqueeze(1)
    return regions[rows, region_order[:, :selected]].flatten(1, 3)


class PoseOutput(NamedTuple):
    """Heatmaps after both stages."""

    heatmaps: Tensor  # [B, J, h, w], the fine stage's where it ran
    refined: Tensor  # bool [B]
    coarse: CoarseOutput  # all that the coarse stage gave


class SHaRPose(nn.Module):
    """Sparse High-Resolution Pose (An et al., AAAI'24).

    Parameters have the names of the released checkpoints, `backbone.*` and `keypoint_head.*`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.keypoint_head = HeatmapHead(config)

    def coarse_stage(self) -> CoarseStage:
        """The coarse stage over this model's parameters."""
        return CoarseStage(self.backbone, self.keypoint_head).train(self.training)

    def fine_stage(self) -> FineStage:
        """The fine stage over this model's parameters."""
        return FineStage(self.backbone, self.keypoint_head).train(self.training)

    def forward(self, image: Tensor, quality_threshold: float | None = None) -> PoseOutput:
        """Poses of normalised crops.

        Args:
            image: [B, 3, H, W], normalised RGB.
            quality_threshold: Crops whose predicted quality is below it are refined; the configuration's if None.
                `inf` refines all, `-inf` none.
        """
        threshold = self.config.quality_threshold if quality_threshold is None else quality_threshold
        coarse = self.coarse_stage()(image)
        refined = coarse.quality < threshold
        rows = refined.nonzero().flatten()
        heatmaps = coarse.heatmaps
        if len(rows):
            order = coarse.region_order[rows]
            patches = cut_patches(image[rows], order, self.config.num_selected, self.config.region_grid[1])
            fine = self.fine_stage()(patches, order, coarse.region_features[rows], coarse.region_embeddings[rows])
            heatmaps = heatmaps.index_put((rows,), fine)
        return PoseOutput(heatmaps, refined, coarse)

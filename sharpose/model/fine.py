"""The fine stage: looks again, at full size, at the regions that mattered, for the crops that need it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharpose.model.backbone import Backbone
from sharpose.model.heads import HeatmapHead
from sharpose.tokens import PATCH_SIZE, PATCHES_PER_REGION

__all__ = ["FineStage", "cut_patches"]


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
                patches of a region row by row.
            region_order: int64 [M, R], as the coarse stage gave it.
            region_features: [M, R, C], likewise.
            region_embeddings: [M, R, C], likewise.

        Returns:
            [M, J, h, w].
        """
        backbone = self.backbone
        batch, joints, selected_count = patches.shape[0], backbone.num_keypoints, backbone.num_selected
        width = region_features.shape[-1]
        selected, others = region_order[:, :selected_count], region_order[:, selected_count:]

        pixels = backbone.patch_embed(patches.flatten(0, 1)).reshape(batch, selected_count, PATCHES_PER_REGION, width)
        positions = backbone.fine_positions()[selected]  # [M, K, s*s, C]
        reused = backbone.reuse_block(_take(region_features, selected)).unsqueeze(2)  # the same for a region's patches
        fine = (pixels + positions + reused).flatten(1, 2)

        tokens = torch.cat(
            [backbone.keypoint_tokens.expand(batch, -1, -1), fine, _take(region_embeddings, others)], dim=1
        )
        for block in backbone.blocks:
            tokens = block(tokens)
        return self.keypoint_head(backbone.norm(tokens[:, :joints]))


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

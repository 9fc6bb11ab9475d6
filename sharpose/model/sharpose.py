"""SHaRPose: both stages behind the gate, in PyTorch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from sharpose.config import ModelConfig
from sharpose.model.backbone import Backbone
from sharpose.model.coarse import CoarseOutput, CoarseStage
from sharpose.model.fine import FineStage, cut_patches
from sharpose.model.heads import HeatmapHead

__all__ = ["PoseOutput", "SHaRPose"]


class PoseOutput(NamedTuple):
    """Heatmaps after both stages.

    Attributes:
        heatmaps: [B, J, h, w], the fine stage's where it ran.
        refined: bool [B].
        coarse: All that the coarse stage gave.
    """

    heatmaps: Tensor
    refined: Tensor
    coarse: CoarseOutput


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

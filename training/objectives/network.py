"""The model as it is trained: every crop goes through both stages, and nothing is gated."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sharpose.config import ModelConfig
from sharpose.model.backbone import Block
from sharpose.model.stages import CoarseOutput, SHaRPose, cut_patches
from sharpose.tokens import HEATMAP_STRIDE, REGION_SIZE

__all__ = ["DenseHead", "TrainedNetwork", "TrainingNetwork", "TrainingOutput", "recompute_blocks", "set_drop_path"]

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


class TrainingOutput(NamedTuple):
    """What a batch of crops gives in training.

    Attributes:
        coarse: [B, J, h, w], heatmaps.
        fine: [F, J, h, w], heatmaps of the first F crops: of all, unless the recipe trains the fine stage on a share of
            them; None while it leaves the fine stage out.
        quality: [B], predicted OKS of the coarse pose.
        dense: [B, J, h, w], heatmaps from the patch tokens; None without an auxiliary head.
        region_order: int64 [B, R], most relevant first.
    """

    coarse: Tensor
    fine: Tensor | None
    quality: Tensor
    dense: Tensor | None
    region_order: Tensor


class TrainedNetwork(nn.Module):
    """A model and whatever is trained with it.

    Args:
        pose: The model; under `pose.` in the state.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, pose: SHaRPose) -> None:
        super().__init__()
        self.pose = pose
        for name, values in (("pixel_mean", pose.config.pixel_mean), ("pixel_std", pose.config.pixel_std)):
            self.register_buffer(name, 255.0 * torch.tensor(values).reshape(3, 1, 1), persistent=False)

    def normalised(self, images: Tensor) -> Tensor:
        """Crops uint8 [B, H, W, 3], RGB, to [B, 3, H, W] as the model takes them."""
        return (images.permute(0, 3, 1, 2).float() - self.pixel_mean) / self.pixel_std

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """All parameters, the model's by the names that a checkpoint gives them."""
        return [(name.removeprefix("pose."), parameter) for name, parameter in self.named_parameters()]

    def begin_step(self, epoch: int) -> None:
        """Told before every step how many epochs are done."""

    def compile_stages(self) -> None:
        """Compile what a step spends its time in; the first batches take minutes longer, the others less."""
        raise NotImplementedError


class TrainingNetwork(TrainedNetwork):
    """A model, the auxiliary head where one is wanted, and the way through both stages.

    Args:
        pose: The model.
        dense: Whether to learn with an auxiliary head on the patch tokens.
        fine_from_epoch: So many epochs go by before training runs the fine stage; evaluation always does.
        fine_share: Share of a batch's crops that training runs the fine stage on, one at least; evaluation takes all.
    """

    def __init__(
        self, pose: SHaRPose, *, dense: bool = False, fine_from_epoch: int = 0, fine_share: float = 1.0
    ) -> None:
        super().__init__(pose)
        self.dense = DenseHead(pose.config) if dense else None
        self._fine_from_epoch = fine_from_epoch
        self._fine_share = fine_share
        self._with_fine = True
        # Not submodules: their parameters are the model's, and would stand in its state twice.
        self._coarse: tuple[Callable[[Tensor], CoarseOutput]] = (pose.coarse_stage(),)
        self._fine: tuple[Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = (pose.fine_stage(),)

    def begin_step(self, epoch: int) -> None:
        """See `TrainedNetwork`: says whether the fine stage takes part."""
        self._with_fine = epoch >= self._fine_from_epoch

    def compile_stages(self) -> None:
        """See `TrainedNetwork`: both stages, each for itself."""
        self._coarse = (torch.compile(self._coarse[0]),)
        self._fine = (torch.compile(self._fine[0]),)

    def forward(self, images: Tensor) -> TrainingOutput:
        """Crops uint8 [B, H, W, 3], RGB."""
        pose = self.pose
        pixels = self.normalised(images)
        coarse = self._coarse[0](pixels)
        order = coarse.region_order
        dense = self.dense(coarse.region_features) if self.dense is not None else None
        if self.training and not self._with_fine:
            return TrainingOutput(coarse.heatmaps + self._nothing(), None, coarse.quality, dense, order)
        first = slice(max(round(self._fine_share * len(images)), 1) if self.training else len(images))
        patches = cut_patches(pixels[first], order[first], pose.config.num_selected, pose.config.region_grid[1])
        fine = self._fine[0](patches, order[first], coarse.region_features[first], coarse.region_embeddings[first])
        return TrainingOutput(coarse.heatmaps, fine, coarse.quality, dense, order)

    def _nothing(self) -> Tensor:
        """0, from what only the fine stage uses: processes that train together must all have all gradients."""
        backbone = self.pose.backbone
        only_fine = [backbone.pos_embed_list[1], *backbone.reuse_block.parameters()]
        return 0.0 * torch.stack([parameter.sum() for parameter in only_fine]).sum()


def set_drop_path(model: SHaRPose, rate: float) -> None:
    """Stochastic depth: 0 for the first block, rising by equal steps to `rate` for the last."""
    blocks = list(model.backbone.blocks)
    for index, block in enumerate(blocks):
        assert isinstance(block, Block)
        block.drop_path = rate * index / max(len(blocks) - 1, 1)


def recompute_blocks(model: SHaRPose) -> None:
    """Gradient checkpointing: a block's inner values are computed again in the backward pass instead of kept.

    Takes about a third more time, and memory for one block instead of all.
    """
    for block in model.backbone.blocks:
        assert isinstance(block, Block)
        for name in ("forward", "forward_mined"):
            setattr(block, name, _recomputed(getattr(block, name)))


def _recomputed(forward: Callable[..., object]) -> Callable[..., object]:
    def run(*arguments: object) -> object:
        if not torch.is_grad_enabled():
            return forward(*arguments)
        return checkpoint(forward, *arguments, use_reentrant=False)

    return run

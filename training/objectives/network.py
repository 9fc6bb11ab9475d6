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
from sharpose.training.data.augment import PixelChange

_SIDE = REGION_SIZE // HEATMAP_STRIDE  # heatmap pixels along a region's side


class DenseHead(nn.Module):
    """An auxiliary head: a region's final feature becomes its 8 x 8 pixels of every keypoint's heatmap.

    A keypoint token has to learn where to look before it gets a signal; a region's token already has what it needs. So
    patch features become useful early, and keypoint tokens find them so.
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
    """Output for a batch of crops in training."""

    coarse: Tensor  # [B, J, h, w], heatmaps
    # [F, J, h, w], heatmaps of the first F crops (of all, or the recipe's share); None while the fine stage is left out
    fine: Tensor | None
    quality: Tensor  # [B], predicted OKS of the coarse pose
    dense: Tensor | None  # [B, J, h, w], heatmaps from the patch tokens; None without an auxiliary head
    region_order: Tensor  # int64 [B, R], most relevant first
    region_features: Tensor  # [B, R, C], final and normalised
    guidance: dict[str, Tensor] | None = None  # scalars: the teacher's terms by name; None in evaluation and without it


class TrainedNetwork(nn.Module):
    """A model, under `pose.` in the state, and whatever is trained with it."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, pose: SHaRPose) -> None:
        super().__init__()
        self.pose = pose
        for name, values in (("pixel_mean", pose.config.pixel_mean), ("pixel_std", pose.config.pixel_std)):
            self.register_buffer(name, 255.0 * torch.tensor(values).reshape(3, 1, 1), persistent=False)

    def normalised(self, images: Tensor, change: PixelChange | None = None) -> Tensor:
        """Crops uint8 [B, H, W, 3], RGB, to [B, 3, H, W] as the model takes them, changed if there is a change."""
        pixels = images.permute(0, 3, 1, 2).contiguous().float()
        if change is None:
            return (pixels - self.pixel_mean) / self.pixel_std
        gain, offset = change.gain[:, None, None, None], change.offset[:, :, None, None]
        pixels = torch.addcmul((offset - self.pixel_mean) / self.pixel_std, pixels, gain / self.pixel_std)
        x1, y1, x2, y2 = (edge.reshape(-1, 1, 1, 1) for edge in change.hole.unbind(1))
        y = torch.arange(pixels.shape[2], device=pixels.device).reshape(1, 1, -1, 1)
        x = torch.arange(pixels.shape[3], device=pixels.device)
        inside = (y >= y1) & (y < y2) & (x >= x1) & (x < x2)
        return torch.where(inside, change.fill[:, :, None, None], pixels)

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """All parameters, the model's by the names that a checkpoint gives them."""
        return [(name.removeprefix("pose."), parameter) for name, parameter in self.named_parameters()]

    def begin_step(self, epoch: int) -> None:
        """Called before every step with the number of finished epochs."""

    def compile_stages(self) -> None:
        """Compile what a step spends its time in; the first batches then take minutes longer, the others less."""
        raise NotImplementedError


class PoseNetwork(TrainedNetwork):
    """A model with both stages, and the auxiliary head where one is wanted.

    Args:
        pose: The model.
        dense: Whether there is an auxiliary head on the patch tokens.
        fine_from_epoch: Epochs that training leaves the fine stage out of; evaluation always runs it.
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
        """See `TrainedNetwork`: the fine stage may start late."""
        self._with_fine = epoch >= self._fine_from_epoch

    def compile_stages(self) -> None:
        """See `TrainedNetwork`: each stage by itself."""
        self._coarse = (torch.compile(self._coarse[0]),)
        self._fine = (torch.compile(self._fine[0]),)

    def forward(self, images: Tensor, change: PixelChange | None = None) -> TrainingOutput:
        """Crops uint8 [B, H, W, 3], RGB, and what the augmentation changes of their pixels."""
        pose = self.pose
        pixels = self.normalised(images, change)
        coarse = self._coarse[0](pixels)
        order = coarse.region_order
        dense = self.dense(coarse.region_features) if self.dense is not None else None
        if self.training and not self._with_fine:
            backbone = pose.backbone
            only_fine = [backbone.pos_embed_list[1], *backbone.reuse_block.parameters()]
            # zero: processes that train together must all have all gradients
            nothing = 0.0 * torch.stack([parameter.sum() for parameter in only_fine]).sum()
            heatmaps = coarse.heatmaps + nothing
            return TrainingOutput(heatmaps, None, coarse.quality, dense, order, coarse.region_features)
        first = slice(max(round(self._fine_share * len(images)), 1) if self.training else len(images))
        patches = cut_patches(pixels[first], order[first], pose.config.num_selected, pose.config.region_grid[1])
        fine = self._fine[0](patches, order[first], coarse.region_features[first], coarse.region_embeddings[first])
        return TrainingOutput(coarse.heatmaps, fine, coarse.quality, dense, order, coarse.region_features)


def set_drop_path(model: SHaRPose, rate: float) -> None:
    """Stochastic depth: 0 for the first block, rising by equal steps to `rate` for the last."""
    blocks = list(model.backbone.blocks)
    for index, block in enumerate(blocks):
        assert isinstance(block, Block)
        block.drop_path = rate * index / max(len(blocks) - 1, 1)


def recompute_blocks(model: SHaRPose) -> None:
    """Gradient checkpointing: compute a block's inner values again in the backward pass instead of keeping them.

    Takes about a third more time, and memory for one block instead of all.
    """

    def recomputed(forward: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            if not torch.is_grad_enabled():
                return forward(*arguments)
            return checkpoint(forward, *arguments, use_reentrant=False)

        return run

    for block in model.backbone.blocks:
        assert isinstance(block, Block)
        for name in ("forward", "forward_mined"):
            setattr(block, name, recomputed(getattr(block, name)))

"""A masked autoencoder (MAE): pre-training on pictures alone, around the model's own transformer.

Most patches are masked; a small decoder reconstructs them from the others' features (He et al., CVPR 2022). Both views
of a crop are used, the half-size one with the coarse positions and the full one with the fine ones. The decoder is
dropped afterwards: `--init last.pth` starts a training from what the transformer has learnt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from sharpose.model.backbone import Block
from sharpose.model.stages import SHaRPose
from sharpose.tokens import FINE_PER_SIDE, PATCH_SIZE
from sharpose.training.data.augment import PixelChange
from sharpose.training.init import sine_positions
from sharpose.training.objectives.network import TrainedNetwork

_LEARNT = ("backbone.patch_embed.", "backbone.blocks.", "backbone.norm.", "backbone.pos_embed_list.")
_HEAD_WIDTH = 32  # channels of an attention head of the decoder
_SMALL = 1e-6  # a patch of one colour has no contrast to divide by


class MaeRecipe(BaseModel):
    """Pre-training without labels and without evaluations."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    hidden: float = Field(default=0.75, gt=0, lt=1, description="share of the patches that are masked")
    decoder_width: int = Field(default=128, gt=0, le=8192, multiple_of=_HEAD_WIDTH)
    decoder_depth: int = Field(default=2, gt=0, le=64)


class MaeOutput(NamedTuple):
    """Mean squared error of the masked patches' contrast-normalised pixels, for each view; scalars."""

    coarse: Tensor
    fine: Tensor


class MaskedAutoencoder(TrainedNetwork):
    """The model's patch embedding, positions, blocks and norm, and a decoder that is dropped after training.

    Args:
        pose: The model; what pre-training doesn't reach (tokens, heads, reuse MLP) is frozen meanwhile.
        recipe: The masked share, and the decoder's size.
    """

    positions_coarse: Tensor
    positions_fine: Tensor

    def __init__(self, pose: SHaRPose, recipe: MaeRecipe) -> None:
        super().__init__(pose)
        self._masked = recipe.hidden
        width = recipe.decoder_width
        self.enter = nn.Linear(pose.config.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.decoder = nn.Sequential(
            *(Block(width, width // _HEAD_WIDTH, 4 * width) for _ in range(recipe.decoder_depth)), nn.LayerNorm(width)
        )
        self.paint = nn.Linear(width, 3 * PATCH_SIZE**2)
        grid = pose.config.region_grid
        self.register_buffer("positions_coarse", sine_positions(grid, 1, width), persistent=False)
        self.register_buffer("positions_fine", sine_positions(grid, FINE_PER_SIDE, width), persistent=False)
        for name, parameter in pose.named_parameters():
            parameter.requires_grad_(name.startswith(_LEARNT))
        self._view: tuple[Callable[[Tensor, Tensor, Tensor], Tensor]] = (self._error,)

    def compile_stages(self) -> None:
        """See `TrainedNetwork`: what both views go through."""
        self._view = (torch.compile(self._error),)

    def forward(self, images: Tensor, change: PixelChange | None = None) -> MaeOutput:
        """Crops uint8 [B, H, W, 3], RGB, and what the augmentation changes of their pixels.

        The masks are drawn from torch's generator.
        """
        pixels = self.normalised(images, change)
        coarse, fine = self.pose.backbone.pos_embed_list
        return MaeOutput(
            self._view[0](functional.avg_pool2d(pixels, 2), coarse, self.positions_coarse),
            self._view[0](pixels, fine, self.positions_fine),
        )

    def _error(self, pixels: Tensor, positions: Tensor, decoder_positions: Tensor) -> Tensor:
        """One view's error over its masked patches."""
        backbone = self.pose.backbone
        tokens = backbone.patch_embed(pixels) + positions
        batch, count, width = tokens.shape
        shown, masked = mask_patches(batch, count, self._masked, tokens.device)
        features = tokens.gather(1, shown.unsqueeze(-1).expand(-1, -1, width))
        for block in backbone.blocks:
            features = block(features)
        entered = self.enter(backbone.norm(features))
        canvas = self.mask_token.to(entered.dtype).expand(batch, count, -1)
        canvas = canvas.scatter(1, shown.unsqueeze(-1).expand(-1, -1, entered.shape[-1]), entered)
        reconstructed = self.paint(self.decoder(canvas + decoder_positions)).float()
        wanted = patch_pixels(pixels)
        wanted = (wanted - wanted.mean(-1, keepdim=True)) / (wanted.var(-1, keepdim=True) + _SMALL).sqrt()
        return (reconstructed - wanted).square().mean(-1).gather(1, masked).mean()


def mae_objective(output: MaeOutput, targets: Tensor, weights: Tensor, epoch: int) -> dict[str, Tensor]:
    """The loss and its terms, without labels: an `Objective`, see `sharpose.training.step`."""
    return {"loss": output.coarse + output.fine, "coarse_painting": output.coarse, "fine_painting": output.fine}


def mask_patches(batch: int, count: int, share: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices of shown patches, int64 [B, S], and masked ones, int64 [B, M]; drawn for every crop, one at least of
    each kind.
    """
    shown = min(max(round(count * (1 - share)), 1), count - 1)
    order = torch.rand(batch, count, device=device).argsort(dim=1)
    return order[:, :shown], order[:, shown:]


def patch_pixels(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] to [B, patches, 3 * P * P], patches row by row."""
    return functional.unfold(pixels, PATCH_SIZE, stride=PATCH_SIZE).transpose(1, 2)

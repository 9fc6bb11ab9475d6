"""Self-supervised pre-training on pictures alone: a masked autoencoder around the model's own transformer.

Most patches are hidden; a small decoder has to paint them from the others' features (He et al., CVPR 2022). Both of
the model's views of a crop are used, the half-size one with the coarse positions and the full one with the fine ones.
The decoder is dropped afterwards: `--init last.pth` starts a training from what the transformer has learnt.
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
from sharpose.training.init import sine_positions
from sharpose.training.objectives.network import TrainedNetwork

__all__ = ["MaskedAutoencoder", "MaskedOutput", "MaskedRecipe", "hide_patches", "painting_terms", "patch_pixels"]

_LEARNT = ("backbone.patch_embed.", "backbone.blocks.", "backbone.norm.", "backbone.pos_embed_list.")
_HEAD_WIDTH = 32  # of the decoder's attention heads
_SMALL = 1e-6  # a patch of one colour has no contrast to divide by


class MaskedRecipe(BaseModel):
    """A pre-training: labels aren't looked at, and there is no evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    hidden: float = Field(default=0.75, gt=0, lt=1, description="share of the patches to paint")
    decoder_width: int = Field(default=128, gt=0, multiple_of=_HEAD_WIDTH)
    decoder_depth: int = Field(default=2, gt=0)


class MaskedOutput(NamedTuple):
    """How wrong the painted patches are, squared error of their contrast-normalised pixels; scalars."""

    coarse: Tensor
    fine: Tensor


class MaskedAutoencoder(TrainedNetwork):
    """The model's patch embedding, positions, blocks and norm, and a decoder that is dropped after training.

    Args:
        pose: The model; what pre-training doesn't reach (tokens, heads, reuse MLP) is frozen meanwhile.
        recipe: How much is hidden, and the decoder's size.
    """

    positions_coarse: Tensor
    positions_fine: Tensor

    def __init__(self, pose: SHaRPose, recipe: MaskedRecipe) -> None:
        super().__init__(pose)
        self._hidden = recipe.hidden
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
        self._view: tuple[Callable[[Tensor, Tensor, Tensor], Tensor]] = (self._painted,)

    def compile_stages(self) -> None:
        """Compile what both views go through."""
        self._view = (torch.compile(self._painted),)

    def forward(self, images: Tensor) -> MaskedOutput:
        """Crops uint8 [B, H, W, 3], RGB. What is hidden is drawn from torch's generator."""
        pixels = self.normalised(images)
        coarse, fine = self.pose.backbone.pos_embed_list
        return MaskedOutput(
            self._view[0](functional.avg_pool2d(pixels, 2), coarse, self.positions_coarse),
            self._view[0](pixels, fine, self.positions_fine),
        )

    def _painted(self, pixels: Tensor, positions: Tensor, decoder_positions: Tensor) -> Tensor:
        """The error of one view."""
        backbone = self.pose.backbone
        tokens = backbone.patch_embed(pixels) + positions
        batch, count, width = tokens.shape
        shown, hidden = hide_patches(batch, count, self._hidden, tokens.device)
        features = tokens.gather(1, shown.unsqueeze(-1).expand(-1, -1, width))
        for block in backbone.blocks:
            features = block(features)
        entered = self.enter(backbone.norm(features))
        canvas = self.mask_token.to(entered.dtype).expand(batch, count, -1)
        canvas = canvas.scatter(1, shown.unsqueeze(-1).expand(-1, -1, entered.shape[-1]), entered)
        painted = self.paint(self.decoder(canvas + decoder_positions)).float()
        wanted = patch_pixels(pixels)
        wanted = (wanted - wanted.mean(-1, keepdim=True)) / (wanted.var(-1, keepdim=True) + _SMALL).sqrt()
        return (painted - wanted).square().mean(-1).gather(1, hidden).mean()


def painting_terms(output: MaskedOutput, targets: Tensor, weights: Tensor, epoch: int) -> dict[str, Tensor]:
    """The loss and its terms; labels don't count."""
    return {"loss": output.coarse + output.fine, "coarse_painting": output.coarse, "fine_painting": output.fine}


def hide_patches(batch: int, count: int, share: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which patches are shown, int64 [B, S], and which are hidden, int64 [B, H]: another choice for every crop.

    At least one is shown and one is hidden.
    """
    shown = min(max(round(count * (1 - share)), 1), count - 1)
    order = torch.rand(batch, count, device=device).argsort(dim=1)
    return order[:, :shown], order[:, shown:]


def patch_pixels(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] to [B, patches, 3 * P * P], patches row by row."""
    return functional.unfold(pixels, PATCH_SIZE, stride=PATCH_SIZE).transpose(1, 2)

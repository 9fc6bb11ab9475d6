"""Starts better than noise: sine positions, a DCT patch projection, and logits turned into heatmaps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sharpose.model.sharpose import SHaRPose
from sharpose.tokens import FINE_PER_SIDE, PATCH_SIZE

__all__ = ["dct_filters", "scale_heatmaps", "sine_positions", "start_with_dct", "start_with_sines"]

_LONGEST_WAVE = 10_000.0  # as transformers have it, in units of a region's side
_LUMA = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))  # brightness, and two colour differences
_COLOUR_PENALTY = 3.0  # colour is coarser than brightness: its waves count as so many times as short


def start_with_sines(model: SHaRPose) -> None:
    """Set both position embeddings to sines and cosines of the place in the crop.

    A fine patch's is that of its place among the regions, so that both stages speak of places alike. They are trained
    on like any other start.
    """
    grid, width = model.config.region_grid, model.config.width
    with torch.no_grad():
        model.backbone.pos_embed_list[0].copy_(sine_positions(grid, 1, width))
        model.backbone.pos_embed_list[1].copy_(sine_positions(grid, FINE_PER_SIDE, width))


def sine_positions(grid: tuple[int, int], per_side: int, width: int) -> Tensor:
    """float32 [1, rows * columns * per_side², width]: half of the channels for y, half for x, row by row.

    Args:
        grid: Rows and columns of regions.
        per_side: Tokens along a region's side.
        width: Channels; those that don't fill four equal parts stay 0.
    """
    waves = width // 4
    frequencies = _LONGEST_WAVE ** (-torch.arange(waves, dtype=torch.float64) / max(waves, 1))
    rows, columns = ((torch.arange(count * per_side, dtype=torch.float64) + 0.5) / per_side for count in grid)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    parts = [wave(place.reshape(-1, 1) * frequencies) for place in (y, x) for wave in (torch.sin, torch.cos)]
    positions = torch.zeros(y.numel(), width, dtype=torch.float64)
    positions[:, : 4 * waves] = torch.cat(parts, dim=1)
    return positions.float().unsqueeze(0)


def start_with_dct(model: SHaRPose) -> None:
    """Set the patch projection to the lowest waves of brightness and colour, which pictures are mostly made of."""
    projection = model.backbone.patch_embed.proj
    assert projection.bias is not None
    with torch.no_grad():
        projection.weight.copy_(dct_filters(model.config.width))
        projection.bias.zero_()


def dct_filters(width: int) -> Tensor:
    """float32 [width, 3, P, P]: orthogonal filters, waves from long to short.

    A short wave is amplified by its frequency, since pictures have less of it: outputs are of about one size for
    normalised pixels. Channels beyond the 3 * P * P that exist stay 0.
    """
    places = (torch.arange(PATCH_SIZE, dtype=torch.float64) + 0.5) * math.pi / PATCH_SIZE
    waves = torch.cos(torch.arange(PATCH_SIZE, dtype=torch.float64)[:, None] * places)  # [frequency, pixel]
    waves /= waves.norm(dim=1, keepdim=True)
    colours = torch.tensor(_LUMA, dtype=torch.float64)
    colours /= colours.norm(dim=1, keepdim=True)
    ordered = sorted(
        (math.hypot(u, v) * (1.0 if colour == 0 else _COLOUR_PENALTY) + 0.5 * (colour > 0), colour, u, v)
        for colour in range(3)
        for u in range(PATCH_SIZE)
        for v in range(PATCH_SIZE)
    )
    filters = torch.zeros(width, 3, PATCH_SIZE, PATCH_SIZE, dtype=torch.float64)
    for channel, (_, colour, u, v) in enumerate(ordered[:width]):
        gain = (1.0 + math.hypot(u, v)) / PATCH_SIZE
        filters[channel] = gain * colours[colour][:, None, None] * waves[u][:, None] * waves[v]
    return filters.float()


def scale_heatmaps(model: SHaRPose, factor: float) -> None:
    """Multiply every heatmap that the model gives by `factor`, through its head's last layer.

    A model whose heatmaps are logits (`softmax(heatmap)`) becomes, by 1 / temperature, one that the cross-entropy of
    `softmax(temperature * heatmap)` finds just as right.
    """
    last = model.keypoint_head.heatmap_mlp[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(factor)
        last.bias.mul_(factor)

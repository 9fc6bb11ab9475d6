"""Multiply-adds of a person by stage, and parameters: numbers of the README's model table.

python benchmarks/flops.py
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sharpose.config import ModelConfig, list_configs, load_config
from sharpose.model import SHaRPose
from sharpose.tokens import PATCH_SIZE, PATCHES_PER_REGION


@dataclass(frozen=True)
class Cost:
    """A model's work for a person, and its size."""

    coarse: int  # multiply-adds of the coarse stage
    fine: int  # of the fine stage, which come on top
    dense: int  # of one pass over all patches at full size instead
    parameters: int


def count_cost(config: ModelConfig) -> Cost:
    """Sum up the matrix products of a model's layers, those of decoding too.

    A multiplication with its addition counts once, as in MMPose's and RTMPose's tables. Norms, softmax and activations
    are left out.
    """
    width, joints, regions, selected = config.width, config.num_keypoints, config.num_regions, config.num_selected

    def blocks(tokens: int) -> int:
        layers = 4 * width * width + 2 * width * config.mlp_hidden  # qkv, projection, MLP
        return config.depth * (tokens * layers + 2 * tokens * tokens * width)

    rows, columns = config.heatmap_size
    pixels, hidden = rows * columns, config.head_hidden_width
    head = joints * (width * pixels if config.head == "linear" else width * hidden + hidden * pixels)
    blur = joints * pixels * (rows + columns)
    patch = 3 * PATCH_SIZE * PATCH_SIZE * width
    tokens, patches = 1 + joints + regions, PATCHES_PER_REGION * selected
    ranked = (config.depth - config.depth // 4) * (joints - 1) * tokens * width  # attention once more, for relevance
    quality = 2 * width * width + width
    reuse = selected * 2 * width * config.mlp_hidden
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in SHaRPose(config).parameters())
    return Cost(
        coarse=blocks(tokens) + regions * patch + ranked + quality + head + blur,
        fine=blocks(joints + patches + regions - selected) + patches * patch + reuse + head + blur,
        dense=blocks(joints + PATCHES_PER_REGION * regions) + PATCHES_PER_REGION * regions * patch + head + blur,
        parameters=parameters,
    )


def main() -> None:
    """Print a row for each configuration of the package."""
    print("| model | parameters | GFLOPs coarse | fine | both | dense | both / dense |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in list_configs():
        cost = count_cost(load_config(name))
        both = cost.coarse + cost.fine
        work = " | ".join(f"{count / 1e9:.1f}" for count in (cost.coarse, cost.fine, both, cost.dense))
        print(f"| {name} | {cost.parameters / 1e6:.1f} M | {work} | {100 * both / cost.dense:.0f} % |")


if __name__ == "__main__":
    main()

"""Multiply-adds of a person by stage, and parameters: numbers of the README's model table.

python benchmarks/flops.py
"""

from __future__ import annotations

from dataclasses import dataclass

from sharpose.config import ModelConfig, list_configs, load_config
from sharpose.tokens import PATCH_SIZE, PATCHES_PER_REGION


@dataclass(frozen=True)
class Cost:
    """A model's work for a person in multiply-adds."""

    coarse: int  # the coarse stage
    fine: int  # the fine stage, which comes on top
    dense: int  # one pass over all patches at full size instead
    vitpose: int  # the same without keypoint tokens and with ViTPose's head of deconvolutions


DECODER_WIDTH = 256
"""Channels between the two deconvolutions of ViTPose's classic head."""


def count_cost(config: ModelConfig, *, folded: bool = False) -> Cost:
    """Sum up the matrix products of a model's layers, those of decoding too. Without PyTorch.

    A multiplication with its addition counts once, as in MMPose's and RTMPose's tables. Norms, softmax and activations
    are left out.

    Args:
        config: The model.
        folded: Whether to count both stages as int8 graphs compute them (`export/folding.py`), with less work.
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
    everything = PATCHES_PER_REGION * regions
    fine_tokens = joints + patches + regions - selected
    spared = 0
    if folded:  # relevance comes from attention as it is; the fine stage's last block computes the keypoints' tokens
        ranked = 0
        others = fine_tokens - joints
        spared = others * (width * width + 2 * width * config.mlp_hidden) + 2 * others * fine_tokens * width
    deconvolved = 4 * everything  # pixels after the first deconvolution; the heatmap has four times as many
    decoder = 16 * everything * width * DECODER_WIDTH + 16 * deconvolved * DECODER_WIDTH**2
    return Cost(
        coarse=blocks(tokens) + regions * patch + ranked + quality + head + blur,
        fine=blocks(fine_tokens) - spared + patches * patch + reuse + head + blur,
        dense=blocks(joints + everything) + everything * patch + head + blur,
        vitpose=blocks(everything) + everything * patch + decoder + joints * pixels * DECODER_WIDTH + blur,
    )


def count_parameters(config: ModelConfig) -> int:
    """The parameters of a model."""
    import torch

    from sharpose.model import SHaRPose

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in SHaRPose(config).parameters())


def main() -> None:
    """Print a row for each configuration of the package."""
    print("| model | parameters | GFLOPs coarse | fine | both | dense | ViTPose | both / dense | both / ViTPose |")
    print("| --- " * 9 + "|")
    for name in list_configs():
        config = load_config(name)
        cost = count_cost(config)
        both = cost.coarse + cost.fine
        work = " | ".join(f"{count / 1e9:.1f}" for count in (cost.coarse, cost.fine, both, cost.dense, cost.vitpose))
        shares = " | ".join(f"{100 * both / count:.0f} %" for count in (cost.dense, cost.vitpose))
        print(f"| {name} | {count_parameters(config) / 1e6:.1f} M | {work} | {shares} |")


if __name__ == "__main__":
    main()

"""A model with the same outputs in less work, for int8 graphs, which spend less of their time in products of matrices.

* The normalisation of pixels goes into the patch embedding's weights, and the scale of attention into the queries'.
* A bias of keys adds the same to all keys of a query, which softmax ignores. One of values passes through attention
  unchanged, since its weights sum to one, and goes into the bias of the output layer. Only the queries' bias stays.
* The rows that relevance needs are taken from the attention weights of the whole block.
* The fine stage's last block computes the keypoints' tokens alone, which are all that its head reads.
* GELU is computed by its approximation with tanh, 0.0005 off at most: a hundredth of a step of 8 bits.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharpose.config import ModelConfig
from sharpose.model import SHaRPose
from sharpose.model.backbone import MLP, Attention, Block, PatchEmbed
from sharpose.tokens import PATCH_SIZE


def folded_model(model: SHaRPose) -> SHaRPose:
    """A copy of a float32 model in evaluation mode."""
    folded = copy.deepcopy(model).eval()
    backbone = folded.backbone
    backbone.patch_embed = FoldedPatchEmbed(backbone.patch_embed, model.config)
    backbone.blocks = nn.ModuleList([FoldedBlock(block) for block in backbone.blocks if isinstance(block, Block)])
    return folded


class FoldedPatchEmbed(PatchEmbed):
    """Takes pixels as they are, 0 to 255.

    Attributes:
        proj: For pictures, a convolution.
        linear: The same for single patches, as a product of matrices.
    """

    normalised = False

    def __init__(self, embed: PatchEmbed, config: ModelConfig) -> None:
        weight, bias = embed.proj.weight.detach(), embed.proj.bias
        assert bias is not None
        super().__init__(len(weight))
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.pixel_mean, config.pixel_std))
        bias = bias.detach() - (weight * (mean / std)).sum(dim=(1, 2, 3))
        weight = weight / (255.0 * std)
        self.linear = nn.Linear(weight[0].numel(), len(weight))
        for layer, matrix in ((self.proj, weight), (self.linear, weight.flatten(1))):
            layer.weight.data, layer.bias.data = matrix, bias  # type: ignore[union-attr]  # both have one

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] to tokens [B, H/P * W/P, C], row by row."""
        if pixels.shape[-2:] == (PATCH_SIZE, PATCH_SIZE):
            tokens: Tensor = self.linear(pixels.flatten(1).unsqueeze(1))
            return tokens
        return super().forward(pixels)


class FoldedBlock(Block):
    """A block of which only some tokens may be computed."""

    def __init__(self, block: Block) -> None:
        super().__init__(block.attn.proj.in_features, block.attn.heads, block.mlp.fc1.out_features)
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attn, self.mlp = FoldedAttention(block.attn), _FoldedMLP(block.mlp)

    def forward_first(self, x: Tensor, count: int) -> Tensor:
        """See `Block`."""
        query, key, value = self.attn.split_heads(self.norm1(x))
        x = x[:, :count] + self.attn.attend(query[:, :, :count], key, value)
        tokens: Tensor = x + self.mlp(self.norm2(x))
        return tokens


class FoldedAttention(Attention):
    """Attention without a fused kernel: all its weights are there, for relevance too."""

    def __init__(self, attention: Attention) -> None:
        width, heads = attention.proj.in_features, attention.heads
        super().__init__(width, heads)
        weight, bias = attention.qkv.weight.detach().clone(), attention.qkv.bias.detach()
        scale = (width // heads) ** -0.5
        weight[:width] *= scale
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.qkv.weight.data = weight
        self.query_bias = nn.Parameter((bias[:width] * scale).view(heads, 1, -1))
        self.proj = attention.proj
        self.proj.bias.data = self.proj.bias.data + self.proj.weight.data @ bias[2 * width :]

    def split_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Attention`."""
        query, key, value = super().split_heads(x)
        return query + self.query_bias, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Attention`."""
        return self.attend_mined(query, key, value, slice(0))[0]

    def attend_mined(self, query: Tensor, key: Tensor, value: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """See `Attention`."""
        weights = (query @ key.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).flatten(2)), weights[:, :, rows]


class _FoldedMLP(MLP):
    def __init__(self, mlp: MLP) -> None:
        super().__init__(mlp.fc1.in_features, mlp.fc1.out_features)
        self.fc1, self.fc2 = mlp.fc1, mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))
        return tokens

"""The vision transformer that both stages share, and its heads. Parameters have the released names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharpose.config import ModelConfig
from sharpose.tokens import PATCH_SIZE, PATCHES_PER_REGION, fine_patch_index


class LayerNorm(nn.LayerNorm):
    """Normalises in the dtype of its parameters, float32 in a half model too, and gives back what it takes.

    The exported half graphs so have a cast on either side of each LayerNorm: strongly typed TensorRT networks compute
    in the dtype of the input, and sums of squares in half precision overflow.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        if x.dtype == self.weight.dtype or torch.is_autocast_enabled(x.device.type):  # which has its own rule
            return super().forward(x)
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class HeatmapHead(nn.Module):
    """A keypoint token becomes its heatmap; one head serves both stages.

    `linear`: LayerNorm, Linear. `mlp`: LayerNorm, Linear, GELU, LayerNorm, Linear (released where C < h * w / 4).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heatmap_size = config.heatmap_size
        width, pixels = config.width, config.heatmap_size[0] * config.heatmap_size[1]
        if config.head == "linear":
            layers: list[nn.Module] = [LayerNorm(width), nn.Linear(width, pixels)]
        else:
            hidden = config.head_hidden_width
            layers = [
                LayerNorm(width),
                nn.Linear(width, hidden),
                nn.GELU(),
                LayerNorm(hidden),
                nn.Linear(hidden, pixels),
            ]
        self.heatmap_mlp = nn.Sequential(*layers)

    def forward(self, keypoint_tokens: Tensor) -> Tensor:
        """[B, J, C] to heatmaps [B, J, h, w]."""
        return self.heatmap_mlp(keypoint_tokens).unflatten(-1, self.heatmap_size)


class QualityPredictor(nn.Module):
    """The quality token becomes the predicted quality of the coarse pose, an estimate of its OKS.

    The layers keep the released numbering (0, 3, 6), which leaves room for the dropout that training may want.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.norm = LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Linear(width, 1),
            nn.Sigmoid() if config.quality_activation == "sigmoid" else nn.GELU(),
        )

    def forward(self, quality_token: Tensor) -> Tensor:
        """[B, C] to [B], in the parameters' dtype, which stays float32 in a half model."""
        return self.mlp(self.norm(quality_token.to(self.norm.weight.dtype))).squeeze(-1)


class Attention(nn.Module):
    """Multi-head self-attention with a fused kernel.

    The kernel doesn't give its attention weights away; `row_attention` computes the few rows that relevance needs.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def split_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, C] to queries, keys and values, each [B, heads, T, C / heads]."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B, heads, T, C / heads] each, to [B, T, C]."""
        out = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(out.transpose(1, 2).flatten(2))

    def attend_mined(self, query: Tensor, key: Tensor, value: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """As `attend`, and the attention weights of some query rows."""
        mined = self.row_attention(query, key, rows)
        return self.attend(query, key, value), mined

    def row_attention(self, query: Tensor, key: Tensor, rows: slice) -> Tensor:
        """The attention weights [B, heads, len(rows), T] of some query rows, in float32 whatever the model is in.

        Half precision would round these small numbers so far that other regions come out on top.
        """
        if torch.is_autocast_enabled(query.device.type):  # training; autocast would make the product half again
            with torch.autocast(query.device.type, enabled=False):
                return self.row_attention(query, key, rows)
        scale = query.shape[-1] ** -0.5
        return (query[:, :, rows].float() @ key.transpose(-2, -1).float() * scale).softmax(dim=-1)


class MLP(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x)).

    Attributes:
        drop_path: In training, the probability with which a crop skips a branch (stochastic depth); the branches that
            are kept are scaled up by as much. It does nothing in evaluation, and so isn't in any exported graph.
    """

    def __init__(self, width: int, heads: int, mlp_hidden: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = LayerNorm(width)
        self.mlp = MLP(width, mlp_hidden)
        self.drop_path = 0.0

    def _add(self, x: Tensor, branch: Tensor) -> Tensor:
        """Add a branch, leaving it out for some crops in training."""
        if not self.training or self.drop_path == 0.0:
            return x + branch
        kept = 1.0 - self.drop_path
        return x + branch * (branch.new_empty(len(x), 1, 1).bernoulli_(kept) / kept)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        query, key, value = self.attn.split_heads(self.norm1(x))
        x = self._add(x, self.attn.attend(query, key, value))
        return self._add(x, self.mlp(self.norm2(x)))

    def forward_first(self, x: Tensor, count: int) -> Tensor:
        """The first `count` tokens of what `forward` gives: [B, count, C]."""
        return self(x)[:, :count]

    def forward_mined(self, x: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """As `forward`, and the attention weights [B, heads, len(rows), T] of the token rows asked for."""
        query, key, value = self.attn.split_heads(self.norm1(x))
        attended, mined = self.attn.attend_mined(query, key, value, rows)
        x = self._add(x, attended)
        return self._add(x, self.mlp(self.norm2(x))), mined


class PatchEmbed(nn.Module):
    """A patch of P x P pixels becomes a token.

    Attributes:
        normalised: Whether it takes normalised pixels; else 0 to 255.
    """

    normalised = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W], normalised, to tokens [B, H/P * W/P, C], row by row, in the parameters' dtype."""
        return self.proj(pixels.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)


class Backbone(nn.Module):
    """Tokens, position embeddings, patch embedding, blocks, final norm, reuse MLP and quality predictor.

    Attributes:
        depth_mined_from: The first block whose attention counts towards relevance (a quarter of the depth).
    """

    fine_index: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, regions = config.width, config.num_regions
        self.num_keypoints = config.num_keypoints
        self.num_regions = regions
        self.keypoint_tokens = nn.Parameter(torch.zeros(1, config.num_keypoints, width))
        self.quality_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed_list = nn.ParameterList(
            [
                nn.Parameter(torch.zeros(1, regions, width)),
                nn.Parameter(torch.zeros(1, PATCHES_PER_REGION * regions, width)),
            ]
        )
        self.patch_embed = PatchEmbed(width)
        self.blocks = nn.ModuleList([Block(width, config.heads, config.mlp_hidden) for _ in range(config.depth)])
        self.depth_mined_from = config.depth // 4
        self.norm = LayerNorm(width)
        self.reuse_block = nn.Sequential(LayerNorm(width), MLP(width, config.mlp_hidden))
        self.quality_predictor = QualityPredictor(config)
        index = torch.from_numpy(fine_patch_index(config.region_grid))  # [R, s*s]
        self.register_buffer("fine_index", index, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Truncated normal (0.02) for tokens, positions and linear layers, as vision transformers start."""
        for parameter in (self.keypoint_tokens, self.quality_token, *self.pos_embed_list):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def fine_positions(self) -> Tensor:
        """[R, s*s, C]: the fine position embeddings, by region."""
        return self.pos_embed_list[1][0][self.fine_index]

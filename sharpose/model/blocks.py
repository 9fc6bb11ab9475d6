"""Pre-norm transformer blocks, shared by both stages, with relevance mined beside the fused attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MLP", "Attention", "Block"]


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
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
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

    def forward_mined(self, x: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """As `forward`, and the attention weights [B, heads, len(rows), T] of the token rows asked for."""
        query, key, value = self.attn.split_heads(self.norm1(x))
        mined = self.attn.row_attention(query, key, rows)
        x = self._add(x, self.attn.attend(query, key, value))
        return self._add(x, self.mlp(self.norm2(x))), mined

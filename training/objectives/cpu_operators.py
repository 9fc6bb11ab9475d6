"""Attention and the patch embedding of training steps in bfloat16 on a CPU, as plain matrix products.

The fused attention's backward pass has no bfloat16 kernel on CPUs, so that mixed precision gains nothing with it, and
that of the patches' convolution is slow. Evaluation, float32 steps and GPUs keep the model's own operators, and so do
exported graphs, which training never touches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from sharpose.model.backbone import Attention, PatchEmbed
from sharpose.model.stages import SHaRPose
from sharpose.tokens import PATCH_SIZE


def use_cpu_operators(model: SHaRPose) -> None:
    """Make the model's attention and patch embedding take matrix products in mixed precision on a CPU, while gradients
    are recorded.
    """
    for module in model.modules():
        if isinstance(module, Attention):
            _replace(module, "attend", attend_by_products)
        elif isinstance(module, PatchEmbed):
            _replace(module, "forward", embed_by_product)


def attend_by_products(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As `Attention.attend`: two products with a softmax between them."""
    weights = ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).softmax(dim=-1)
    return attention.proj((weights.to(value.dtype) @ value).transpose(1, 2).flatten(2))


def embed_by_product(embedding: PatchEmbed, pixels: Tensor) -> Tensor:
    """As `PatchEmbed.forward`: one product over all patches."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // PATCH_SIZE, width // PATCH_SIZE
    grid = pixels.reshape(batch, channels, rows, PATCH_SIZE, columns, PATCH_SIZE).permute(0, 2, 4, 1, 3, 5)
    patches = grid.reshape(batch, rows * columns, channels * PATCH_SIZE**2)
    return functional.linear(patches, embedding.proj.weight.flatten(1), embedding.proj.bias)


def _replace(module: Attention | PatchEmbed, name: str, by_products: Callable[..., Tensor]) -> None:
    own: Callable[..., Tensor] = getattr(module, name)

    def run(*inputs: Tensor) -> Tensor:
        is_step = torch.is_grad_enabled() and inputs[0].device.type == "cpu" and torch.is_autocast_enabled("cpu")
        return by_products(module, *inputs) if is_step else own(*inputs)

    setattr(module, name, run)

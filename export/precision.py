"""A half-precision copy of a model, with the parts that half would ruin left in float32."""

from __future__ import annotations

import copy

import torch

from sharpose.errors import ExportError
from sharpose.model import SHaRPose

__all__ = ["half_model"]


def half_model(model: SHaRPose) -> SHaRPose:
    """A float16 copy of a float32 model, with float32 islands.

    The islands are the quality head (a gate compares its output with a threshold) and the relevance branch: the mined
    attention rows, their softmax, the sum over blocks and the TopK (`sharpose.model.blocks.Attention.row_attention`
    casts for itself). Pixels are normalised, and heatmaps decoded, in float32 by the graphs around the model
    (`sharpose.export.graphs`). LayerNorm takes and gives float16 and keeps its statistics in float32 by itself, in
    PyTorch and in ONNX (`stash_type` 1).

    Args:
        model: In float32; not changed.

    Raises:
        ExportError: a weight is too large for float16.
    """
    largest = torch.finfo(torch.float16).max
    too_large = [name for name, value in model.state_dict().items() if value.abs().max() > largest]
    if too_large:
        raise ExportError(
            f"precision fp16: {', '.join(too_large[:4])} has weights beyond {largest:.0f}, which float16 can't hold; "
            "export with --precision fp32"
        )
    half = copy.deepcopy(model).half()
    # A copy of the original: `.float()` would keep what `.half()` has rounded away.
    half.backbone.quality_predictor = copy.deepcopy(model.backbone.quality_predictor)
    return half

"""Weights and crops that any machine can make again, bit for bit, for comparing with recorded outputs.

`tests/data/released_*.npz` hold what the released SHaRPose model computed from exactly these.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

SEED = 20240


def reference_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, npt.NDArray[np.float32]]:
    """Non-trivial values for every tensor of a checkpoint, by key.

    Norm weights lie around 1, biases and tokens around 0 but never at it; matrices are scaled by their fan-in.
    """
    return {key: _values(key, shape) for key, shape in shapes.items()}


def _values(key: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng([SEED, zlib.crc32(key.encode())])
    noise = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        norms = ("reuse_block.0.weight", "heatmap_mlp.0.weight", "heatmap_mlp.3.weight")
        if key.endswith(norms) or ("norm" in key and key.endswith("weight")):
            return np.float32(1.0) + np.float32(0.2) * noise
        if key.endswith("quality_predictor.mlp.6.bias"):
            return np.full(shape, 0.6, dtype=np.float32)
        return np.float32(0.1) * noise
    if "token" in key or "pos_embed" in key:
        return np.float32(0.5) * noise
    fan_in = int(np.prod(shape[1:]))
    return np.float32(1.0 / np.sqrt(fan_in)) * noise


def reference_crops(count: int, crop_size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """uint8 [count, H, W, 3]: coarse blocks of colour with fine noise on them."""
    rng = np.random.default_rng([SEED, count, *crop_size])
    height, width = crop_size
    blocks = rng.integers(0, 200, size=(count, height // 16, width // 16, 3))
    crops = np.repeat(np.repeat(blocks, 16, axis=1), 16, axis=2) + rng.integers(0, 56, size=(count, height, width, 3))
    return crops.astype(np.uint8)

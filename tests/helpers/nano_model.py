"""The smallest model with all parts."""

from __future__ import annotations

from sharpose.config import ModelConfig
from sharpose.skeleton import COCO17

NANO = ModelConfig(
    name="nano",
    skeleton=COCO17,
    crop_size=(128, 96),  # 12 regions
    width=24,
    depth=2,
    heads=12,
    alpha=0.5,
    quality_threshold=0.99,
)

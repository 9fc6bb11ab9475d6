"""A batch of crops with their targets, as PyTorch tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """B crops.

    Attributes:
        images: uint8 [B, H, W, 3], RGB.
        targets: float32 [B, J, h, w], heatmaps; [B, J, 0, 0] where the loader was asked for none.
        weights: float32 [B, J], trust in a label; 0 where there is none or its target lies outside the heatmap.
        keypoints: float32 [B, J, 3], `x, y` in crop pixels and COCO visibility.
        areas: float32 [B], square crop pixels that the person covers, for OKS.
        image_ids: int64 [B].
        annotation_ids: int64 [B].
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    keypoints: Tensor
    areas: Tensor
    image_ids: Tensor
    annotation_ids: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """A copy on a device."""
        return Batch(*(getattr(self, item.name).to(device, non_blocking=non_blocking) for item in fields(self)))

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, for quick copies to a GPU."""
        return Batch(*(getattr(self, item.name).pin_memory() for item in fields(self)))

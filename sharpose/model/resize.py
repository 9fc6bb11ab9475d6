"""Using a checkpoint at another resolution than it was trained at."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from sharpose.config import ModelConfig
from sharpose.errors import ConfigError
from sharpose.tokens import FINE_PER_SIDE

__all__ = ["resize_state_dict"]


def resize_state_dict(state: Mapping[str, Tensor], old: ModelConfig, new: ModelConfig) -> dict[str, Tensor]:
    """A state dict of `old`, resampled for the crop size of `new`.

    Position embeddings are interpolated on their grid. The head's last layer has one row a heatmap pixel, so its rows
    are interpolated as pictures are: that equals resizing every heatmap it makes. Heatmaps are resized with their
    corner pixels held in place, since UDP coordinates are measured between the corners' centres.

    Args:
        state: Tensors that fit `old`.
        old: The configuration that the checkpoint was trained with.
        new: The same model at another crop size.

    Raises:
        ConfigError: the configurations differ in more than crop size.
    """
    if (old.width, old.depth, old.head, old.head_hidden_width * (old.head == "mlp")) != (
        new.width,
        new.depth,
        new.head,
        new.head_hidden_width * (new.head == "mlp"),
    ):
        raise ConfigError(f"can't resample {old.name} to {new.name}: they differ in more than the crop size")
    resized = dict(state)
    for stage, scale in enumerate((1, FINE_PER_SIDE)):
        key = f"backbone.pos_embed_list.{stage}"
        old_grid, new_grid = ((rows * scale, columns * scale) for rows, columns in (old.region_grid, new.region_grid))
        rows_last = state[key][0].T  # [C, positions]
        resized[key] = _resize_grid(rows_last, old_grid, new_grid, align_corners=False).T.unsqueeze(0).contiguous()
    last = max(int(key.split(".")[2]) for key in state if key.startswith("keypoint_head.heatmap_mlp."))
    weight, bias = f"keypoint_head.heatmap_mlp.{last}.weight", f"keypoint_head.heatmap_mlp.{last}.bias"
    sizes = old.heatmap_size, new.heatmap_size
    resized[weight] = _resize_grid(state[weight].T, *sizes, align_corners=True).T.contiguous()
    resized[bias] = _resize_grid(state[bias].unsqueeze(0), *sizes, align_corners=True)[0].contiguous()
    return resized


def _resize_grid(maps: Tensor, old: tuple[int, int], new: tuple[int, int], *, align_corners: bool) -> Tensor:
    """[channels, old rows * old columns] to [channels, new rows * new columns], bicubic."""
    grid = maps.unflatten(1, old).unsqueeze(0)
    return functional.interpolate(grid, size=new, mode="bicubic", align_corners=align_corners)[0].flatten(1)

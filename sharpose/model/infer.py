"""Reading a model's configuration off the shapes of its checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from sharpose.config import ModelConfig, parse_config
from sharpose.errors import CheckpointError, ConfigError
from sharpose.skeleton import SKELETONS
from sharpose.tokens import HEATMAP_STRIDE, PATCHES_PER_REGION, REGION_SIZE

__all__ = ["ASSUMED_ALPHA", "ASSUMED_HEADS", "ASSUMED_THRESHOLD", "infer_config"]

ASSUMED_ALPHA, ASSUMED_HEADS, ASSUMED_THRESHOLD = 0.5, 12, 0.99


def infer_config(
    state: Mapping[str, Tensor], name: str, given: Mapping[str, object]
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The configuration that a state dict shows, and what had to be assumed, in sentences for the user.

    Fields in `given` are taken as they are, and not assumed.

    Width, depth, resolution, keypoints and head are read off the shapes. The region count fixes the crop because
    crops are 4:3 (12 n² regions) or square (n²), and no number is both.

    Raises:
        CheckpointError: a tensor that is needed is missing, or the shapes are none that SHaRPose has.
    """

    def shape(key: str, axes: int) -> tuple[int, ...]:
        if key not in state:
            raise CheckpointError(f"checkpoint {name}: not a SHaRPose checkpoint, {key} is missing")
        found = tuple(state[key].shape)
        if len(found) != axes or 0 in found:
            raise CheckpointError(f"checkpoint {name}: {key}: expected {axes} axes of some length, got {list(found)}")
        return found

    joints, width = shape("backbone.keypoint_tokens", 3)[-2:]
    regions, fine = shape("backbone.pos_embed_list.0", 3)[-2], shape("backbone.pos_embed_list.1", 3)[-2]
    if fine != PATCHES_PER_REGION * regions:
        raise CheckpointError(
            f"checkpoint {name}: expected {PATCHES_PER_REGION * regions} fine positions for {regions} regions, "
            f"got {fine}"
        )
    blocks = {int(match[1]) for key in state if (match := re.match(r"backbone\.blocks\.(\d+)\.", key))}
    skeleton = next((item.name for item in SKELETONS.values() if item.num_keypoints == joints), None)
    if skeleton is None:
        raise CheckpointError(f"checkpoint {name}: {joints} keypoints is no known skeleton's number; give --config")
    crop_size = _crop_size(regions, name)
    values: dict[str, object] = {
        "name": f"sharpose_c{width}_d{len(blocks)}_{crop_size[0]}x{crop_size[1]}",
        "skeleton": skeleton,
        "crop_size": crop_size,
        "width": width,
        "depth": len(blocks),
        "heads": ASSUMED_HEADS,
        "mlp_ratio": shape("backbone.blocks.0.mlp.fc1.weight", 2)[0] / width,
        "alpha": ASSUMED_ALPHA,
        "quality_threshold": ASSUMED_THRESHOLD,
    }
    if "keypoint_head.heatmap_mlp.4.weight" in state:
        hidden = shape("keypoint_head.heatmap_mlp.1.weight", 2)[0]
        usual = crop_size[0] * crop_size[1] // HEATMAP_STRIDE**2 // 2
        values |= {"head": "mlp"} | ({} if hidden == usual else {"head_hidden": hidden})
    assumptions = [
        f"{key.replace('_', ' ')} {values[key]}" for key in ("alpha", "heads", "quality_threshold") if key not in given
    ]
    try:
        config = parse_config(values | dict(given), source=f"read off {name}")
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {name}: {error}; give --config") from error
    note = f"no --config: {config.name} was read off the checkpoint"
    if assumptions:
        note += f"; assumed {', '.join(assumptions)}, which the file can't say"
    return config, (note,)


def _crop_size(regions: int, name: str) -> tuple[int, int]:
    """`(height, width)` of the 4:3 or square crop with that many regions."""
    side = math.isqrt(regions)
    if side * side == regions:
        return side * REGION_SIZE, side * REGION_SIZE
    unit = math.isqrt(regions // 12)
    if 12 * unit * unit == regions:
        return 4 * unit * REGION_SIZE, 3 * unit * REGION_SIZE
    raise CheckpointError(f"checkpoint {name}: {regions} regions is neither a 4:3 nor a square crop; give --config")

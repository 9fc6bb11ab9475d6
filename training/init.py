"""Initial weights: from checkpoints (SHaRPose, MAE, ViTPose), or structured ones that train faster than noise."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharpose.config import ModelConfig, parse_config
from sharpose.errors import CheckpointError, counted
from sharpose.model.stages import SHaRPose
from sharpose.model.weights_file import CONFIG_KEY, read_checkpoint
from sharpose.skeleton import BUILT_IN, Skeleton, get_skeleton, plain_name
from sharpose.tokens import FINE_PER_SIDE, PATCH_SIZE

_POSITIONS = ("backbone.pos_embed_list.0", "backbone.pos_embed_list.1")
_KEYPOINTS = "backbone.keypoint_tokens"
# Where these differ, weights fit all the same, but were trained for something else.
_SAME = ("heads", "quality_activation", "pixel_mean", "pixel_std")
_FROM_VIT = ("backbone.patch_embed.", "backbone.blocks.", "backbone.norm.")


@dataclass(frozen=True)
class InitReport:
    """Result of an initialisation."""

    kind: str  # `SHaRPose`, `ViTPose` or `ViT` (MAE and other plain vision transformers)
    loaded: tuple[str, ...]  # parameters of the model that were set
    left: tuple[str, ...]  # parameters that kept their random values
    unused: tuple[str, ...]  # tensors of the file that the model doesn't have
    notes: tuple[str, ...]  # conversions, in sentences

    def lines(self) -> list[str]:
        """For the user: how many tensors were set, and which were not; then the notes."""
        line = f"{self.kind} weights: set {counted(len(self.loaded), 'tensor')}"
        line += f", left {len(self.left)} at random ({_groups(self.left)})" if self.left else ""
        line += f", did not use {len(self.unused)} of the file ({_groups(self.unused)})" if self.unused else ""
        return [line, *self.notes]


def init_from_file(model: SHaRPose, path: str | Path) -> InitReport:
    """Set a model's weights from a file; nothing in the file is executed.

    Args:
        model: Changed in place.
        path: A SHaRPose checkpoint (of any crop size and skeleton; what it lacks stays random), or a plain ViT's: MAE's
            pretrained encoders, ViTPose.

    Raises:
        CheckpointError: the file can't be read, its transformer has another width or depth, or its positions are those
            of no crop that is known.
        ConfigError: the configuration in it isn't valid.
    """
    state, meta, notes = read_checkpoint(path, "--init", [argparse.Namespace])  # MAE's files hold their command line
    config = parse_config(meta[CONFIG_KEY], source=f"in {path}") if CONFIG_KEY in meta else None
    report = init_from_state(model, state, str(path), config)
    return dataclasses.replace(report, notes=(*notes, *report.notes))


def init_from_state(
    model: SHaRPose, state: Mapping[str, Tensor], name: str, config: ModelConfig | None = None
) -> InitReport:
    """As `init_from_file`, from tensors of a model with `config` (None: not known); `name` is for messages."""
    tensors = {
        key.removeprefix("module.").removeprefix("encoder."): value.float()
        for key, value in state.items()
        if value.is_floating_point()
    }
    if "backbone.keypoint_tokens" in tensors or "backbone.pos_embed_list.0" in tensors:
        return _from_sharpose(model, tensors, name, config)
    plain = {key.removeprefix("backbone."): value for key, value in tensors.items()}
    if "blocks.0.attn.qkv.weight" in plain and "patch_embed.proj.weight" in plain:
        return _from_vit(model, plain, name)
    raise CheckpointError(
        f"--init {name}: expected a SHaRPose, ViTPose or MAE checkpoint (patch_embed and blocks of a vision "
        f"transformer), got tensors like {', '.join(sorted(tensors)[:3]) or 'none'}"
    )


def _from_sharpose(model: SHaRPose, tensors: dict[str, Tensor], name: str, own: ModelConfig | None) -> InitReport:
    """Set what fits, of a file with the configuration `own`; without one, its crops are upright 4:3 or square, or the
    model's where the number of positions is.
    """
    config = model.config
    wanted = dict(model.state_dict())
    taken = {key: value for key, value in tensors.items() if key in wanted and value.shape == wanted[key].shape}
    if own is not None and own.region_grid != config.region_grid:  # as many places may be others
        last = f"keypoint_head.heatmap_mlp.{len(model.keypoint_head.heatmap_mlp) - 1}"
        for key in (*_POSITIONS, f"{last}.weight", f"{last}.bias"):
            taken.pop(key, None)
    notes = []
    for stage, key in enumerate(_POSITIONS):
        found = key if key in tensors else _POSITIONS[0]
        source = tensors.get(found)
        if key not in taken and source is not None and source.shape[-1] == config.width:
            grid = _source_grid(source.shape[-2], own, _POSITIONS.index(found), name)
            size = _stage_grid(config, stage)
            taken[key] = _resampled(source[0], grid, size)
            name_of = ("coarse", "fine")[stage]
            notes.append(f"positions of the {name_of} stage resampled from {_by(grid)} to {_by(size)}")
    _check_transformer(model, {key.removeprefix("backbone."): value for key, value in tensors.items()}, name)
    if (source := tensors.get(_KEYPOINTS)) is not None and source.shape[-1] == config.width:
        taken.pop(_KEYPOINTS, None)
        tokens, note = _tokens_by_name(model, source, None if own is None else own.skeleton)
        taken |= {} if tokens is None else {_KEYPOINTS: tokens}
        notes += [note] if note else []
    for key in _SAME if own is not None else ():
        theirs, ours = getattr(own, key), getattr(config, key)
        if theirs != ours:
            notes.append(f"{key}: {theirs} in the file's model, {ours} in this one")
    return _load(model, "SHaRPose", taken, set(tensors) - set(taken), notes)


def _tokens_by_name(model: SHaRPose, source: Tensor, skeleton: Skeleton | None) -> tuple[Tensor | None, str]:
    """The model's keypoint tokens [1, J, C], those of the source's tokens where keypoints have the same name, and what
    is to be said; None where no name is the same.

    A file that doesn't say its skeleton has the first built-in one with as many keypoints.
    """
    wanted = model.config.skeleton
    if skeleton is None:
        counted_alike = (name for name in BUILT_IN if get_skeleton(name).num_keypoints == source.shape[-2])
        found = next(counted_alike, None)
        if found is None:
            unsaid = f"the file doesn't say which {source.shape[-2]} keypoints it has"
            if source.shape[-2] == wanted.num_keypoints:
                return source, f"keypoint tokens: taken in their order; {unsaid}"
            return None, f"keypoint tokens: started anew; {unsaid}"
        skeleton = get_skeleton(found)
    rows = {plain_name(name): row for row, name in enumerate(skeleton.keypoints)}
    order = [rows.get(plain_name(name)) for name in wanted.keypoints]
    if order == list(range(source.shape[-2])):
        return source, ""
    new = [name for name, row in zip(wanted.keypoints, order, strict=True) if row is None]
    if len(new) == len(order):
        return None, f"keypoint tokens: started anew; {skeleton.name} of the file has none of {wanted.name}'s keypoints"
    tokens = model.backbone.keypoint_tokens.detach().clone()
    for row, place in enumerate(order):
        if place is not None:
            tokens[:, row] = source[:, place]
    note = f"keypoint tokens: {len(order) - len(new)} of {len(order)} by name from {skeleton.name}"
    return tokens, note + (f"; started anew: {', '.join(new)}" if new else "")


def _from_vit(model: SHaRPose, tensors: dict[str, Tensor], name: str) -> InitReport:
    _check_transformer(model, tensors, name)
    renamed = {f"backbone.{key.replace('last_norm.', 'norm.')}": value for key, value in tensors.items()}
    wanted = model.state_dict()
    taken = {key: value for key, value in renamed.items() if key.startswith(_FROM_VIT) and key in wanted}
    is_vitpose = "last_norm.weight" in tensors
    notes: list[str] = []
    used = set(taken)
    if "pos_embed" in tensors:
        positions, grid = _patch_positions(tensors["pos_embed"], name, add_class=is_vitpose)
        sizes = [_stage_grid(model.config, stage) for stage in range(2)]
        for key, size in zip(_POSITIONS, sizes, strict=True):
            taken[key] = _resampled(positions, grid, size)
        used.add("backbone.pos_embed")
        notes.append(f"positions resampled from {_by(grid)} to {_by(sizes[0])} (coarse) and {_by(sizes[1])} (fine)")
    unused = {key.removeprefix("backbone.") for key in set(renamed) - used}
    return _load(model, "ViTPose" if is_vitpose else "ViT", taken, unused, notes)


def _check_transformer(model: SHaRPose, tensors: Mapping[str, Tensor], name: str) -> None:
    """The blocks and the patch embedding must fit completely."""
    config = model.config
    depth = len({key.split(".")[1] for key in tensors if key.startswith("blocks.")})
    projection = tensors.get("patch_embed.proj.weight")
    width = projection.shape[0] if projection is not None else 0
    if (depth, width) != (config.depth, config.width):
        raise CheckpointError(
            f"--init {name}: expected {config.depth} blocks of width {config.width}, as {config.name} has, got {depth} "
            f"of width {width}"
        )
    for key, wanted in model.backbone.state_dict().items():
        if key.startswith(("blocks.", "patch_embed.")) and (key not in tensors or tensors[key].shape != wanted.shape):
            found = list(tensors[key].shape) if key in tensors else "nothing"
            raise CheckpointError(f"--init {name}: {key}: expected {list(wanted.shape)}, got {found}")


def _patch_positions(positions: Tensor, name: str, *, add_class: bool) -> tuple[Tensor, tuple[int, int]]:
    """[grid, C] of a ViT's [1, (1 +) grid, C], without the class token's, and the grid's rows and columns.

    ViTPose has no class token but adds its position to every patch's, so it is added here.
    """
    tokens = positions[0]
    if len(tokens) > 1 and _grid(len(tokens) - 1):
        patches = tokens[1:]
        return patches + tokens[:1] if add_class else patches, _crop_grid(len(patches), name)
    return tokens, _crop_grid(len(tokens), name)


def _grid(count: int) -> tuple[int, int] | None:
    """Rows and columns of a square grid, or of an upright 4:3 one."""
    side, unit = math.isqrt(count), math.isqrt(count // 12)
    if side * side == count:
        return side, side
    return (4 * unit, 3 * unit) if 12 * unit * unit == count else None


def _crop_grid(count: int, name: str) -> tuple[int, int]:
    grid = _grid(count)
    if grid is None:
        raise CheckpointError(f"--init {name}: {count} positions are no square or 4:3 grid")
    return grid


def _source_grid(count: int, own: ModelConfig | None, stage: int, name: str) -> tuple[int, int]:
    """Rows and columns of a file's positions: by its configuration, or guessed from their number."""
    if own is None:
        return _crop_grid(count, name)
    grid = _stage_grid(own, stage)
    if math.prod(grid) != count:
        raise CheckpointError(
            f"--init {name}: expected {_by(grid)} positions of the {('coarse', 'fine')[stage]} stage, for the crops of "
            f"{_by(own.crop_size)} of its configuration, got {count}"
        )
    return grid


def _stage_grid(config: ModelConfig, stage: int) -> tuple[int, int]:
    rows, columns = config.region_grid
    scale = FINE_PER_SIDE if stage else 1
    return rows * scale, columns * scale


def _resampled(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """[old rows * columns, C] to [1, new rows * columns, C], bicubic."""
    grid = positions.T.unflatten(1, old).unsqueeze(0)
    resized = functional.interpolate(grid, size=new, mode="bicubic", align_corners=False) if old != new else grid
    return resized[0].flatten(1).T.unsqueeze(0).contiguous()


def _load(model: SHaRPose, kind: str, taken: dict[str, Tensor], unused: set[str], notes: list[str]) -> InitReport:
    broken = [key for key, value in taken.items() if not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(f"--init: NaN or infinity in {', '.join(sorted(broken)[:4])}")
    model.load_state_dict(taken, strict=False)
    left = set(model.state_dict()) - set(taken)
    return InitReport(kind, tuple(sorted(taken)), tuple(sorted(left)), tuple(sorted(unused)), tuple(notes))


def _by(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"


def _groups(names: tuple[str, ...]) -> str:
    """The first two parts of names, each once: `backbone.blocks`, `keypoint_head.heatmap_mlp` …"""
    groups = dict.fromkeys(".".join(name.split(".")[:2]) if name.count(".") > 1 else name for name in names)
    shown = list(groups)[:6]
    return ", ".join(shown) + (" …" if len(groups) > len(shown) else "")


_LONGEST_WAVE = 10_000.0  # as transformers have it, in units of a region's side
_LUMA = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))  # brightness, and two colour differences
_COLOUR_PENALTY = 3.0  # colour is coarser than brightness: its frequencies count as three times as high


def start_with_sines(model: SHaRPose) -> None:
    """Set both position embeddings to sines and cosines of the place in the crop, measured in regions in both stages.

    They are trained like other initial weights.
    """
    grid, width = model.config.region_grid, model.config.width
    with torch.no_grad():
        model.backbone.pos_embed_list[0].copy_(sine_positions(grid, 1, width))
        model.backbone.pos_embed_list[1].copy_(sine_positions(grid, FINE_PER_SIDE, width))


def sine_positions(grid: tuple[int, int], per_side: int, width: int) -> Tensor:
    """float32 [1, rows * columns * per_side², width]: half of the channels for y, half for x, row by row.

    `grid` is `(rows, columns)` of regions, `per_side` the tokens along a region's side. Channels of `width` that don't
    fill four equal parts stay 0.
    """
    waves = width // 4
    frequencies = _LONGEST_WAVE ** (-torch.arange(waves, dtype=torch.float64) / max(waves, 1))
    rows, columns = ((torch.arange(count * per_side, dtype=torch.float64) + 0.5) / per_side for count in grid)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    parts = [wave(place.reshape(-1, 1) * frequencies) for place in (y, x) for wave in (torch.sin, torch.cos)]
    positions = torch.zeros(y.numel(), width, dtype=torch.float64)
    positions[:, : 4 * waves] = torch.cat(parts, dim=1)
    return positions.float().unsqueeze(0)


def start_with_dct(model: SHaRPose) -> None:
    """Set the patch projection to the lowest frequencies of brightness and colour, which pictures mostly consist of."""
    projection = model.backbone.patch_embed.proj
    assert projection.bias is not None
    with torch.no_grad():
        projection.weight.copy_(dct_filters(model.config.width))
        projection.bias.zero_()


def dct_filters(width: int) -> Tensor:
    """float32 [width, 3, P, P]: orthogonal cosine filters by rising frequency; channels beyond 3 * P * P stay 0.

    Filters are amplified by their frequency, since pictures have less of high ones: outputs are then of similar size
    for normalised pixels.
    """
    places = (torch.arange(PATCH_SIZE, dtype=torch.float64) + 0.5) * math.pi / PATCH_SIZE
    waves = torch.cos(torch.arange(PATCH_SIZE, dtype=torch.float64)[:, None] * places)  # [frequency, pixel]
    waves /= waves.norm(dim=1, keepdim=True)
    colours = torch.tensor(_LUMA, dtype=torch.float64)
    colours /= colours.norm(dim=1, keepdim=True)
    ordered = sorted(
        (math.hypot(u, v) * (1.0 if colour == 0 else _COLOUR_PENALTY) + 0.5 * (colour > 0), colour, u, v)
        for colour in range(3)
        for u in range(PATCH_SIZE)
        for v in range(PATCH_SIZE)
    )
    filters = torch.zeros(width, 3, PATCH_SIZE, PATCH_SIZE, dtype=torch.float64)
    for channel, (_, colour, u, v) in enumerate(ordered[:width]):
        gain = (1.0 + math.hypot(u, v)) / PATCH_SIZE
        filters[channel] = gain * colours[colour][:, None, None] * waves[u][:, None] * waves[v]
    return filters.float()


def scale_heatmaps(model: SHaRPose, factor: float) -> None:
    """Multiply the model's heatmaps by `factor`, in its head's last layer.

    A model whose heatmaps are logits (`softmax(heatmap)`) becomes, by 1 / temperature, one that the cross-entropy of
    `softmax(temperature * heatmap)` finds just as right.
    """
    last = model.keypoint_head.heatmap_mlp[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(factor)
        last.bias.mul_(factor)

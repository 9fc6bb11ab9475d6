"""Checkpoints in the released format, loaded strictly, without running code, at their own or another resolution."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor
from torch.nn import functional

from sharpose.bundle import RANDOM_WEIGHTS, Gate
from sharpose.config import ModelConfig, list_configs, load_config, parse_config
from sharpose.errors import CheckpointError, ConfigError, describe_validation_error
from sharpose.model.stages import SHaRPose
from sharpose.model.weights_file import CONFIG_KEY, GATE_KEY, SCORES_KEY, name_keys, read_checkpoint
from sharpose.scores.tables import ScoreTables
from sharpose.skeleton import BUILT_IN, get_skeleton
from sharpose.tokens import FINE_PER_SIDE, HEATMAP_STRIDE, PATCHES_PER_REGION, REGION_SIZE

RELEASED = ("sharpose_small_coco_256x192", "sharpose_base_coco_256x192", "sharpose_base_coco_384x288")
"""Configurations of the models whose weights their authors have released."""
_ASSUMED = {"alpha": 0.5, "heads": 12, "quality_threshold": 0.99}
"""What shapes can't say, where no configuration of the package has them."""
_OTHER = ", with another configuration"
_TRAINED = ("crop_size", "heads", "quality_activation", "pixel_mean", "pixel_std")
"""What weights are trained for and their shapes needn't say; the skeleton's keypoints are too."""
_SHAPED = ("skeleton", "crop_size", "width", "depth", "head", "mlp_hidden")


@dataclass(frozen=True)
class InferredConfig:
    """A configuration that was read off a checkpoint, and what is to be said to the user about it."""

    config: ModelConfig
    notes: tuple[str, ...]
    warnings: tuple[str, ...]  # values that may be wrong, so that poses would be


def infer_config(state: Mapping[str, Tensor], name: str, given: Mapping[str, object]) -> InferredConfig:
    """The configuration that a state dict shows.

    Width, depth, crop, keypoints and head are read off the shapes. The region count fixes the crop because crops are
    4:3 (12 n² regions) or square (n²), and no number is both. Alpha, heads and the gate's threshold are those in
    `given`, else of the released model that has these shapes, else, with a warning, of a configuration of the package
    that has them, or assumed. A file's name may say its alpha (`alpha0.3`), as released ones do.

    Args:
        state: The tensors by name.
        name: The file's name.
        given: Fields to take as they are.

    Raises:
        CheckpointError: a tensor that is needed is missing, the shapes are none that SHaRPose has, or the file's name
            says another alpha than the released model of these shapes has.
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
    skeletons = [item for item in BUILT_IN if get_skeleton(item).num_keypoints == joints]
    if not skeletons:
        raise CheckpointError(f"checkpoint {name}: {joints} keypoints is no known skeleton's number; give --config")
    crop_size = _crop_size(regions, name)
    values: dict[str, object] = {
        "name": f"sharpose_c{width}_d{len(blocks)}_{crop_size[0]}x{crop_size[1]}",
        "skeleton": skeletons[0],
        "crop_size": crop_size,
        "width": width,
        "depth": len(blocks),
        "mlp_ratio": shape("backbone.blocks.0.mlp.fc1.weight", 2)[0] / width,
    }
    if "keypoint_head.heatmap_mlp.4.weight" in state:
        hidden = shape("keypoint_head.heatmap_mlp.1.weight", 2)[0]
        usual = crop_size[0] * crop_size[1] // HEATMAP_STRIDE**2 // 2
        values |= {"head": "mlp"} | ({} if hidden == usual else {"head_hidden": hidden})
    try:
        shown = parse_config(values | _ASSUMED | dict(given), source=f"read off {name}")
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {name}: {error}; give --config") from error
    known = _same_shapes(shown)
    config = shown if known is None else known.replace(given)
    in_name = [] if "alpha" in given else alphas_in_name(name)
    if len(in_name) > 1:
        both = " and ".join(f"{alpha:g}" for alpha in in_name)
        raise CheckpointError(f"checkpoint {name}: its name says alpha {both}; give --config, or the right --alpha")
    named = next((alpha for alpha in in_name if 0 < alpha <= 1), None)
    unsaid = [field for field in _ASSUMED if field not in given]
    if named is not None:
        if known is not None and known.name in RELEASED and known.alpha != named:
            raise CheckpointError(
                f"checkpoint {name}: its name says alpha {named:g}, but it has the shapes of {known.name}, whose alpha "
                f"is {known.alpha:g}; give --config, or the right one as --alpha"
            )
        config = config.replace({"alpha": named})
        unsaid.remove("alpha")
    note = f"no --config: {config.name} was read off the checkpoint"
    if named is not None:
        note += f"; alpha {named:g} is in its name"
    rest = ", ".join(f"{field.replace('_', ' ')} {getattr(config, field):g}" for field in unsaid)
    warnings = []
    if in_name and named is None:
        warnings.append(
            f"checkpoint {name}: alpha {in_name[0]:g} in its name isn't above 0 and at most 1; {config.alpha:g} is used"
        )
    if rest and known is not None and known.name in RELEASED:
        note += f"; {rest}, as released"
        if config.quality_threshold > 1:
            note += " (above 1: everybody is refined)"
    elif rest:
        whose = "assumed" if known is None else f"those of {known.name}, a configuration with the same shapes"
        warnings.append(
            f"checkpoint {name} doesn't say {rest}, which are {whose}. If they are wrong, so are the poses: "
            "give --config NAME|FILE"
        )
    if (size := re.search(r"(?<!\d)(\d{2,4})x(\d{2,4})(?!\d)", name)) and (int(size[1]), int(size[2])) != crop_size:
        warnings.append(f"checkpoint {name} is for crops of {crop_size[0]}x{crop_size[1]}, whatever its name says")
    notes = [note]
    if others := " or ".join(skeletons[1:]):
        notes.append(f"its {joints} keypoints are taken for those of {skeletons[0]}; for {others} give --config")
    return InferredConfig(config, tuple(notes), tuple(warnings))


def _same_shapes(shown: ModelConfig) -> ModelConfig | None:
    """The configuration of the package whose checkpoints have the same shapes."""
    for config in map(load_config, list_configs()):
        same_head = config.head == "linear" or config.head_hidden_width == shown.head_hidden_width
        if same_head and all(getattr(config, field) == getattr(shown, field) for field in _SHAPED):
            return config
    return None


def alphas_in_name(name: str) -> list[float]:
    """The alphas that a file's name says, as in `sharpose_coco_384x288_b_alpha0.3.pth`; any numbers, ascending."""
    return sorted({float(number) for number in re.findall(r"alpha[-_=]?(\d*\.\d+|\d+)", name, re.IGNORECASE)})


def _crop_size(regions: int, name: str) -> tuple[int, int]:
    """`(height, width)` of the 4:3 or square crop with that many regions."""
    side = math.isqrt(regions)
    if side * side == regions:
        return side * REGION_SIZE, side * REGION_SIZE
    unit = math.isqrt(regions // 12)
    if 12 * unit * unit == regions:
        return 4 * unit * REGION_SIZE, 3 * unit * REGION_SIZE
    raise CheckpointError(f"checkpoint {name}: {regions} regions is neither a 4:3 nor a square crop; give --config")


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
    old_kind, new_kind = ((one.width, one.depth, one.head, _head_hidden(one)) for one in (old, new))
    if old_kind != new_kind:
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


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights."""

    model: SHaRPose  # in evaluation mode, float32, on the CPU
    config: ModelConfig  # its configuration
    source: str  # where the weights came from, for people to read
    notes: tuple[str, ...]  # what was converted on the way; to be said to the user
    warnings: tuple[str, ...] = ()  # what was assumed, so that poses may be wrong; not to be missed
    scores: ScoreTables | None = None  # what makes its scores probabilities, if it has been fitted
    gate: Gate | None = None  # of the bundle that it came from, if it was one


def load_model(
    path: str | Path,
    config: ModelConfig | None = None,
    *,
    size: tuple[int, int] | None = None,
    changes: Mapping[str, object] | None = None,
) -> LoadedModel:
    """A model from a checkpoint.

    Args:
        path: A file in the released format, a bundle, or another that `read_checkpoint` reads.
        config: Its configuration; if None, the one that the file carries, or what `infer_config` reads off it. What the
            file's own one says otherwise is a warning, of alpha and threshold a note.
        size: `(height, width)` of the crop to use the model at, if not the one it was trained at: position embeddings
            and the heatmap head are resampled.
        changes: Fields that a file can't say, to set on the configuration (`alpha`, `quality_threshold`, `heads`).

    Raises:
        CheckpointError: the file can't be read, would run code, or its tensors don't fit; the keys are named.
        ConfigError: `size` isn't one that the model can have.
    """
    state, meta, notes = read_checkpoint(path)
    warnings: tuple[str, ...] = ()
    in_name = alphas_in_name(Path(path).name)
    own = None
    if CONFIG_KEY in meta:
        try:
            own = parse_config(meta[CONFIG_KEY], source=f"in {path}")
        except ConfigError as error:
            if config is None:
                raise ConfigError(f"{error}; give --config") from error
            words = f"its own configuration can't be read ({error}); the given one is used"
            warnings = (f"checkpoint {Path(path).name}: {words}",)
    if config is None and own is not None:
        config = own
    elif config is None:
        inferred = infer_config(state, Path(path).name, changes or {})
        config, notes, warnings = inferred.config, notes + inferred.notes, inferred.warnings
    elif in_name and in_name != [config.alpha]:
        said = " and ".join(f"{alpha:g}" for alpha in in_name)
        warnings += (f"checkpoint {Path(path).name}: its name says alpha {said}; {config.alpha:g} is used, as given",)
    _refuse_abs(state, path)
    config = config.replace(changes or {})
    if own is not None:
        trained, chosen = _contradictions(own.replace(changes or {}), config)
        if trained:
            words = f"its own configuration says {'; '.join(trained)}. What is given is used: if that is wrong, so are"
            warnings += (f"checkpoint {Path(path).name}: {words} the poses",)
        if chosen:
            notes += (f"the checkpoint's own configuration says {'; '.join(chosen)}; what is given is used",)
    with torch.device("meta"):  # memory follows what the file holds, not what its configuration claims
        _check_keys(state, SHaRPose(config).state_dict(), path)
    if broken := [key for key, value in state.items() if not torch.isfinite(value).all()]:
        raise CheckpointError(f"checkpoint {path}: NaN or infinity in {name_keys(broken)}")
    model = SHaRPose(config)
    if size is not None and size != config.crop_size:
        resized = config.replace({"crop_size": size, "head_hidden": _head_hidden(config)})
        state = resize_state_dict(state, config, resized)
        (rows, columns), (old_rows, old_columns) = size, config.crop_size
        notes += (
            f"resampled from {old_rows}x{old_columns} to {rows}x{columns}: position embeddings and heatmap head were "
            "interpolated; fine-tune for full accuracy",
        )
        config, model = resized, SHaRPose(resized)
    model.load_state_dict(state, strict=True)
    scores, gate = _carried(ScoreTables, SCORES_KEY, meta, path), _carried(Gate, GATE_KEY, meta, path)
    if CONFIG_KEY in meta and (own is None or not _computes_the_same(own, config)):
        if scores is not None:
            notes += ("its score tables are left out, as they were fitted with another configuration; scores stay raw",)
            scores = None
        if gate is not None:
            if gate.gain is not None:
                notes += ("its gain of refining is left out, as it was measured with another configuration",)
            chosen_by = f"{gate.chosen_by.removesuffix(_OTHER)}{_OTHER}"
            gate = gate.model_copy(update={"gain": None, "chosen_by": chosen_by})
    return LoadedModel(model.float().eval(), config, f"checkpoint {Path(path).name}", notes, warnings, scores, gate)


def random_model(config: ModelConfig, seed: int = 0) -> LoadedModel:
    """A model with seeded random weights, for trying the tools out; its poses mean nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SHaRPose(config)
    return LoadedModel(model.eval(), config, f"{RANDOM_WEIGHTS}, seed {seed}", ())


def save_checkpoint(path: str | Path, model: SHaRPose, scores: ScoreTables | None = None) -> None:
    """Write a checkpoint in the released format, with the configuration in `meta`, and the score tables if any."""
    meta = {CONFIG_KEY: model.config.model_dump(mode="json")}
    if scores is not None:
        meta[SCORES_KEY] = scores.model_dump(mode="json")
    torch.save({"meta": meta, "state_dict": dict(model.state_dict())}, path)


_Carried = TypeVar("_Carried", bound=BaseModel)


def _carried(kind: type[_Carried], key: str, meta: Mapping[str, object], path: str | Path) -> _Carried | None:
    """What a checkpoint's metadata has under a key, beside its configuration."""
    if key not in meta:
        return None
    try:
        found = kind.model_validate(meta[key])
    except ValidationError as error:
        raise CheckpointError(f"checkpoint {path}: {key}: {describe_validation_error(error)}") from error
    if CONFIG_KEY not in meta:
        raise CheckpointError(f"checkpoint {path}: {key}: expected {CONFIG_KEY} beside it, got none")
    return found


def _contradictions(own: ModelConfig, used: ModelConfig) -> tuple[list[str], list[str]]:
    """What a checkpoint's own configuration says otherwise than the one that is used, though the weights fit both: with
    what the weights were trained for, and with what may be chosen anew.
    """
    trained, chosen = (
        [
            f"{field.replace('_', ' ')} {_words(theirs)}, not {_words(ours)}"
            for field in fields
            if (theirs := getattr(own, field)) != (ours := getattr(used, field))
        ]
        for fields in (_TRAINED, ("alpha", "quality_threshold"))
    )
    theirs, ours = own.skeleton, used.skeleton
    if (theirs.keypoints, theirs.flip_order) != (ours.keypoints, ours.flip_order):
        other = "other keypoints of that name" if theirs.name == ours.name else ours.name
        trained.append(f"skeleton {theirs.name}, not {other}")
    return trained, chosen


def _words(value: object) -> str:
    return " ".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


def _computes_the_same(fitted: ModelConfig, used: ModelConfig) -> bool:
    """Whether two configurations give the same scores: they differ in name and threshold at most."""
    return fitted.replace({"name": used.name, "quality_threshold": used.quality_threshold}) == used


def _head_hidden(config: ModelConfig) -> int | None:
    return config.head_hidden_width if config.head == "mlp" else None


def _refuse_abs(state: Mapping[str, Tensor], path: str | Path) -> None:
    last = state.get("backbone.quality_predictor.mlp.6.weight")
    if last is not None and last.shape[:1] == (2,):
        raise CheckpointError(
            f"checkpoint {path}: its quality predictor is of the 'abs' kind (two outputs), which no released model "
            "uses and this toolkit doesn't support; expected one output"
        )


def _check_keys(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path) -> None:
    missing = sorted(set(expected) - set(state))
    unknown = sorted(set(state) - set(expected))
    common = sorted(set(state) & set(expected))
    wrong = [
        f"{key} (expected {list(expected[key].shape)}, got {list(state[key].shape)})"
        for key in common
        if state[key].shape != expected[key].shape
    ]
    whole = [
        f"{key} ({state[key].dtype})" for key in sorted(expected) if key in state and state[key].dtype != torch.float32
    ]
    problems = [
        f"{what} {name_keys(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unknown", unknown),
            ("wrong shape", wrong),
            ("not floating-point", whole),
        )
        if keys
    ]
    if problems:
        hint = "; give the --config it was trained with, and --size for another crop" if wrong else ""
        raise CheckpointError(f"checkpoint {path} doesn't fit the model: {'; '.join(problems)}{hint}")

"""Checkpoints in the released format, loaded strictly, without running code, at their own or another resolution."""

from __future__ import annotations

import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sharpose.config import ModelConfig, parse_config
from sharpose.errors import CheckpointError, ConfigError, counted, how_to_install
from sharpose.model.stages import SHaRPose
from sharpose.skeleton import SKELETONS
from sharpose.tokens import FINE_PER_SIDE, HEATMAP_STRIDE, PATCHES_PER_REGION, REGION_SIZE

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


_CONFIG_KEY = "sharpose_config"  # where our own checkpoints keep their configuration, inside `meta`
_BEGINNINGS = (b"PK\x03\x04", b"\x80")  # of an archive, and of the pickles that older versions wrote
_NAMED = 4  # how many keys of a kind an error names
_FILE_BYTES = 16 << 30  # of the largest file: half of it are weights, which are read as float32
_HOLDERS = ("state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema", "ema_state_dict", "ema", "module")
"""Keys under which files keep their tensors, in the order in which they are looked for."""
_PREFIXES = ("module.", "_orig_mod.", "ema_model.", "ema_", "model.")  # of DataParallel, torch.compile, Lightning …
_SMALL = 1 << 20  # bytes of a file that may hold tensors many times
_COUNTER = "n_averaged"  # that torch's AveragedModel keeps among the weights

# MMCV notes a run's best score in `meta` as a numpy number; the name of the module changed with numpy 2.
_numpy_number = np.float64(0).__reduce__()[0]
_METADATA_TYPES: list[Any] = [
    *((_numpy_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int32", "int64", "bool")),
]


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights."""

    model: SHaRPose  # in evaluation mode, float32, on the CPU
    config: ModelConfig  # its configuration
    source: str  # where the weights came from, for people to read
    notes: tuple[str, ...]  # what was assumed or converted on the way; to be said to the user


def load_model(
    path: str | Path,
    config: ModelConfig | None = None,
    *,
    size: tuple[int, int] | None = None,
    changes: Mapping[str, object] | None = None,
) -> LoadedModel:
    """A model from a checkpoint.

    Args:
        path: A file in the released format, or another that `read_checkpoint` reads.
        config: Its configuration; read off the file if None, which leaves alpha, heads and threshold to be assumed
            (unless the file is ours and carries its configuration).
        size: `(height, width)` of the crop to use the model at, if not the one it was trained at: position embeddings
            and the heatmap head are resampled.
        changes: Fields that a file can't say, to set on the configuration (`alpha`, `quality_threshold`, `heads`).

    Raises:
        CheckpointError: the file can't be read, would run code, or its tensors don't fit; the keys are named.
        ConfigError: `size` isn't one that the model can have.
    """
    state, meta, notes = read_checkpoint(path)
    if config is None:
        if _CONFIG_KEY in meta:
            config = parse_config(meta[_CONFIG_KEY], source=f"in {path}")
        else:
            config, assumed = infer_config(state, Path(path).name, changes or {})
            notes += assumed
    _refuse_abs(state, path)
    config = config.replace(changes or {})
    with torch.device("meta"):  # memory follows what the file holds, not what its configuration claims
        _check_keys(state, SHaRPose(config).state_dict(), path)
    if broken := [key for key, value in state.items() if not torch.isfinite(value).all()]:
        raise CheckpointError(f"checkpoint {path}: NaN or infinity in {_name(broken)}")
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
    return LoadedModel(model.float().eval(), config, f"checkpoint {Path(path).name}", notes)


def random_model(config: ModelConfig, seed: int = 0) -> LoadedModel:
    """A model with seeded random weights, for trying the tools out; its poses mean nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SHaRPose(config)
    return LoadedModel(model.eval(), config, f"random weights, seed {seed}", ())


def save_checkpoint(path: str | Path, model: SHaRPose) -> None:
    """Write a checkpoint in the released format, with the configuration in `meta`."""
    meta = {_CONFIG_KEY: model.config.model_dump(mode="json")}
    torch.save({"meta": meta, "state_dict": dict(model.state_dict())}, path)


def read_checkpoint(
    path: str | Path, what: str = "checkpoint", allowed: Sequence[type] = ()
) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """The tensors by name, in float32 where they are floats, and the metadata; nothing in the file is executed.

    Args:
        path: A PyTorch file, in which the tensors may lie under one of several usual keys, or safetensors.
        what: What errors call it.
        allowed: Types that it may hold besides tensors and plain values.

    Returns:
        The tensors, without the prefixes that wrappers of models leave; `meta`; and notes, to be said to the user.

    Raises:
        CheckpointError: the file is missing, too large, isn't a checkpoint, or holds objects that loading would
            execute, or a tensor isn't a plain one with all its numbers in the file.
    """
    file = Path(path)

    def failure(reason: str) -> CheckpointError:
        return CheckpointError(f"{what} {file}: {reason}")

    if not file.is_file():
        raise failure(f"expected a .pth or .safetensors file, found {'a folder' if file.is_dir() else 'nothing'}")
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            beginning = opened.read(9)
    except OSError as error:
        raise failure(f"can't be read ({error.strerror})") from error
    if size > _FILE_BYTES:
        raise failure(f"expected at most {_FILE_BYTES} bytes, got {size}")
    if file.suffix == ".safetensors" or (beginning[8:] == b"{" and int.from_bytes(beginning[:8], "little") < size):
        content: object = _read_safetensors(file, failure)
    elif beginning.startswith(_BEGINNINGS):
        _refuse_zip_bomb(file, size, failure)
        content = _read_torch(file, allowed, failure)
    else:
        raise failure(f"expected a PyTorch checkpoint, got a file that begins {beginning[:8]!r}")
    meta = content.get("meta") if isinstance(content, Mapping) else None
    entries, notes = _held_tensors(content, failure)
    _check_layouts(entries, size, failure)
    tensors, more = _without_prefixes(entries, failure)
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    return tensors, dict(meta) if isinstance(meta, Mapping) else {}, (*notes, *more)


_Failure = Callable[[str], CheckpointError]


def _read_torch(file: Path, allowed: Sequence[type], failure: _Failure) -> object:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*_METADATA_TYPES, *allowed]):
            warnings.simplefilter("ignore")  # about pickle protocols, in front of the error that says it all
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            # torch names the type in one of two ways, after a page of advice
            named = re.search(r"GLOBAL (\S+)|(?:class|callable|global|for) '?<?(?:class )?'?([\w.]+\.\w+)", str(error))
            reason = "loading it could run code, or it is no checkpoint at all"
            if named:
                reason = f"it holds {named[1] or named[2]}, and loading it could run code; save the state dict alone"
            raise failure(f"refused, it isn't a plain file of tensors: {reason}") from error
        raise failure("not a PyTorch checkpoint") from error
    except Exception as error:  # a damaged file breaks torch's reader in many ways, struct.error and IndexError too
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise failure(f"not a readable PyTorch checkpoint ({reason})") from error


def _read_safetensors(file: Path, failure: _Failure) -> object:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise failure(f"reading it needs safetensors: {how_to_install('safetensors')}") from None
    try:
        return load_file(file)
    except Exception as error:  # its own error has no public base class, and torch's come through
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise failure(f"not a readable safetensors file ({reason})") from error


def _refuse_zip_bomb(file: Path, size: int, failure: _Failure) -> None:
    """Refuse an archive that unpacks to far more than it is long; PyTorch compresses nothing."""
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # an old pickle, or damaged: torch's reader says how
    if unpacked > 2 * size:
        raise failure(f"expected an archive without compression, got {size} bytes that unpack to {unpacked}")


def _held_tensors(content: object, failure: _Failure) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors wherever the file keeps them, and notes on that."""
    notes: list[str] = []
    held, path = content, list[str]()
    while isinstance(held, Mapping) and len(path) < len(_HOLDERS):
        found = [key for key in _HOLDERS if isinstance(held.get(key), Mapping)]
        if not found:
            break
        if len(found) > 1:
            notes.append(f"the weights of {found[0]!r} were read; the file holds {', '.join(map(repr, found[1:]))} too")
        held = held[found[0]]
        path.append(found[0])
    entries = dict(held) if isinstance(held, Mapping) else {}
    tensors = {key: value for key, value in entries.items() if isinstance(key, str) and isinstance(value, Tensor)}
    others = [str(key)[:80] for key in entries if key not in tensors]
    if not isinstance(held, Mapping) or (others and (not tensors or not path)):
        found_there = sorted(others)[:_NAMED] if others else type(content).__name__
        raise failure(f"expected tensors by name, best in 'state_dict' beside 'meta', got {found_there}")
    if path != ["state_dict"] and not notes:
        where = repr(".".join(path)) if path else "the file itself, a bare state dict"
        notes.append(f"the weights were read from {where}")
    if others:
        notes.append(f"left out what is no tensor: {_name(others)}")
    return tensors, notes


def _check_layouts(tensors: Mapping[str, Tensor], size: int, failure: _Failure) -> None:
    """Refuse tensors that aren't plain numbers in the file, before anything is converted."""
    total = 0
    for key, value in tensors.items():
        kind = None
        if value.is_meta:
            kind = "one on the meta device, without numbers"
        elif value.is_quantized or value.is_complex():
            kind = f"a {str(value.dtype).removeprefix('torch.')} one"
        elif value.layout != torch.strided or value.is_nested:
            kind = f"a {'nested' if value.is_nested else str(value.layout).removeprefix('torch.')} one"
        elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
            kind = f"an expanded one, {list(value.shape)} of {value.untyped_storage().nbytes()} bytes"
        if kind is not None:
            raise failure(f"{key}: expected a dense tensor of real numbers, got {kind}")
        total += value.numel() * value.element_size()
    if total > 2 * size + _SMALL:
        raise failure(f"expected tensors of their own, got {total} bytes of them in a file of {size}")


def _without_prefixes(entries: dict[str, Tensor], failure: _Failure) -> tuple[dict[str, Tensor], list[str]]:
    notes = []
    averages = [key for key in entries if key.startswith("ema_")]
    dropped = averages if len(averages) < len(entries) else []
    dropped += [key for key in entries if key == _COUNTER]
    if dropped:
        notes.append(
            f"left out {counted(len(dropped), 'tensor')} of an average kept beside the weights: {_name(dropped)}"
        )
    tensors = {key: value for key, value in entries.items() if key not in set(dropped)}
    taken = []
    while prefix := next(
        (prefix for prefix in _PREFIXES if tensors and all(k.startswith(prefix) for k in tensors)), ""
    ):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
        taken.append(prefix)
    compiled = {key: key.replace("._orig_mod.", ".") for key in tensors}  # only a part of the model was
    if len(set(compiled.values())) < len(tensors):
        raise failure("the same tensor stands there with and without _orig_mod.")
    if any(key != name for key, name in compiled.items()):
        taken.append("_orig_mod.")
    if taken:
        notes.append(f"took {' and '.join(taken)} off the names of {counted(len(tensors), 'tensor')}")
    return {compiled[key]: value for key, value in tensors.items()}, notes


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
        f"{what} {_name(keys)}"
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


def _name(keys: list[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more

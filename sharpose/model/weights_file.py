"""Files of weights, PyTorch's and safetensors: read without running code, undamaged, every number in the file."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from sharpose.bundle import MANIFEST_NAME
from sharpose.errors import CheckpointError, counted, how_to_install
from sharpose.files import found_at
from sharpose.model.bundle_weights import read_bundle_weights

CONFIG_KEY = "sharpose_config"  # where our own checkpoints keep their configuration, inside `meta`
SCORES_KEY = "sharpose_scores"  # and their score tables, if they have some
GATE_KEY = "sharpose_gate"  # what a bundle says of its gate, where that is the file

_ARCHIVE, _PICKLE = b"PK\x03\x04", b"\x80"  # how files begin; older versions wrote pickles
_NAMED = 4  # how many keys of a kind an error names
_FILE_BYTES = 16 << 30  # of the largest file: half of it are weights, which are read as float32
_HOLDERS = ("state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema", "ema_state_dict", "ema", "module")
"""Keys under which files keep their tensors, in the order in which they are looked for."""
_PREFIXES = ("module.", "_orig_mod.", "ema_model.", "ema_", "model.")  # of DataParallel, torch.compile, Lightning …
_PICKLE_BYTES = (
    8 << 20
)  # of an archive's pickle, a byte of which may become an object of 70; those of models have 0.1 MB
_SMALL = 1 << 20  # bytes of a file that may hold tensors many times
_COUNTER = "n_averaged"  # that torch's AveragedModel keeps among the weights

# MMCV notes a run's best score in `meta` as a numpy number; the name of the module changed with numpy 2.
_numpy_number = np.float64(0).__reduce__()[0]
_METADATA_TYPES: list[Any] = [
    *((_numpy_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int32", "int64", "bool")),
]
_ITEM_BYTES = {
    f"{name}Storage": size
    for names, size in (
        ("Byte Char Bool QInt8 QUInt8 Untyped", 1),
        ("Half BFloat16 Short", 2),
        ("Float Int QInt32", 4),
        ("Double Long ComplexFloat", 8),
        ("ComplexDouble", 16),
    )
    for name in names.split()
}
"""By the type of storage that a pickle names; an untyped one counts bytes."""


def read_checkpoint(
    path: str | Path, what: str = "checkpoint", allowed: Sequence[type] = ()
) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """The tensors by name, in float32 where they are floats, and the metadata; nothing in the file is executed.

    Args:
        path: A PyTorch file, in which the tensors may lie under one of several usual keys, safetensors, or the folder
            of a bundle.
        what: What errors call it.
        allowed: Types that it may hold besides tensors and plain values.

    Returns:
        The tensors, without the prefixes that wrappers of models leave; `meta`; and notes, to be said to the user.

    Raises:
        CheckpointError: the file is missing, too large, isn't a checkpoint, or holds objects that loading would
            execute, or a tensor isn't a plain one with all its numbers in the file.
        BundleError: the bundle is damaged.
    """
    file = Path(path)

    def failure(reason: str) -> CheckpointError:
        return CheckpointError(f"{what} {file}: {reason}")

    if (file / MANIFEST_NAME).is_file():
        state, manifest = read_bundle_weights(file, what)
        config = manifest.model.replace({"quality_threshold": manifest.gate.quality_threshold})
        held = {CONFIG_KEY: config, GATE_KEY: manifest.gate, SCORES_KEY: manifest.scores}
        return state, {key: value.model_dump(mode="json") for key, value in held.items() if value is not None}, ()
    if (found := found_at(file)) != "a file":
        found += f" without {MANIFEST_NAME}" if found == "a folder" else ""
        if found == "nothing" and file.name == "best.pth" and file.with_name("last.pth").is_file():
            found += "; the run hasn't been evaluated yet: give last.pth, which lies beside it"
        raise failure(f"expected a .pth or .safetensors file or a bundle, found {found}")
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            beginning = opened.read(9)
    except OSError as error:
        raise failure(f"can't be read ({error.strerror})") from error
    if size > _FILE_BYTES:
        raise failure(f"expected at most {_FILE_BYTES} bytes, got {size}")
    if file.suffix == ".safetensors" or (beginning[8:] == b"{" and int.from_bytes(beginning[:8], "little") < size):
        first: list[str] = []
        content: object = _read_safetensors(file, failure)
    elif beginning.startswith((_ARCHIVE, _PICKLE)):
        first = _check_archive(file, size, failure) if beginning.startswith(_ARCHIVE) else []
        content = _read_torch(file, allowed, failure)
    else:
        raise failure(f"expected a PyTorch checkpoint, got a file that begins {beginning[:8]!r}")
    meta = content.get("meta") if isinstance(content, Mapping) else None
    entries, notes = _held_tensors(content, failure)
    _check_layouts(entries, size, failure)
    tensors, more = _without_prefixes(entries, failure)
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    return tensors, dict(meta) if isinstance(meta, Mapping) else {}, (*first, *notes, *more)


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
        raise failure(f"not a readable PyTorch checkpoint ({_words(error)})") from error


def _read_safetensors(file: Path, failure: _Failure) -> object:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise failure(f"reading it needs safetensors: {how_to_install('safetensors')}") from None
    try:
        return load_file(file)
    except Exception as error:  # its own error has no public base class, and torch's come through
        raise failure(f"not a readable safetensors file ({_words(error)})") from error


def _check_archive(file: Path, size: int, failure: _Failure) -> list[str]:
    """Notes; refuses an archive that unpacks to far more than it is long, or is damaged.

    PyTorch compresses nothing and looks at no checksums, and some of its versions read past the end of a storage.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked > 2 * size:
                raise failure(f"expected an archive without compression, got {size} bytes that unpack to {unpacked}")
            has_sums = any(entry.CRC for entry in entries)
            if has_sums and (damaged := archive.testzip()) is not None:
                raise failure(f"damaged: {damaged} in it has another checksum than it should; copy it again")
            sizes = {entry.filename: entry.file_size for entry in entries}
            for entry in entries:
                if not has_sums:
                    del entry.CRC  # else the library compares with 0
                if entry.filename.endswith("data.pkl"):
                    if entry.file_size > _PICKLE_BYTES:
                        raise failure(f"expected a pickle of at most {_PICKLE_BYTES} bytes, got {entry.file_size}")
                    folder = entry.filename.removesuffix("data.pkl")
                    with archive.open(entry) as pickled:
                        _check_storages(pickled, folder, sizes, failure)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged archive, or pickle, breaks its reader in many ways
        raise failure(f"not a readable PyTorch checkpoint ({_words(error)})") from error
    return [] if has_sums else ["its archive has no checksums, so damage to it would go unnoticed"]


def _check_storages(pickled: IO[bytes], folder: str, sizes: Mapping[str, int], failure: _Failure) -> None:
    """Refuse a pickle that claims storages of more bytes than there are."""

    class Inventory(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 (nothing real: nothing is executed)
            return _ITEM_BYTES.get(name, _StandIn) if module == "torch" else _StandIn

        def persistent_load(self, pid: Any) -> _StandIn:  # noqa: ANN401
            _, kind, key, _, length = pid
            claimed, found = length * (kind if isinstance(kind, int) else 1), sizes.get(f"{folder}data/{key}", 0)
            if claimed > found:
                raise failure(f"damaged: it claims {claimed} bytes of {folder}data/{key}, which has {found}")
            return _StandIn()

    Inventory(pickled).load()


class _StandIn(dict[Any, Any]):
    """What a pickle makes of all types that it names."""

    def __init__(self, *args: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Forget it."""

    def extend(self, items: object) -> None:
        """Forget them."""

    append = add = extend
    __hash__ = object.__hash__  # type: ignore[assignment]


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
        notes.append(f"left out what is no tensor: {name_keys(others)}")
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
            f"left out {counted(len(dropped), 'tensor')} of an average kept beside the weights: {name_keys(dropped)}"
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


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def name_keys(keys: list[str]) -> str:
    """The first keys, and how many more there are, for messages."""
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more

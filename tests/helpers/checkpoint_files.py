"""Checkpoints with other dtypes, layouts, shapes, keys, sizes and pickles than those of `save_checkpoint`."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch


class _Call:
    """A pickle of this would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def mutated_checkpoint(sound: Path, path: Path, rng: np.random.Generator) -> tuple[Path, bool]:
    """Write a changed copy of a checkpoint.

    Args:
        sound: The checkpoint.
        path: Where the copy goes; `.safetensors` where it is such a file.
        rng: Decides.

    Returns:
        Its path, and whether its weights are those of `sound`, so that what is read must equal them.
    """
    content = torch.load(sound, weights_only=True)
    state: dict[str, Any] = content["state_dict"]
    what = int(rng.integers(10))
    if what == 0:
        _repack(sound, path, rng)
        return path, False
    if what == 1:
        from safetensors.torch import save_file

        path = path.with_suffix(".safetensors")
        save_file(state, path)
        if rng.random() < 0.6:
            _change_header(path, rng)
            return path, False
        return path, True
    if what == 2:
        holders = ["state_dict", "model", "ema", "module", "x"]
        for name in rng.choice(holders, int(rng.integers(1, 4))):
            content = {str(name): state, "epoch": 3} if rng.random() < 0.8 else {str(name): content}
        torch.save(content, path)
        return path, True
    if what == 3:
        prefix = str(rng.choice(["module.", "_orig_mod.", "ema_", "model.", "backbone.", ""]))
        content["state_dict"] = {prefix + key: value for key, value in state.items()}
        torch.save(content, path, _use_new_zipfile_serialization=bool(rng.random() < 0.5))
        return path, True
    if what == 4:
        content[str(rng.choice(["optimizer", "meta", "more"]))] = [_Call(), {1}, np.zeros(3), 2**70][
            int(rng.integers(4))
        ]
        torch.save(content, path)
        return path, True
    if what == 5:
        pickled = [_Call(), [1] * 10, {"state_dict": 5}, b"x" * 1000][int(rng.integers(4))]
        path.write_bytes(pickle.dumps(pickled, protocol=int(rng.integers(0, 6))))
        return path, True
    for _ in range(int(rng.choice([1, 1, 3]))):
        key = str(rng.choice(list(state)))
        changed = _changed(state[key], rng)
        if changed is None:
            del state[key]
        else:
            state[f"{key}x" if rng.random() < 0.1 else key] = changed
    torch.save(content, path)
    return path, False


def _changed(value: Any, rng: np.random.Generator) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    dtypes = [
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.int8,
        torch.bool,
        torch.complex64,
        torch.float8_e4m3fn,
    ]
    huge = [10**12, 10**6, 3]
    choices = [
        lambda: None,
        lambda: value.to(dtypes[int(rng.integers(len(dtypes)))]),
        lambda: value.T if value.ndim == 2 else value.unsqueeze(0),
        lambda: value.flatten()[:1].expand(huge[int(rng.integers(3))], 10**3),
        lambda: value.to_sparse(),
        lambda: torch.empty((10**6, 10**6), device="meta"),
        lambda: value * float(rng.choice([np.nan, np.inf, 1e38, 0.0])),
        lambda: value[:0],
        lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
        lambda: torch.nn.Parameter(value.float()),
        lambda: value.tolist() if value.numel() < 1000 else "a text",
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        lambda: value.float().as_strided(value.shape, [0] * value.ndim),
    ]
    return choices[int(rng.integers(len(choices)))]()


def _repack(sound: Path, path: Path, rng: np.random.Generator) -> None:
    """The same archive with right checksums and a changed pickle, a cut or long storage, compression, or more files."""
    with zipfile.ZipFile(sound) as old:
        entries = {entry.filename: old.read(entry) for entry in old.infolist()}
    pickles = next(name for name in entries if name.endswith("data.pkl"))
    storage = str(rng.choice([name for name in entries if "/data/" in name]))
    what, how = int(rng.integers(6)), zipfile.ZIP_STORED
    if what == 0:  # sizes in a pickle are numbers of two or four bytes
        data = bytearray(entries[pickles])
        places = [at for at in range(len(data) - 5) if data[at] in b"MJ"]
        at = places[int(rng.integers(len(places)))]
        data[at + 1 : at + 3] = bytes(rng.choice([b"\xff\xff", b"\x00\x00", b"\xff\x7f"]))
        entries[pickles] = bytes(data)
    elif what == 1:
        entries[storage] = entries[storage][: int(rng.integers(len(entries[storage]) + 1))]
    elif what == 2:
        entries[storage] = bytes(int(rng.choice([10**5, 2 * 10**8])))
        how = zipfile.ZIP_DEFLATED
    elif what == 3:
        del entries[str(rng.choice(list(entries)))]
    elif what == 4:
        entries["archive/../../evil"] = entries["other/data.pkl"] = pickle.dumps(_Call())
    else:
        how = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", how) as new:
        for name, content in entries.items():
            new.writestr(name, content)


def _change_header(path: Path, rng: np.random.Generator) -> None:
    from fuzzing import mutated_json

    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = mutated_json(json.loads(data[8 : 8 + length]), rng).encode()
    claimed = len(header) if rng.random() < 0.8 else int(rng.choice([0, 2**40, 2**63 - 1]))
    path.write_bytes(claimed.to_bytes(8, "little") + header + data[8 + length :])

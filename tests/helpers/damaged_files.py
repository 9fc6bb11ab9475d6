"""Files that are cut short or hold garbage."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def with_garbage(data: bytes, at: float, size: int) -> bytes:
    start = int(len(data) * at)
    garbage = np.random.default_rng(1).integers(0, 255, size, dtype=np.uint8).tobytes()
    return data[:start] + garbage + data[start + size :]


def saved(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)

"""Videos that tests write, read back, cut short and damage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np


def plain(value: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@dataclass(frozen=True)
class Header:
    """What a file says of its video; read while it is open, for its stream dies with it."""

    codec: str
    pixel_format: str | None
    frames: int
    seconds: float | None
    rate: float | None


def decoded(path: Path) -> tuple[list[np.ndarray], list[float], Header]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        length, base, rate = stream.duration, stream.time_base, stream.average_rate
        header = Header(
            codec=stream.codec_context.name,
            pixel_format=stream.codec_context.pix_fmt,
            frames=stream.frames,
            seconds=None if length is None or base is None else float(length * base),
            rate=None if rate is None else float(rate),
        )
        frames = list(container.decode(stream))
        return [frame.to_ndarray(format="bgr24") for frame in frames], [float(frame.time) for frame in frames], header


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def with_garbage(data: bytes, at: float, size: int) -> bytes:
    start = int(len(data) * at)
    garbage = np.random.default_rng(1).integers(0, 255, size, dtype=np.uint8).tobytes()
    return data[:start] + garbage + data[start + size :]


def saved(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)

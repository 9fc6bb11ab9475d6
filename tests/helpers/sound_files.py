"""Videos with real encoded sound, and the packets of sound in a file."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 25
SAMPLES = 48_000


@dataclass(frozen=True)
class Sounded:
    """A packet of sound: seconds, and what is encoded."""

    time: float
    data: bytes


def write_sounded(
    path: Path,
    *,
    frames: int = 25,
    sound: str = "aac",
    sound_seconds: float | None = None,
    sound_from: float = 0.0,
    offset: float = 0.0,
    muxer: dict[str, str] | None = None,
) -> Path:
    """A video of `frames` at 25 a second with a tone that rises, in packets that all differ.

    `sound_from`: seconds from the first picture to the sound; `offset`: added to all stamps.
    """
    with av.open(str(path), "w", options=muxer or {}) as container:
        video = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "g": "10", "bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(sound, rate=SAMPLES)
        audio.layout, audio.bit_rate = "mono", 64_000
        encoded = []
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + 3 * index % 200, np.uint8), format="bgr24")
            frame.pts, frame.time_base = index + round(offset * RATE), Fraction(1, RATE)
            encoded += video.encode(frame)
        size = audio.codec_context.frame_size or 1024
        form = audio.codec_context.format.name
        length = round((frames / RATE if sound_seconds is None else sound_seconds) * SAMPLES)
        for begin in range(0, length, size):
            time = np.arange(begin, begin + size) / SAMPLES
            wave = (0.5 * np.sin(2 * np.pi * (300 + 200 * time) * time))[None]
            wave = wave + 1 if form.startswith("u8") else wave
            scale, dtype = {"u8": (127, np.uint8), "s16": (2**15 - 1, np.int16), "s32": (2**31 - 256, np.int32)}.get(
                form.removesuffix("p"), (1, np.float32)
            )
            wave = (wave * scale).astype(dtype)
            piece = av.AudioFrame.from_ndarray(wave, format=form, layout="mono")
            piece.sample_rate, piece.time_base = SAMPLES, Fraction(1, SAMPLES)
            piece.pts = begin + round((sound_from + offset) * SAMPLES)
            encoded += audio.encode(piece)
        encoded += [*video.encode(None), *audio.encode(None)]
        for packet in sorted(encoded, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def sound_of(path: Path) -> list[Sounded]:
    """The packets of sound of a file."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return []
        return [
            Sounded(float(packet.pts * packet.time_base), bytes(packet))
            for packet in container.demux(audio=0)
            if packet.size
        ]


def pictures_of(path: Path) -> list[float]:
    """The times of a file's pictures."""
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def plain(data: bytes, codec: str) -> bytes:
    """What is encoded, without the header that MPEG-TS puts before each packet of AAC."""
    return data[7:] if codec == "aac" and data[:2] in (b"\xff\xf1", b"\xff\xf0") else data

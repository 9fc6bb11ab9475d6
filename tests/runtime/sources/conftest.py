"""Real videos, made with PyAV: frame i is `level(i)` bright on its right half, with noise on its left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

VideoMaker = Callable[..., Path]


def level(index: int) -> int:
    return 20 + 3 * (index % 70)


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    image = np.full((height, width, 3), level(index), np.uint8)
    image[:, : width // 2] = np.random.default_rng(index).integers(0, 255, (height, width // 2, 3), dtype=np.uint8)
    return image


def write_video(
    path: Path,
    *,
    frames: int = 40,
    codec: str = "libx264",
    b_frames: int = 2,
    stamps: Sequence[int] | None = None,
    rate: int = 25,
    size: tuple[int, int] = (48, 64),
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    format_name: str | None = None,
    sample_aspect_ratio: Fraction | None = None,
) -> Path:
    with av.open(str(path), "w", format=format_name, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        if sample_aspect_ratio is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        if codec == "mpeg4":
            stream.bit_rate = 4_000_000
        if codec != "mjpeg":
            stream.codec_context.max_b_frames = b_frames
            stream.codec_context.gop_size = 12
        for index in range(frames):
            image = picture(index, *size)
            if codec == "mjpeg":
                frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            else:  # OpenCV's conversion keeps grey levels exactly
                yuv = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)
                frame = av.VideoFrame.from_ndarray(yuv, format="yuv420p")
            frame.pts = index if stamps is None else stamps[index]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def make_video() -> VideoMaker:
    return write_video


@pytest.fixture(scope="session")
def indexed_mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """40 frames of H.264 with B-frames, the index in front, so that it can be cut anywhere."""
    path = tmp_path_factory.mktemp("video") / "whole.mp4"
    return write_video(path, muxer={"movflags": "faststart"}).read_bytes()


@pytest.fixture(scope="session")
def shown() -> Callable[[Sequence[object]], list[int]]:
    """Which of the frames that `write_video` wrote these are, by how bright their right halves are."""

    def indices(frames: Sequence[object]) -> list[int]:
        found = []
        for frame in frames:
            image = frame.image  # type: ignore[attr-defined]
            found.append(round((float(image[:, image.shape[1] * 5 // 8 :].mean()) - level(0)) / 3))
        return found

    return indices

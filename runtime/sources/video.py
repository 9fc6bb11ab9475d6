"""Frames of a video file or of a stream at an address, through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sharpose.errors import SourceError
from sharpose.runtime.frames import Frame, Image, SourceHealth
from sharpose.runtime.sources.containers import open_stream
from sharpose.runtime.sources.decoding import Decoder
from sharpose.runtime.sources.orientation import orientation_of
from sharpose.runtime.sources.timing import FrameClock, GapWatch
from sharpose.runtime.sources.urls import is_url, redact_url

__all__ = ["VideoSource"]

_DEFAULT_RATE = 25.0
_SHORT_SECONDS = 0.5  # how much shorter than its header a stream may be before that is worth a warning


class VideoSource:
    """The frames of a video, upright, in the order they are shown. It can be iterated over once.

    Damage with good data after it is an error; a file that only ends early is a warning. A live stream (an address
    without a known length) loses damaged frames and goes on.

    Args:
        spec: A file's path or an address.
        timeout: Seconds that an address may take to answer.

    Attributes:
        frame_rate: Frames a second, as the header claims, or None.

    Raises:
        SourceError: it can't be opened, or holds no video.
    """

    def __init__(self, spec: str, *, timeout: float = 10.0) -> None:
        remote = is_url(spec)
        self.name = redact_url(spec)
        if not remote and Path(spec).is_file() and Path(spec).stat().st_size == 0:
            raise SourceError(f"{self.name}: expected a video, found an empty file")
        self._container, self._stream = open_stream(self.name, None if remote else Path(spec), spec, timeout)
        self.frame_count: int | None = self._stream.frames or None
        self.image_ids: frozenset[int] | None = None
        self.warnings: list[str] = []
        self.frame_rate: float | None = float(self._stream.average_rate) if self._stream.average_rate else None
        self.live = remote and self._container.duration is None
        self.health = SourceHealth()
        self._decoder = Decoder(self.name, self._container, self._stream, live=self.live)
        self._gaps = GapWatch()
        self._started = False
        self._closed = False

    def __iter__(self) -> Iterator[Frame]:
        """The frames, `time` from the stream's stamps.

        Raises:
            SourceError: not one frame can be decoded, reading fails, or the stream is broken in the middle.
        """
        if self._started:
            raise SourceError(f"{self.name}: a video can be read once; open it again")
        self._started = True
        # AVI has no presentation stamps.
        clock = FrameClock(
            self._stream.time_base or Fraction(1, 90000),
            1.0 / (self.frame_rate or _DEFAULT_RATE),
            trust_pts=self._container.format.name != "avi",
        )
        try:
            end = 0.0
            for index, picture in enumerate(self._decoder):
                time = clock.seconds(picture.pts, picture.dts)
                self._gaps.see(time)
                end = time + float((getattr(picture, "duration", 0) or 0) * (self._stream.time_base or 0))
                yield Frame(_upright(picture), index, time, index)
                if self._closed:
                    return
            if not self._decoder.frames:
                why = f": {self._decoder.cut}" if self._decoder.cut else ""
                raise SourceError(f"{self.name}: expected a video, but not one frame of it can be decoded{why}")
            self._warn_of_early_end(end)
        finally:
            self._warn_of_damage()

    def close(self) -> None:
        """Closes the file or connection."""
        if not self._closed:
            self._started = self._closed = True
            self._container.close()

    def _warn_of_early_end(self, end: float) -> None:
        frames = self._decoder.frames
        claimed = (self.frame_count or 0) - self._decoder.hidden
        seconds = _claimed_seconds(self._stream)
        if frames < claimed:
            self.warnings.append(f"{self.name}: its header claims {claimed} frames, but it ends after {frames}")
        elif self._decoder.cut is not None:
            ended = "the stream ended" if self.live else "cut off"
            self.warnings.append(f"{self.name}: {ended} after {frames} frames ({self._decoder.cut})")
        elif self.frame_count is None and seconds is not None and end + _SHORT_SECONDS < seconds:
            self.warnings.append(f"{self.name}: its header claims {seconds:.1f} s, but it ends after {end:.1f} s")

    def _warn_of_damage(self) -> None:
        skipped, flagged = self._decoder.skipped, self._decoder.flagged
        if skipped:
            self.warnings.append(f"{self.name}: damaged pieces that were left out: {skipped}")
        if flagged and not self.warnings:
            self.warnings.append(f"{self.name}: damaged pieces whose frames may be wrong or missing: {flagged}")
        if self._gaps.gap is not None and not self.warnings:
            before, after = self._gaps.gap
            self.warnings.append(f"{self.name}: frames may be missing between {before:.2f} s and {after:.2f} s")


def _upright(picture: VideoFrame) -> Image:
    image = np.ascontiguousarray(picture.to_ndarray(format="bgr24"), dtype=np.uint8)
    for data in cast(SideDataContainer, picture.side_data):
        if data.type.name == "DISPLAYMATRIX":
            orientation = orientation_of(bytes(data))
            return image if orientation is None else orientation.apply(image)
    return image


def _claimed_seconds(stream: VideoStream) -> float | None:
    """The length that the header gives this stream; Matroska says it in a tag such as `00:01:02.500`."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None

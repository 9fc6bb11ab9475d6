"""Numbering and timing the pictures of a stream, and beginning in its middle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sharpose.runtime.sources.decoding import Decoder
from sharpose.runtime.sources.timing import FrameClock

__all__ = ["SEEK_SLACK", "Timed", "counted", "sought"]

SEEK_SLACK = 1e-3
"""Seconds by which containers round times (Matroska: to milliseconds)."""

# How far before the wanted time to seek, in turn: some containers land after it, or on a picture that needs others.
_MARGINS = (0.0, 2.0, 10.0, 60.0)


@dataclass(frozen=True)
class Timed:
    """A picture with its place: 0-based index, and seconds since the first picture of the stream."""

    index: int
    time: float
    picture: VideoFrame


def counted(pictures: Iterable[VideoFrame], clock: FrameClock, first_index: int = 0) -> Iterator[Timed]:
    """Consecutive pictures with their places."""
    for index, picture in enumerate(pictures, first_index):
        yield Timed(index, clock.seconds(picture.pts, picture.dts), picture)


def sought(
    container: InputContainer, stream: VideoStream, decoder: Decoder, clock: FrameClock, start: float
) -> Iterator[Timed] | None:
    """The pictures from a key frame at or before `start` seconds on.

    The index of the first one follows from its time and the stream's average rate, so it is exact where the rate is
    constant.

    Args:
        container: Open, at its beginning.
        stream: Of the container.
        decoder: Of the stream.
        clock: Not used yet.
        start: Seconds since the first picture.

    Returns:
        None where there is no way to get there but to open the container again and decode all of it.
    """
    first = next(iter(decoder), None)
    if first is None:
        return None
    clock.seconds(first.pts, first.dts)  # learns which stamp is second 0
    rate = stream.average_rate
    if clock.origin is None or not stream.time_base or not rate:
        return None
    for margin in _MARGINS:
        if start <= margin:
            return None
        try:
            container.seek(round((clock.origin + start - margin) / float(stream.time_base)), stream=stream)
        except (av.FFmpegError, OSError):
            return None
        decoder.forget()
        pictures = iter(decoder)
        first = next(pictures, None)
        if first is not None and (first.pts is not None or first.dts is not None):
            there = clock.elsewhere()
            time = there.seconds(first.pts, first.dts)
            if time <= start + SEEK_SLACK:
                return _with_first(Timed(round(time * Fraction(rate)), time, first), pictures, there)
    return None


def _with_first(first: Timed, pictures: Iterator[VideoFrame], clock: FrameClock) -> Iterator[Timed]:
    yield first
    yield from counted(pictures, clock, first.index + 1)

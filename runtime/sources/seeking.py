"""Numbering and timing the pictures of a stream, and beginning in its middle."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sharpose.runtime.sources.decoding import Decoder
from sharpose.runtime.sources.timing import FrameClock

if TYPE_CHECKING:
    from av.index import IndexEntries  # newer than the oldest PyAV that serves

__all__ = ["SEEK_SLACK", "Timed", "counted", "sought"]

SEEK_SLACK = 1e-3
"""Seconds by which containers round times (Matroska: to milliseconds)."""

_FULLY_INDEXED = ("avi", "mov,mp4,m4a,3gp,3g2,mj2")
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

    The index of the first one follows from the container's own index where that lists every frame (AVI, MP4), else from
    the average rate, which is exact where the rate is constant.

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
    if clock.origin is None or not stream.time_base or not stream.average_rate:
        return None
    for margin in _MARGINS:
        if start <= margin:
            return None
        stamp = round((clock.origin + start - margin) / float(stream.time_base))
        try:
            container.seek(stamp, stream=stream)
        except (av.FFmpegError, OSError):
            return None
        decoder.forget()
        pictures = iter(decoder)
        first = next(pictures, None)
        if first is not None and (first.pts is not None or first.dts is not None):
            there = clock.elsewhere()
            time = there.seconds(first.pts, first.dts)
            if time <= start + SEEK_SLACK:
                index = _index_at(container, stream, time, stamp)
                return _with_first(Timed(index, time, first), pictures, there)
    return None


def _index_at(container: InputContainer, stream: VideoStream, time: float, sought_stamp: int) -> int:
    """The position of the key frame that seeking to a stamp led to, and whose time is `time`."""
    assert stream.time_base is not None
    assert stream.average_rate is not None
    entries: IndexEntries | None = getattr(stream, "index_entries", None)
    if entries is None or len(entries) < 2 or container.format.name not in _FULLY_INDEXED:
        return round(time * Fraction(stream.average_rate))
    stamps = [entry.timestamp for entry in entries]
    steps = {later - earlier for earlier, later in itertools.pairwise(stamps)}
    if len(steps) == 1:  # headers lie about the rate, this can't
        return round(time / float(steps.pop() * stream.time_base))
    return max(0, int(entries.search_timestamp(sought_stamp)))


def _with_first(first: Timed, pictures: Iterator[VideoFrame], clock: FrameClock) -> Iterator[Timed]:
    yield first
    yield from counted(pictures, clock, first.index + 1)

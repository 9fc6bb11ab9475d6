"""Decoding a video stream, with a verdict on what can't be decoded.

FFmpeg's decoders go on after damage and conceal it. Here every picture is tied to the packet it came from, so that
damage with good data after it (a broken file) can be told from damage at the very end (a file that was cut off).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sharpose.errors import SourceError
from sharpose.runtime.sources.containers import reason

__all__ = ["Decoder"]

# Where the demuxer itself stumbles it may find its way again, but it may also stand still.
_MAX_DEMUX_FAILURES = 16


@dataclass(frozen=True, eq=False)
class _Origin:
    """Rides along from a packet to its picture. PyAV tells these apart by identity, so a plain int won't do."""

    packet: int


class Decoder:
    """Iterates over the pictures of a stream, in the order they are shown, and keeps count of what was lost.

    Args:
        name: What to call the stream in errors.
        container: Open, at its beginning.
        stream: One of its video streams.
        live: Lossy transport: damage is left out and counted wherever it is, and is no error.

    Attributes:
        frames: Pictures handed out.
        skipped: Damaged pieces that were left out: before the first key frame, or anywhere in a live stream.
        flagged: Packets that the container's own checks call damaged and that could be decoded all the same.
        hidden: Packets that the container says are not to be shown.
        cut: What was wrong with the data at the end (for a live stream: why it ended), or None.
    """

    def __init__(self, name: str, container: InputContainer, stream: VideoStream, *, live: bool) -> None:
        self.frames = 0
        self.skipped = 0
        self.flagged = 0
        self.hidden = 0
        self.cut: str | None = None
        self._name = name
        self._container = container
        self._stream = stream
        self._live = live
        self._packets_read = 0
        self._key_seen = False
        self._damaged_at: int | None = None
        # Frame threads would report damage late, and lose the pictures under way when it is found.
        stream.thread_type = "SLICE"
        stream.codec_context.copy_opaque = True

    def forget(self) -> None:
        """Forget what was counted and lost so far: reading goes on elsewhere. Then iterate anew."""
        self.frames = self.skipped = self.flagged = self.hidden = self._packets_read = 0
        self.cut = self._damaged_at = None
        self._key_seen = False

    def __iter__(self) -> Iterator[VideoFrame]:
        """The pictures. Raises `SourceError` where reading fails or where good data follows damaged data."""
        for packet in self._packets():
            yield from self._decode(packet)
        yield from self._decode(None)

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        failures = 0
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    failures = 0
                    if packet.size:  # an empty one would end decoding
                        yield packet
                return
            except (av.error.InvalidDataError, av.error.BlockingIOError) as error:
                failures += 1
                self._packets_read += 1
                given_up = failures == _MAX_DEMUX_FAILURES
                # "Try again" says nothing about the data.
                if given_up or not isinstance(error, av.error.BlockingIOError):
                    self._note_damage(self._packets_read, reason(error))
                if given_up:
                    return
            except (av.FFmpegError, OSError) as error:
                if self._live:  # it has no length that it could fall short of
                    self.cut = reason(error)
                    return
                raise SourceError(
                    f"{self._name}: reading broke off after {self.frames} frames: {reason(error)}"
                ) from None

    def _decode(self, packet: Packet[VideoStream] | None) -> Iterator[VideoFrame]:
        self._packets_read += 1
        number = self._packets_read
        if packet is not None:
            self._key_seen = self._key_seen or packet.is_keyframe
            self.hidden += packet.is_discard
            self.flagged += packet.is_corrupt
            packet.opaque = _Origin(number)
        try:
            pictures = self._stream.decode(packet)
        except av.FFmpegError as error:
            self._note_damage(number, reason(error))
            return
        if packet is not None and self._damaged_at is not None:
            self._fail()
        for picture in pictures:
            origin = picture.opaque.packet if isinstance(picture.opaque, _Origin) else number
            if picture.is_corrupt:
                self._note_damage(origin, "part of a picture is missing")
                continue
            if self._damaged_at is not None and origin > self._damaged_at:
                self._fail()
            self.frames += 1
            yield picture

    def _fail(self) -> NoReturn:
        raise SourceError(
            f"{self._name}: broken near frame {self.frames} ({self.cut}) with more video after it; "
            "repair the file or encode it anew"
        )

    def _note_damage(self, packet_number: int, what: str) -> None:
        if self._live or not self._key_seen:
            self.skipped += 1
        elif self._damaged_at is None or packet_number < self._damaged_at:
            self._damaged_at, self.cut = packet_number, what

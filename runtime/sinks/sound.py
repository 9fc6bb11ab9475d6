"""The sound of a video, copied packet by packet into the annotated video, without decoding."""

from __future__ import annotations

import contextlib
import io
from collections import deque
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple, cast

import av
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.packet import Packet

from sharpose.errors import SinkError, one_line
from sharpose.runtime.options import DEFAULT_TIMEOUT

_STEP_BACK = Fraction(1, 20)  # seconds: a longer one is a new start of the stamps, as in glued files
_LEAP = 1  # seconds: a longer one that the next packet doesn't confirm is damage
_TWO_MILLISECONDS = Fraction(2, 1000)
_EARLIER = 2.0  # seconds before the first frame that are read: containers keep sound some way from its picture
_MOST_FAILURES = 16  # in a row
_NEEDS_HEADER = ("aac", "alac", "flac", "opus", "vorbis")  # FFmpeg's MP4 muxer crashes where some of them have none


class _Timed(NamedTuple):
    packet: Packet[AudioStream]
    stamp: Fraction  # seconds, on the file's clock
    length: Fraction  # seconds


class Sound:
    """Reads the encoded sound of a file in step with the frames of its video, some packets at a time.

    Where the frames' stamps start anew, as in glued files, the sound's do so as well, and its packets go on with the
    frames from there.

    Args:
        address: What FFmpeg opens, a second time: `file:PATH`, or the address of a file on a server.
        stamp: Of the first frame, which is second 0 of what is written.

    Attributes:
        codec: FFmpeg's name of its codec.
        first: Seconds from the first frame to the first packet.
        broken: Why it could not be read to its end; None as long as it could.

    Raises:
        SinkError: there is no sound that can be read.
    """

    def __init__(self, address: str, stamp: float) -> None:
        self._address = address
        self.broken: str | None = None
        self._shifts: deque[Fraction] = deque([-Fraction(stamp)])  # of the stamps, piece by piece of a glued file
        self._last_stamp = Fraction(stamp)
        self._open()
        try:
            self._seek(stamp)
            first = self._next()
            if first is None:
                if self._found:
                    raise SinkError("it ends before the first frame")
                why = f" ({self.broken})" if self.broken else ""
                raise SinkError(f"not one packet of it can be read{why}; it is empty, or its index is damaged")
            if self.codec in _NEEDS_HEADER and not (self._stream.codec_context.extradata or self._aac_config):
                raise SinkError("the header of its codec is missing")
        except (av.FFmpegError, OSError, SinkError) as error:
            self.close()
            raise SinkError(one_line(error)) from None
        self.first = float(first.stamp + self._shifts[0])

    def _open(self) -> None:
        try:
            timeout = None if self._address.startswith("file:") else DEFAULT_TIMEOUT
            self._container = av.open(self._address, "r", timeout=timeout, metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise SinkError(one_line(error)) from None
        stream = self._container.streams.best("audio")
        if not isinstance(stream, AudioStream) or stream.codec_context is None or not stream.codec_context.sample_rate:
            self._container.close()
            raise SinkError("its codec is unknown to this FFmpeg")
        self._stream = stream
        self.codec = stream.codec_context.codec.canonical_name
        self.rate = stream.codec_context.sample_rate
        self._aac_config: bytes | None = None
        self._frame_size = stream.codec_context.frame_size
        self._packets = _in_order(self._read())
        self._waiting: _Timed | None = None
        self._found = False  # a packet
        self._ticks, self._length = -1, 0  # of the last packet handed out, in samples: its stamp and its length

    def _seek(self, stamp: float) -> None:
        """Skip what was before; where seeking fails, or lands too late, all of it is read."""
        begin = (self._container.start_time or 0) / av.time_base
        if stamp - begin > _EARLIER:
            try:
                self._container.seek(round((stamp - _EARLIER) * av.time_base))
                found = self._next()
            except (av.FFmpegError, OSError, OverflowError):
                found = None
            if found is None or found.stamp > stamp:
                self._container.close()
                self._open()
        while (entry := self._next()) is not None and entry.stamp < stamp:
            self._waiting = None

    def stream_in(self, container: OutputContainer) -> AudioStream:
        """A stream of `container` for the packets. Raises `SinkError` where such a container has none of the codec."""
        try:
            stream = container.add_stream_from_template(self._stream, opaque=True)
        except (av.FFmpegError, ValueError) as error:
            raise SinkError(one_line(error)) from None
        if self._aac_config is not None:
            stream.codec_context.extradata = self._aac_config
        if "language" in self._stream.metadata:
            stream.metadata["language"] = self._stream.metadata["language"]
        return stream

    def fits(self, form: str, options: Mapping[str, str]) -> bool:
        """Whether FFmpeg's container `form`, with these options, takes the sound; tried with its first packets."""
        container = av.open(io.BytesIO(), "w", format=form, options=dict(options))
        try:
            stream = self.stream_in(container)
            container.start_encoding()
            for _ in range(_MOST_FAILURES):
                entry = self._next()
                if entry is None:
                    return False
                packet = Packet(bytes(entry.packet))
                packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, self.rate), 0, 0
                packet.duration = self._frame_size or 1
                with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                    container.mux(packet)
                    container.close()
                    return True
                self._waiting = None  # damaged
        except (av.FFmpegError, OSError, ValueError, SinkError):
            return False
        finally:
            with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                container.close()
        return False

    def until(self, seconds: float, shift: float) -> Iterator[Packet[AudioStream]]:
        """The next packets, timed for the stream that `stream_in` made.

        Args:
            seconds: They begin up to this time of what is written.
            shift: From the stamp of the newest frame to its time in what is written, in seconds.
        """
        if abs(Fraction(shift) - self._shifts[-1]) > _TWO_MILLISECONDS:
            self._shifts.append(Fraction(shift))
        while (entry := self._next()) is not None:
            if entry.stamp > self._last_stamp + _LEAP:
                due = self._last_stamp + self._shifts[0]
                while len(self._shifts) > 1 and abs(entry.stamp + self._shifts[1] - due) < abs(
                    entry.stamp + self._shifts[0] - due
                ):
                    self._shifts.popleft()
            elif entry.stamp < self._last_stamp - _STEP_BACK:
                if len(self._shifts) == 1:  # no frame of the next piece has come yet
                    return
                self._shifts.popleft()
                self._last_stamp = entry.stamp
            time = entry.stamp + self._shifts[0]
            if time > seconds:
                return
            self._last_stamp, self._waiting = entry.stamp, None
            ticks = round(time * self.rate)
            expected = self._ticks + self._length
            if self._frame_size and self._ticks >= 0 and abs(ticks - expected) <= _TWO_MILLISECONDS * self.rate:
                ticks = expected  # containers round stamps
            if ticks > self._ticks:
                yield self._placed(entry, ticks)

    def close(self) -> None:
        """Closes the file. May be called twice."""
        self._waiting, self._packets = None, iter(())
        self._container.close()

    def _placed(self, entry: _Timed, ticks: int) -> Packet[AudioStream]:
        self._ticks, self._length = ticks, self._frame_size or round(entry.length * self.rate)
        packet = entry.packet
        packet.time_base = Fraction(1, self.rate)
        packet.pts = packet.dts = ticks
        packet.duration = self._length
        return packet

    def _next(self) -> _Timed | None:
        """The next packet, which stays until `_waiting` is None."""
        if self._waiting is None:
            self._waiting = next(self._packets, None)
        return self._waiting

    def _unwrapped(self, packet: Packet[AudioStream]) -> list[Packet[AudioStream]]:
        """AAC of MPEG-TS has a header (ADTS) in each packet, elsewhere it has one for all."""
        head = bytes(memoryview(packet)[:4])
        if self.codec != "aac" or self._stream.codec_context.extradata or head[:2] not in (b"\xff\xf1", b"\xff\xf9"):
            return [packet]
        if self._aac_config is None:
            profile, frequency, channels = head[2] >> 6, head[2] >> 2 & 15, (head[2] & 1) << 2 | head[3] >> 6
            self._aac_config = (profile + 1 << 11 | frequency << 7 | channels << 3).to_bytes(2, "big")
            self._unwrap = BitStreamFilterContext("aac_adtstoasc", self._stream)
        try:
            return cast("list[Packet[AudioStream]]", self._unwrap.filter(packet))
        except av.FFmpegError:  # damaged
            return []

    def _read(self) -> Iterator[_Timed]:
        failures = 0
        while failures < _MOST_FAILURES:
            try:
                for packet in self._container.demux(self._stream):
                    failures, self.broken = 0, None
                    stamp = packet.dts if packet.pts is None else packet.pts
                    if packet.size and stamp is not None and not packet.is_discard:
                        self._found = True
                        unit, length = Fraction(packet.time_base), packet.duration or 0
                        for one in self._unwrapped(packet):
                            yield _Timed(one, stamp * unit, length * unit)
                return
            except (av.error.InvalidDataError, av.error.BlockingIOError) as error:
                failures += 1
                self.broken = one_line(error)
            except (av.FFmpegError, OSError) as error:
                self.broken = one_line(error)
                return


def _in_order(packets: Iterator[_Timed]) -> Iterator[_Timed]:
    """The packets but for single ones whose stamp leaps away and back: the stamp is damaged."""
    current, last = next(packets, None), None
    while current is not None:
        following = next(packets, None)
        goes_on = [entry is None or last is None or _goes_on(entry.stamp, last) for entry in (current, following)]
        if goes_on != [False, True] or following is None:
            yield current
            last = current.stamp
        current = following


def _goes_on(stamp: Fraction, last: Fraction) -> bool:
    return last - _STEP_BACK <= stamp <= last + _LEAP

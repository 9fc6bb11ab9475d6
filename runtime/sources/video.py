"""Frames of a video file, or of an address: upright, from `start` for `duration`, and what was wrong with them."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from sharpose.errors import SourceError, counted
from sharpose.runtime.frames import Frame, SourceInfo
from sharpose.runtime.options import SourceOptions
from sharpose.runtime.result import Image
from sharpose.runtime.sources.decoding import Decoded, Decoder, Hardware, is_turned, open_stream, upright
from sharpose.runtime.sources.timing import TIME_SLACK, FrameClock, GapWatch, wrap_of
from sharpose.runtime.sources.urls import (
    ffmpeg_options,
    is_url,
    redact_url,
    resolution_failure,
    scheme_of,
    sends_ranges,
)

if TYPE_CHECKING:
    from av.index import IndexEntries

_DEFAULT_RATE = 25.0
_FAILED = "Input/output error"  # FFmpeg's words for failures of many kinds
_SHORT_SECONDS = 0.5  # how much shorter than its header a stream may be before that is worth a warning
_MOST_STRETCHED = 8  # width of a pixel to its height, or the other way round


@dataclass(frozen=True)
class _Timed:
    """A picture with its place: 0-based index, seconds since the first picture of the stream, the same as a stamp."""

    index: int
    time: float
    stamp: float
    picture: VideoFrame
    damaged: bool


class VideoSource:
    """The frames of a video, upright, in the order they are shown. It can be iterated over once.

    Damage in the middle is skipped: frames from there to the next key frame are marked `damaged`, and
    `info.failures` has a line (with `strict` it is an error). A file that only ends early is a warning. A live stream
    (an address without a known length) drops damaged frames and goes on.

    Args:
        spec: A file's path or an address.
        options: How to read: `timeout`, `stride` and, where it isn't live, `start`, `duration` and `strict`.
        hardware: What decodes; the CPU if None.

    Raises:
        SourceError: it can't be opened, or holds no video.
    """

    def __init__(self, spec: str, options: SourceOptions | None = None, *, hardware: Hardware | None = None) -> None:
        self._spec = spec
        self._options = SourceOptions() if options is None else options
        self._hardware = hardware
        self.info = SourceInfo(redact_url(spec))
        if not is_url(spec) and Path(spec).is_file() and Path(spec).stat().st_size == 0:
            raise SourceError(f"{self.info.name}: expected a video, found an empty file")
        self._gaps = GapWatch()
        self._damaged = 0  # frames
        self._started = self._reading = False
        self._closed = False
        self._reformatter = VideoReformatter()
        self._open()
        stride, rate = self._options.stride, self._stream.average_rate
        partial = self._options.start is not None or self._options.duration is not None
        entries = _entries_of(self._container, self._stream) if partial or stride > 1 else None
        self._hidden = sum(entry.is_discard for entry in entries or ())  # by an edit list, of all of the stream
        claimed = (self._stream.frames - self._hidden) or None
        self.info.frame_rate = float(rate) / stride if rate else None
        if claimed is not None:
            self.info.frame_count = None if partial else -(-claimed // stride)
            if partial or stride > 1:  # of the whole video: a boxes file may have the skipped frames too
                self.info.image_ids = range(claimed)
        if self._container.streams.audio and not self.info.live and (is_url(spec) or Path(spec).is_file()):
            self.info.sound = spec if is_url(spec) else f"file:{spec}"  # of a pipe there is no second reading

    def _open(self) -> None:
        remote = is_url(self._spec)
        try:
            self._container, self._stream = open_stream(
                self.info.name,
                None if remote else Path(self._spec),
                self._spec,
                timeout=self._options.silence,
                options=ffmpeg_options(self._spec, self._options) if remote else {},
                accelerator=None if self._hardware is None else self._hardware.accelerator(),
            )
        except SourceError as error:  # what FFmpeg says of a name without a number
            if not (remote and str(error).endswith(_FAILED) and (why := resolution_failure(self._spec))):
                raise
            line = str(error).removesuffix(_FAILED)
            raise SourceError(f"{line}its host name can't be resolved ({why})") from None
        try:
            self.info.live = remote and self._container.duration is None and not _has_length(self._container)
            if self._hardware is not None:
                self._hardware.note(self._stream)
        except BaseException:
            self._container.close()
            raise
        self._decoder = Decoder(
            self.info.name, self._container, self._stream, live=self.info.live, strict=self._options.strict
        )

    def __iter__(self) -> Iterator[Frame]:
        """The frames, `time` from the stream's stamps.

        Raises:
            SourceError: not one frame can be decoded, or reading fails; with `strict`, the stream is damaged.
        """
        if self._started:
            raise SourceError(f"{self.info.name}: a video can be read once; open it again")
        self._started = self._reading = True
        first_index: int | None = None
        origin = 0.0
        last: _Timed | None = None
        try:
            for timed in self._timed():
                arrived = time.monotonic() if self.info.live else None
                origin = timed.stamp - timed.time if last is None else origin
                last = timed
                self.info.progress += 1
                self._damaged += timed.damaged
                if self._is_past(timed.time):
                    return
                self._gaps.see(timed.time)
                first_index = timed.index if first_index is None else first_index
                if (timed.index - first_index) % self._options.stride == 0:
                    image, ratio, owned = self._upright(timed.picture)
                    yield Frame(
                        image,
                        timed.index,
                        timed.time,
                        timed.index,
                        arrived=arrived,
                        damaged=timed.damaged,
                        stamp=timed.stamp,
                        sample_aspect_ratio=ratio,
                        owned=owned,
                    )
                if self._closed:
                    return
            if first_index is None:
                start = self._options.start
                if self._decoder.frames:
                    raise SourceError(f"{self.info.name}: ends before {start:g} s, where reading was to start")
                why = f": {self._decoder.cut}" if self._decoder.cut else ""
                if not self._stream.codec_context.width:
                    why += "; its header claims no frame size that FFmpeg could decode"
                raise SourceError(f"{self.info.name}: expected a video, but not one frame of it can be decoded{why}")
            self.info.end_reason = self._decoder.cut or "the stream ended"
            if last is not None:
                self._warn_of_early_end(last, origin)
        except SourceError as error:
            if not str(error).endswith(f"0 frames: {_FAILED}") or not self._needs_ranges():
                raise
            raise SourceError(
                f"{error}; the server sends no byte ranges, which an MP4 with its index at the end needs: download it, "
                "or write it with FFmpeg's `-movflags +faststart`"
            ) from None
        finally:
            self._warn_of_damage()
            self._reading = False
            self._let_go()

    def _needs_ranges(self) -> bool:
        """Whether this is an MP4 on a server that can't send pieces of it."""
        on_server = scheme_of(self._spec) in ("http", "https") and "mp4" in self._container.format.name
        return on_server and not sends_ranges(self._spec, min(self._options.silence, 5.0))

    def _timed(self) -> Iterator[_Timed]:
        start = self._options.start or 0.0
        if start <= 0.0 or self.info.live:
            return _counted(self._decoder, self._clock(), ahead=not self.info.live)
        timed = _seek(self._container, self._stream, self._decoder, self._clock(), start, self._index_at)
        if timed is None:
            self._container.close()
            self._open()
            timed = _counted(self._decoder, self._clock())
        return (entry for entry in timed if entry.time >= start - TIME_SLACK)

    def _index_at(self, stamp: int, found: VideoFrame, time: float) -> int | None:
        """The index of the picture at `time` that seeking to a stamp led to; None where only decoding all tells."""
        entries, rate = _entries_of(self._container, self._stream), self._stream.average_rate
        steps = {later.timestamp - earlier.timestamp for earlier, later in itertools.pairwise(entries or ())}
        if len(steps) == 1 and self._stream.time_base:  # headers lie about the rate, this can't
            return round(time / float(steps.pop() * self._stream.time_base))
        if found.pts is not None and not is_url(self._spec):
            try:
                return _count_before(f"file:{self._spec}", self._stream.index, stamp, found.pts)
            except av.FFmpegError:  # damage on the way
                return None
        self._warn("frames are numbered by the rate in its header, as if that were constant, because of --start")
        return round(time * Fraction(rate or _DEFAULT_RATE))

    def _clock(self) -> FrameClock:
        # AVI has no presentation stamps.
        return FrameClock(
            self._stream.time_base or Fraction(1, 90000),
            1.0 / float(self._stream.average_rate or _DEFAULT_RATE),
            trust_pts=self._container.format.name != "avi",
            wrap=wrap_of(self._container),
        )

    def _is_past(self, time: float) -> bool:
        duration = self._options.duration
        if duration is None or self.info.live:
            return False
        return time >= (self._options.start or 0.0) + duration - TIME_SLACK

    def close(self) -> None:
        """Closes the file or connection."""
        if not self._closed:
            self._started = self._closed = True
            self._container.close()
            self._let_go()

    def _let_go(self) -> None:
        """Free the decoder, 26 MiB of pictures at 1080p: a run over a folder keeps each source for its name."""
        if self._closed and not self._reading:
            for name in ("_decoder", "_stream", "_container", "_reformatter"):
                vars(self).pop(name, None)

    def _warn(self, line: str) -> None:
        self.info.warnings.append(f"{self.info.name}: {line}")

    def _warn_of_early_end(self, last: _Timed, origin: float) -> None:
        frames = last.index + 1
        claimed = (self._stream.frames or 0) - max(self._hidden, self._decoder.hidden) - self._decoder.lost
        anew = abs(last.stamp - last.time - origin) > _SHORT_SECONDS  # as in glued files: the claim is of other stamps
        seconds = None if anew else _claimed_seconds(self._stream, origin)
        end = last.time + float((getattr(last.picture, "duration", 0) or 0) * (self._stream.time_base or 0))
        if self._decoder.broken and not self._decoder.cut and end + _SHORT_SECONDS >= (seconds or 0.0):
            return  # frames are missing where it is damaged
        if frames < claimed:
            self._warn(f"its header claims {counted(claimed, 'frame')}, but it ends after {frames}")
            return
        missing = None if is_url(self._spec) else _missing_bytes(Path(self._spec))
        short = seconds is not None and end + self._short_seconds < seconds
        if missing:
            self._warn(f"cut off after {counted(frames, 'frame')}: {missing} bytes of the file are missing")
        elif self._decoder.cut is not None and short and missing == 0:
            what = f"damaged after {counted(frames, 'frame')} ({self._decoder.cut}), and nothing after that can be read"
            line = f"{self.info.name}: {what}: its header claims {seconds:.2f} s, and no byte of the file is missing"
            if self._options.strict:
                raise SourceError(f"{line}; repair the file or encode it again")
            self.info.failures.append(line)
        elif self._decoder.cut is not None:
            ended = "the stream ended" if self.info.live else "cut off"
            self._warn(f"{ended} after {counted(frames, 'frame')} ({self._decoder.cut})")
        elif not self._stream.frames and short:
            self._warn(f"its header claims {seconds:.2f} s, but it ends after {end:.2f} s")

    @property
    def _short_seconds(self) -> float:
        """How much shorter than its header the stream may be; Matroska's length is that of the last frame's end."""
        if "matroska" not in self._container.format.name:
            return _SHORT_SECONDS
        return min(_SHORT_SECONDS, 1.5 / float(self._stream.average_rate or _DEFAULT_RATE))

    def _upright(self, picture: VideoFrame) -> tuple[Image, Fraction, bool]:
        """The picture as it is to be looked at, its sample aspect ratio, and whether its memory is its own."""
        converted = self._reformatter.reformat(picture, format="bgr24")
        owned = converted is not picture  # else it is the decoder's, which may make the next one from it
        image = np.ascontiguousarray(converted.to_ndarray(), dtype=np.uint8)
        ratio = self._stream.sample_aspect_ratio or Fraction(1)
        if not 1 / _MOST_STRETCHED <= ratio <= _MOST_STRETCHED:  # a header can claim anything
            ratio = Fraction(1)
        for data in cast(SideDataContainer, picture.side_data):
            if data.type.name == "DISPLAYMATRIX":
                return upright(image, bytes(data)), 1 / ratio if is_turned(bytes(data)) else ratio, owned
        return image, ratio, owned

    def _warn_of_damage(self) -> None:
        skipped, flagged, broken = self._decoder.skipped, self._decoder.flagged, self._decoder.broken
        if broken:
            places = f"in {broken} places, first" if broken > 1 else "once,"
            self.info.failures.append(
                f"{self.info.name}: skipped damage {places} {self._decoder.first_damage}; frames lost: "
                f"{self._decoder.lost}, frames that may be wrong, up to the next key frame: {self._damaged}"
            )
        if skipped:
            self._warn(f"damaged pieces that were skipped: {skipped}")
        if flagged and not (broken or self.info.warnings):
            self._warn(f"damaged pieces whose frames may be wrong or missing: {flagged}")
        if self._gaps.missing > self._decoder.lost and not self.info.warnings:
            before, after = self._gaps.first
            places = f"in {self._gaps.count} places, first " if self._gaps.count > 1 else ""
            self._warn(
                f"frames may be missing {places}between {before:.2f} s and {after:.2f} s: "
                f"room for {counted(self._gaps.missing, 'frame')} ({self._gaps.seconds:.2f} s) in all"
            )


def _has_length(container: InputContainer) -> bool:
    """Whether a server said how long what it sends is."""
    try:
        return container.size > 0
    except (av.FFmpegError, OSError):
        return False


def _claimed_seconds(stream: VideoStream, origin: float) -> float | None:
    """The length that the header gives this stream; Matroska says its end, in a tag such as `00:01:02.500`.

    `origin`: the stamp of the first frame, in seconds.
    """
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - max(0.0, origin)
    except ValueError:
        return None


_TAIL = 512  # bytes at a file's end
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"  # the ids of Matroska's two outermost elements


def _missing_bytes(path: Path) -> int | None:
    """How many bytes a Matroska file is shorter than it says, which its decoder is silent about; None where that can't
    be told: in other files, and where zeros stand for an end that was never written.
    """
    with contextlib.suppress(OSError), path.open("rb") as file:  # somebody may have removed it
        if file.read(4) == _EBML and (header := _ebml_size(file)) is not None:
            file.seek(header, os.SEEK_CUR)
            if file.read(4) == _SEGMENT and (segment := _ebml_size(file)) is not None:
                if missing := max(0, file.tell() + segment - os.fstat(file.fileno()).st_size):
                    return missing
                file.seek(-min(_TAIL, segment), os.SEEK_END)
                return 0 if any(file.read()) else None
    return None


def _ebml_size(file: BinaryIO) -> int | None:
    """An element's size; None where its writer didn't know it, as in a live stream."""
    first = file.read(1)
    length = 9 - first[0].bit_length() if first else 9  # leading zeros say how many bytes follow
    rest = file.read(length - 1)
    if length > 8 or len(rest) < length - 1:
        return None
    size = int.from_bytes(first + rest, "big") & (1 << 7 * length) - 1
    return None if size == (1 << 7 * length) - 1 else size


_FULLY_INDEXED = ("avi", "mov,mp4,m4a,3gp,3g2,mj2")
# How far before the wanted time to seek, in turn: some containers land after it, or on a picture that needs others.
_MARGINS = (0.0, 2.0, 10.0, 60.0)


def _counted(
    pictures: Iterable[Decoded], clock: FrameClock, first_index: int = 0, *, ahead: bool = True
) -> Iterator[_Timed]:
    """Consecutive pictures with their places; `ahead`: each waits for the next one, whose stamps say more."""
    decoded = iter(pictures)
    current = next(decoded, None)
    for index in itertools.count(first_index):
        if current is None:
            return
        picture, damaged = current
        failure = following = None
        if ahead:
            try:
                following = next(decoded, None)
            except SourceError as error:  # after the picture at hand
                failure = error
        stamps = None if following is None else (following.picture.pts, following.picture.dts)
        time = clock.seconds(picture.pts, picture.dts, stamps)
        yield _Timed(index, time, clock.stamp(time), picture, damaged)
        if failure is not None:
            raise failure
        current = following if ahead else next(decoded, None)


def _seek(
    container: InputContainer,
    stream: VideoStream,
    decoder: Decoder,
    clock: FrameClock,
    start: float,
    index_at: Callable[[int, VideoFrame, float], int | None],
) -> Iterator[_Timed] | None:
    """The pictures from a key frame at or before `start` seconds on.

    Args:
        container: Open, at its beginning.
        stream: One of its streams.
        decoder: Of that stream.
        clock: Not used yet.
        start: Seconds since the first picture.
        index_at: Gives the index of the first picture after seeking to a stamp, from both and its time in seconds; None
            where it can't.

    Returns:
        None where the only way there is to open the container again and decode all of it.
    """
    first = next(iter(decoder), None)
    if first is None:
        return None
    clock.seconds(first.picture.pts, first.picture.dts)  # learns which stamp is second 0
    if clock.origin is None or not stream.time_base or not stream.average_rate:
        return None
    for margin in _MARGINS:
        if start <= margin:
            return None
        stamp = round((clock.origin + start - margin) / float(stream.time_base))
        try:
            container.seek(stamp, stream=stream)
        except (av.FFmpegError, OSError, OverflowError):  # a start that no stamp can be
            return None
        decoder.reset()
        pictures = iter(decoder)
        first = next(pictures, None)
        if first is not None and (first.picture.pts is not None or first.picture.dts is not None):
            there = clock.elsewhere()
            time = there.seconds(first.picture.pts, first.picture.dts)
            if time <= start + TIME_SLACK:
                index = index_at(stamp, first.picture, time)
                if index is None:
                    return None
                return itertools.chain(
                    [_Timed(index, time, there.stamp(time), *first)], _counted(pictures, there, index + 1)
                )
    return None


def _entries_of(container: InputContainer, stream: VideoStream) -> IndexEntries | None:
    """The container's index of a stream, where it lists every packet; newer versions of PyAV give it."""
    entries: IndexEntries | None = getattr(stream, "index_entries", None)
    return entries if entries is not None and len(entries) > 1 and container.format.name in _FULLY_INDEXED else None


def _count_before(path: str, stream_index: int, stamp: int, shown: int) -> int | None:
    """How many frames of a file are shown before the one that is stamped `shown`, to which seeking to `stamp` leads.

    All packets before it are read, but not decoded, unless the container has an index of them. None where they differ
    from those that seeking led to. Raises `av.FFmpegError`.
    """
    with av.open(path) as container:
        stream = container.streams[stream_index]
        assert isinstance(stream, VideoStream)
        container.seek(stamp, stream=stream)
        packets = (packet for packet in container.demux(stream) if packet.size)
        landed = next(packets, None)
        if landed is None:
            return None
        entries = _entries_of(container, stream)
        stamps = [entry.timestamp for entry in entries or ()]
        if entries is not None and landed.dts in stamps:
            before = sum(not entry.is_discard for entry in itertools.islice(entries, stamps.index(landed.dts)))
        else:
            with av.open(path) as again:
                read = (packet for packet in again.demux(again.streams[stream_index]) if packet.size)
                before = 0
                for packet in read:
                    if (packet.pos, packet.pts) == (landed.pos, landed.pts):
                        break
                    before += not packet.is_discard
                else:
                    return None
        for packet in itertools.chain([landed], packets):  # some that follow a key frame are shown before it
            if packet.pts is None or (packet.dts is not None and packet.dts > shown):
                break
            before += packet.pts < shown and not packet.is_discard
        return before

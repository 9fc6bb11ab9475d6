"""The annotated pictures as an H.264 video, through PyAV."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from sharpose.errors import InputError, SinkError
from sharpose.runtime.frames import FrameRecord, Image
from sharpose.runtime.sinks.letterbox import letterbox, pad_even
from sharpose.runtime.sinks.partial import mark_partial

__all__ = ["VIDEO_SUFFIXES", "VideoSink"]

VIDEO_SUFFIXES = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""The suffixes that can be written, with FFmpeg's names for the containers."""

_TICKS = 90_000  # stamps in a second
_MIN_STEP = 90  # 1 ms: the finest that Matroska can tell apart
_KEY_INTERVAL = 1 * _TICKS  # what a killed run may lose is what came after its last key frame
_THREADS = 2  # the engines want the others
_BT709 = 1
_BT601 = 6  # the matrix of OpenCV's BGR2YUV
_LIMITED_RANGE = 1


class VideoSink:
    """Writes each record's `picture`, timed by its frame's `time`.

    The size is the first picture's, made even; others are letterboxed to it. The file is fragmented while it grows, so
    it can be played up to its last key frame even after a kill.

    Args:
        path: Ends in `.mp4`, `.mov` or `.mkv`. Without a record it is never made.
        frame_rate: Nominal frames a second, for the header, and for how long a single picture stands; the last of
            several stands as long as the one before it.

    Raises:
        InputError: the path has another suffix, or the rate is not positive.
        SinkError: this FFmpeg has no H.264 encoder.
    """

    def __init__(self, path: str | Path, *, frame_rate: float | None = None) -> None:
        self.path = Path(path)
        self.name = str(self.path)
        if self.path.suffix.lower() not in VIDEO_SUFFIXES:
            raise InputError(f"{self.path}: expected a video file's name ending in {' '.join(VIDEO_SUFFIXES)}")
        if frame_rate is not None and not 0 < frame_rate < float("inf"):
            raise InputError(f"expected a positive frame rate, got {frame_rate}")
        self._encoder = _find_encoder()
        self._rate = frame_rate
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._held: Packet[VideoStream] | None = None  # until the next one says how long it stands
        self._size = (0, 0)
        self._start = 0.0
        self._last_stamp = -_MIN_STEP
        self._last_key = -_KEY_INTERVAL
        self._last_duration = max(_MIN_STEP, round(_TICKS / (frame_rate or 1.0)))
        self._made = False
        self._closed = False

    def write(self, record: FrameRecord) -> None:
        """Encodes a picture. Raises `SinkError` where it can't be encoded or written."""
        if self._closed:
            raise SinkError(f"{self.path}: is closed, no picture can be added")
        picture = record.picture
        try:
            if self._stream is None:
                self._open(picture, record.frame.time)
            assert self._stream is not None
            self._mux(self._stream.encode(self._frame(picture, record.frame.time)))
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from None

    def close(self) -> None:
        """Writes what is still in the encoder and ends the file. May be called twice. Raises `SinkError`."""
        if self._closed:
            return
        self._closed = True
        if self._container is None:
            return
        try:
            if self._stream is not None:
                self._mux(self._stream.encode(None))
                self._mux_held(self._last_duration)
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from None
        finally:
            self._end_file()

    def abandon(self) -> Path | None:
        """Ends the file of a failed run and marks it as partial; its new path, or None where nothing was written."""
        with contextlib.suppress(SinkError):  # what led here was reported; what reached the file can be played
            self.close()
        return mark_partial(self.path) if self._made else None

    def _open(self, picture: Image, time: float) -> None:
        padded = pad_even(picture)
        self._size = padded.shape[0], padded.shape[1]
        self._start = time
        self.path.parent.mkdir(parents=True, exist_ok=True)
        container = av.open(
            f"file:{self.path}",  # a name such as `take1:2.mp4` has no protocol in it
            "w",
            format=VIDEO_SUFFIXES[self.path.suffix.lower()],
            options=_muxer_options(self.path.suffix.lower()),
        )
        self._container = container
        rate = max(Fraction(self._rate or 25.0).limit_denominator(1001), Fraction(1, 1001))
        stream = cast(
            VideoStream, container.add_stream(self._encoder, rate=rate, options=_encoder_options(self._encoder))
        )
        stream.height, stream.width = self._size
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, _TICKS)
        context = stream.codec_context
        context.time_base = Fraction(1, _TICKS)
        context.max_b_frames = 0  # stamps stay in order, so a fragment needs no edit list
        context.thread_count = _THREADS
        context.color_primaries = context.color_trc = _BT709
        context.colorspace, context.color_range = _BT601, _LIMITED_RANGE
        container.start_encoding()  # makes the file, so that a path that can't be written fails at the first record
        self._stream = stream
        self._made = True

    def _frame(self, picture: Image, time: float) -> VideoFrame:
        boxed = pad_even(letterbox(picture, *self._size) if self._needs_box(picture) else picture)
        # OpenCV's conversion is faster than FFmpeg's and rounds better.
        frame = VideoFrame.from_ndarray(
            np.asarray(cv2.cvtColor(boxed, cv2.COLOR_BGR2YUV_I420), np.uint8), format="yuv420p"
        )
        stamp = max(round((time - self._start) * _TICKS), self._last_stamp + _MIN_STEP)
        if self._last_stamp >= 0:  # headers lie about the rate: the last step is known
            self._last_duration = stamp - self._last_stamp
        self._last_stamp = stamp
        frame.pts = stamp
        frame.time_base = Fraction(1, _TICKS)
        if stamp - self._last_key >= _KEY_INTERVAL:
            frame.pict_type = PictureType.I
            self._last_key = stamp
        return frame

    def _needs_box(self, picture: Image) -> bool:
        """Whether the picture isn't the first one's size (which was made even)."""
        return (picture.shape[0] + picture.shape[0] % 2, picture.shape[1] + picture.shape[1] % 2) != self._size

    def _mux(self, packets: Iterable[Packet[VideoStream]]) -> None:
        for packet in packets:
            if self._held is not None and packet.pts is not None and self._held.pts is not None:
                self._mux_held(packet.pts - self._held.pts)
            self._held = packet

    def _mux_held(self, duration: int) -> None:
        packet, self._held = self._held, None
        if packet is not None and self._container is not None:
            packet.duration = duration
            self._container.mux(packet)

    def _end_file(self) -> None:
        container, self._container, self._stream, self._held = self._container, None, None, None
        if container is not None:
            try:
                container.close()
            except (av.FFmpegError, OSError) as error:
                raise self._failure(error) from None

    def _failure(self, error: Exception) -> SinkError:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        height, width = self._size
        return SinkError(f"{self.path}: the video ({width}x{height}) can't be written: {why}")


def _find_encoder() -> str:
    for name in ("libx264", "h264"):
        try:
            return av.codec.Codec(name, "w").name
        except UnknownCodecError:
            continue
    raise SinkError(
        "writing a video needs an H.264 encoder, and the FFmpeg inside PyAV has none; "
        "install PyAV from its wheel (pip install --force-reinstall --only-binary av av), or write --json instead"
    )


def _encoder_options(encoder: str) -> dict[str, str]:
    # forced-idr: a key frame that is asked for is one that decoding can start at.
    return {"preset": "superfast", "crf": "21", "forced-idr": "1"} if encoder.startswith("libx264") else {}


def _muxer_options(suffix: str) -> dict[str, str]:
    options = {"flush_packets": "1"}  # or the last 256 KiB would wait in memory
    if suffix != ".mkv":
        # Hybrid: fragments while it grows, an ordinary index with the number of frames once it is closed.
        hybrid = av.library_versions["libavformat"] >= (61, 7)
        fragmented = "frag_keyframe+empty_moov+default_base_moof"
        options["movflags"] = "hybrid_fragmented+frag_keyframe" if hybrid else fragmented
    return options

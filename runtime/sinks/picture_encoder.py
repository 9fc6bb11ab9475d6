"""Pictures of any size and at any time become a stream of packets of one size, in order, with regular key frames."""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from sharpose.runtime.frames import Image
from sharpose.runtime.sinks.encoders import TICKS, VideoEncoder, add_stream
from sharpose.runtime.sinks.letterbox import letterbox, pad_even
from sharpose.runtime.sinks.video_settings import VideoSettings

__all__ = ["PictureEncoder"]

_MIN_STEP = 90  # 1 ms: the finest that Matroska can tell apart
_KEY_INTERVAL = 1 * TICKS


class PictureEncoder:
    """The one stream of a container.

    Args:
        container: Nothing has been written to it.
        encoder: A usable one.
        settings: How to encode.
        picture: The first picture, which gives the size, made even; others are letterboxed to it.
        frame_rate: Nominal frames a second, for the header.
    """

    def __init__(
        self,
        container: OutputContainer,
        encoder: VideoEncoder,
        settings: VideoSettings,
        *,
        picture: Image,
        frame_rate: float | None,
    ) -> None:
        padded = pad_even(picture)
        self.size: tuple[int, int] = padded.shape[0], padded.shape[1]
        self._stream: VideoStream = add_stream(
            container, encoder, settings, height=self.size[0], width=self.size[1], frame_rate=frame_rate
        )
        self._last_stamp = -_MIN_STEP
        self._last_key = -_KEY_INTERVAL
        self._duration = max(_MIN_STEP, round(TICKS / (frame_rate or 1.0)))

    def encode(self, picture: Image, seconds: float) -> list[Packet[VideoStream]]:
        """The packets that are ready once `picture` has gone in, to be shown `seconds` after the first.

        A time that stands still or goes back is put 1 ms after the one before. Raises `av.FFmpegError`.
        """
        stamp = max(round(seconds * TICKS), self._last_stamp + _MIN_STEP)
        if self._last_stamp >= 0:  # headers lie about the rate: the last step is known
            self._duration = stamp - self._last_stamp
        self._last_stamp = stamp
        frame = self._frame(picture)
        frame.pts, frame.time_base = stamp, Fraction(1, TICKS)
        if stamp - self._last_key >= _KEY_INTERVAL:
            frame.pict_type = PictureType.I
            self._last_key = stamp
        return self._timed(self._stream.encode(frame))

    def finish(self) -> list[Packet[VideoStream]]:
        """What is still inside. Raises `av.FFmpegError`."""
        try:
            return self._timed(self._stream.encode(None))
        except av.EOFError:
            return []

    def _timed(self, packets: list[Packet[VideoStream]]) -> list[Packet[VideoStream]]:
        # Muxers take a packet's duration from the next one's stamp; this is for the last, which has none.
        for packet in packets:
            packet.duration = self._duration
        return packets

    def _frame(self, picture: Image) -> VideoFrame:
        even = picture.shape[0] + picture.shape[0] % 2, picture.shape[1] + picture.shape[1] % 2
        boxed = pad_even(picture if even == self.size else letterbox(picture, *self.size))
        # OpenCV's conversion is faster than FFmpeg's and rounds better.
        yuv = np.asarray(cv2.cvtColor(boxed, cv2.COLOR_BGR2YUV_I420), np.uint8)
        return VideoFrame.from_ndarray(yuv, format="yuv420p")

"""Encoding pictures: FFmpeg's encoders, and pictures of any size into packets of one."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import cast

import av
import cv2
import numpy as np
from av.codec.codec import Codec, UnknownCodecError
from av.codec.context import ThreadType
from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from sharpose.errors import SinkError, one_line
from sharpose.runtime.options import HIGHEST_CRF, VideoSettings
from sharpose.runtime.result import Image
from sharpose.runtime.sources.pictures import captured_complaints


@dataclass(frozen=True)
class VideoEncoder:
    """One of FFmpeg's encoders.

    Attributes:
        name: FFmpeg's name.
        family: `h264`, `h265`, or FFmpeg's name of another codec.
        hardware: Whether a chip does the work.
        fixed: Options that it always gets.
        preset: Its option for a preset and the default, or None.
        quality: Its options that take a crf; without any it gets a bit rate.
        quality_mode: Options that go with those.
        crf: The default one.
        highest_crf: The worst one.
        copies: Whether it copies each picture into memory of its own, so that it may be lent one whose rows aren't
            aligned; others read a picture where it lies.
    """

    name: str
    family: str
    hardware: bool = True
    fixed: dict[str, str] = field(default_factory=dict, hash=False)
    preset: tuple[str, str] | None = None
    quality: tuple[str, ...] = ()
    quality_mode: dict[str, str] = field(default_factory=dict, hash=False)
    crf: int = 23
    highest_crf: int = 51
    copies: bool = False

    def options(self, settings: VideoSettings) -> dict[str, str]:
        """FFmpeg's options for these settings."""
        given = dict(self.fixed)
        if self.preset is not None:
            option, default = self.preset
            given[option] = settings.preset or default
        if settings.bitrate or not self.quality:
            return given
        crf = str(self.crf if settings.crf is None else settings.crf)
        return given | self.quality_mode | dict.fromkeys(self.quality, crf)


# zerolatency and the like: a frame that goes in comes out, so that a kill finds none inside the encoder.
# forced-idr: a key frame that is asked for is one that decoding can start at.
_X26X = {"tune": "zerolatency", "forced-idr": "1"}
_X265 = _X26X | {"x265-params": "log-level=none"}
_NVENC = {"tune": "ll", "delay": "0", "zerolatency": "1", "forced-idr": "1"}
_QSV = {"async_depth": "1", "forced_idr": "1"}
_AMF = {"usage": "lowlatency", "forced_idr": "1"}
_TOOLBOX = {"realtime": "1", "allow_sw": "0"}
# VAAPI is missing: no FFmpeg inside PyAV's wheels has it, so nobody could try it.
_ENCODERS = (
    VideoEncoder("libx264", "h264", False, _X26X, ("preset", "superfast"), ("crf",), crf=21, copies=True),
    VideoEncoder("libx265", "h265", False, _X265, ("preset", "ultrafast"), ("crf",), crf=24, copies=True),
    VideoEncoder("libopenh264", "h264", False),
    VideoEncoder("h264_nvenc", "h264", True, _NVENC, ("preset", "p4"), ("cq",), {"rc": "vbr"}),
    VideoEncoder("hevc_nvenc", "h265", True, _NVENC, ("preset", "p4"), ("cq",), {"rc": "vbr"}),
    VideoEncoder("h264_videotoolbox", "h264", True, _TOOLBOX),
    VideoEncoder("hevc_videotoolbox", "h265", True, _TOOLBOX),
    VideoEncoder("h264_qsv", "h264", True, _QSV, ("preset", "veryfast"), ("global_quality",)),
    VideoEncoder("hevc_qsv", "h265", True, _QSV, ("preset", "veryfast"), ("global_quality",)),
    VideoEncoder("h264_amf", "h264", True, _AMF, ("quality", "speed"), ("qp_i", "qp_p"), {"rc": "cqp"}),
    VideoEncoder("hevc_amf", "h265", True, _AMF, ("quality", "speed"), ("qp_i", "qp_p"), {"rc": "cqp"}),
    VideoEncoder("h264_v4l2m2m", "h264"),
    VideoEncoder("hevc_v4l2m2m", "h265"),
)


_WIDELY_USED = ("libsvtav1", "libvpx-vp9", "libvpx", "mpeg4", "mjpeg", "prores_ks", "ffv1")


def find_encoder(settings: VideoSettings, container: str = "mp4") -> VideoEncoder:
    """The encoder that the settings ask for, tried with a picture.

    Args:
        settings: `h264`, `h265`, `auto`, or the name of any video encoder that FFmpeg has here.
        container: FFmpeg's name of the format that takes the packets.

    Raises:
        SinkError: it isn't there, doesn't open, doesn't fit the container or can't do what is asked; says which can.
    """
    wanted = settings.encoder
    if wanted in ("auto", "h264", "h265"):
        family = "h264" if wanted == "auto" else wanted
        candidates = [encoder for encoder in _ENCODERS if encoder.family == family]
        candidates.sort(key=lambda encoder: encoder.hardware != (wanted == "auto"))
    else:
        candidates = [encoder for encoder in _ENCODERS if encoder.name == wanted] or _other_encoder(settings)
    refused = "" if candidates else " (the FFmpeg inside PyAV has no video encoder of that name)"
    for encoder in candidates:
        if settings.crf is not None and not encoder.quality:
            refused = f" ({encoder.name} takes a bit rate, no crf)"
            continue
        if settings.crf is not None and settings.crf > encoder.highest_crf:
            refused = f" ({encoder.name} takes a crf of 0 to {encoder.highest_crf}, got {settings.crf})"
            continue
        if settings.preset is not None and encoder.preset is None:
            refused = refused or f" ({encoder.name} has no presets)"
            continue
        why = _why_unusable(encoder, settings)
        if why is None and encoder not in _ENCODERS and not _fits(encoder, settings, container):
            why = f"it doesn't fit into {container}"
        if why is None:
            return encoder
        refused = refused or f" ({why})"
    there = [*usable_encoders(), *_usable_others(container)]
    raise SinkError(
        f"video encoder {wanted}: not usable here{refused}; usable are {', '.join(there)}"
        if there
        else "writing a video needs an H.264 or H.265 encoder, and the FFmpeg inside PyAV has none; install PyAV from "
        "its wheel (pip install --force-reinstall --only-binary av av), or write --json instead"
    )


def _other_encoder(settings: VideoSettings) -> list[VideoEncoder]:
    """FFmpeg's video encoder of that name, if there is one; it is asked for a crf or a preset where one is given."""
    try:
        codec = Codec(settings.encoder, "w")
    except (UnknownCodecError, ValueError):
        return []
    if codec.type != "video":
        return []
    os.environ.setdefault("SVT_LOG", "0")  # else libsvtav1 writes to standard error
    return [
        VideoEncoder(
            settings.encoder,
            {"hevc": "h265"}.get(codec.canonical_name, codec.canonical_name),
            preset=None if settings.preset is None else ("preset", settings.preset),
            quality=() if settings.crf is None else ("crf",),
            highest_crf=HIGHEST_CRF,
        )
    ]


def _fits(encoder: VideoEncoder, settings: VideoSettings, container: str) -> bool:
    with captured_complaints():
        output = av.open(io.BytesIO(), "w", format=container)
        try:
            stream = cast(VideoStream, output.add_stream(encoder.name, rate=25, options=encoder.options(settings)))
            _set_up(stream.codec_context, encoder, settings, _TRIAL, 25.0)
            output.start_encoding()
        except (av.FFmpegError, ValueError):
            return False
        finally:
            with contextlib.suppress(av.FFmpegError):
                output.close()
    return True


def usable_encoders() -> list[str]:
    """The names of the H.264 and H.265 encoders that open on this machine."""
    return [encoder.name for encoder in _ENCODERS if _why_unusable(encoder, VideoSettings()) is None]


def _usable_others(container: str) -> list[str]:
    """Encoders of other codecs, of those in wide use, that open here and fit the container."""
    settings = [VideoSettings(encoder=name) for name in _WIDELY_USED]
    pairs = [(encoder, one) for one in settings for encoder in _other_encoder(one)]
    usable = [(encoder, one) for encoder, one in pairs if _why_unusable(encoder, VideoSettings()) is None]
    return [encoder.name for encoder, one in usable if _fits(encoder, one, container)]


_TICKS = 90_000  # stamps per second
_TICKS_OF = {"mpeg4": 60_000}  # MPEG-4's old codec counts no finer than 65,535
_TRIAL = (256, 256)  # height and width; hardware refuses smaller ones
_CIF = (288, 352)  # height and width that every codec of video calls takes
_THREADS = 2  # the engines want the others
_BT709 = 1
_BT601 = 6  # the matrix of OpenCV's BGR2YUV
_LIMITED_RANGE = 1
_FORMATS = ("yuv420p", "nv12")  # of pixels, the preferred one first; of others an encoder's own first one


@lru_cache(maxsize=64)
@captured_complaints()
def _why_unusable(encoder: VideoEncoder, settings: VideoSettings) -> str | None:
    """Encodes a picture; the reason if that can't be done, else None."""
    height, width = _TRIAL
    try:
        context = _new_context(encoder, settings)
        frame = VideoFrame.from_ndarray(np.zeros((height * 3 // 2, width), np.uint8), format="yuv420p")
        frame.pts, frame.time_base = 0, Fraction(1, _TICKS)
        packets = [*context.encode(frame), *context.encode(None)]
        for name, option in (("crf", "crf"), ("preset", "--preset")):
            if name in context.options:  # what the encoder left of those that it got
                return f"it takes no {option}"
    except UnknownCodecError:
        return "FFmpeg was built without it"
    except (av.FFmpegError, OSError, ValueError) as error:
        with contextlib.suppress(Exception):
            del context
        if _opens_at_a_rate(encoder, settings):
            return "it needs a constant frame rate, and frames are timed one by one here"
        return "it doesn't open" + (f" with preset {settings.preset}" if settings.preset else f": {one_line(error)}")
    return None if packets else "it gives no packets"


def _new_context(encoder: VideoEncoder, settings: VideoSettings) -> VideoCodecContext:
    context = cast(VideoCodecContext, av.CodecContext.create(encoder.name, "w"))
    context.options = encoder.options(settings)
    context.framerate = Fraction(25)
    _set_up(context, encoder, settings, _TRIAL, 25.0)
    return context


def _opens_at_a_rate(encoder: VideoEncoder, settings: VideoSettings) -> bool:
    """Whether an encoder that doesn't open takes frames at a constant rate, and maybe of one of few sizes."""
    context = _new_context(encoder, settings)
    context.time_base, context.height, context.width = Fraction(1, 25), *_CIF
    try:
        context.open()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _set_up(
    context: VideoCodecContext, encoder: VideoEncoder, settings: VideoSettings, size: tuple[int, int], rate: float
) -> None:
    height, width = context.height, context.width = size
    formats = [form.name for form in context.codec.video_formats or ()]
    first = formats[0] if formats else _FORMATS[0]
    full_range = first.startswith("yuvj")  # by its name
    context.pix_fmt = first if full_range else next((name for name in _FORMATS if name in formats), first)
    context.time_base = Fraction(1, _TICKS_OF.get(encoder.family, _TICKS))
    context.max_b_frames = 0  # stamps stay in order, so a fragment needs no edit list
    context.thread_count = _THREADS
    context.thread_type = ThreadType.SLICE  # frame threads would keep frames back
    context.color_primaries = context.color_trc = _BT709
    context.colorspace = _BT601
    if not full_range:
        context.color_range = _LIMITED_RANGE
    if settings.bitrate:
        context.bit_rate = settings.bitrate
    elif not encoder.quality:
        context.bit_rate = max(100_000, round(0.1 * height * width * min(rate, 60.0)))


_MIN_STEP = 90  # ticks: 1 ms, the finest that Matroska can tell apart
_KEY_INTERVAL = 1 * _TICKS


class PictureEncoder:
    """The video stream of a container.

    Args:
        container: Nothing has been written to it.
        encoder: A usable one.
        settings: How to encode.
        picture: The first picture, which gives the size, made even; others are letterboxed to it.
        frame_rate: Nominal frames per second, for the header; 25 if None.
        sample_aspect_ratio: Width of a pixel to its height, for the header and the stream.

    Attributes:
        size: Height and width.
    """

    def __init__(
        self,
        container: OutputContainer,
        encoder: VideoEncoder,
        settings: VideoSettings,
        *,
        picture: Image,
        frame_rate: float | None,
        sample_aspect_ratio: Fraction = Fraction(1),
    ) -> None:
        padded = pad_even(picture)
        self.size: tuple[int, int] = padded.shape[0], padded.shape[1]
        rate = max(Fraction(frame_rate or 25.0).limit_denominator(1001), Fraction(1, 1001))
        self._stream = cast(
            VideoStream, container.add_stream(encoder.name, rate=rate, options=encoder.options(settings))
        )
        self._stream.time_base = Fraction(1, _TICKS)
        if encoder.family == "h265" and "mp4" in container.format.name:
            self._stream.codec_context.codec_tag = "hvc1"  # or Apple's players show nothing
        _set_up(self._stream.codec_context, encoder, settings, self.size, float(rate))
        if sample_aspect_ratio != 1:
            self._stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        self._lent = encoder.copies and self.size[0] % 4 == 0  # PyAV would cut other heights
        self._last_stamp = -_MIN_STEP
        self._last_key = -_KEY_INTERVAL
        self._duration = max(_MIN_STEP, round(_TICKS / (frame_rate or 1.0)))

    def encode(self, picture: Image, seconds: float) -> list[Packet[VideoStream]]:
        """The packets that are ready once `picture` has gone in, to be shown `seconds` after the first.

        A time that stands still or goes back is put 1 ms after the one before. Raises `av.FFmpegError`.
        """
        stamp = max(round(seconds * _TICKS), self._last_stamp + _MIN_STEP)
        if self._last_stamp >= 0:  # headers lie about the rate: the last step is known
            self._duration = stamp - self._last_stamp
        self._last_stamp = stamp
        even = picture.shape[0] + picture.shape[0] % 2, picture.shape[1] + picture.shape[1] % 2
        boxed = pad_even(picture if even == self.size else letterbox(picture, *self.size))
        # OpenCV's conversion is faster than FFmpeg's and rounds better.
        yuv = np.asarray(cv2.cvtColor(boxed, cv2.COLOR_BGR2YUV_I420), np.uint8)
        # from_ndarray copies the picture to aligned rows, which takes as long as the conversion at 1080p.
        frame = (VideoFrame.from_numpy_buffer if self._lent else VideoFrame.from_ndarray)(yuv, format="yuv420p")
        frame.pts, frame.time_base = stamp, Fraction(1, _TICKS)
        if stamp - self._last_key >= _KEY_INTERVAL:
            frame.pict_type = PictureType.I
            self._last_key = stamp
        return self._timed(self._stream.encode(frame))

    def finish(self) -> list[Packet[VideoStream]]:
        """The packets still in the encoder. Raises `av.FFmpegError`."""
        try:
            return self._timed(self._stream.encode(None))
        except av.EOFError:
            return []

    def _timed(self, packets: list[Packet[VideoStream]]) -> list[Packet[VideoStream]]:
        # Muxers take a packet's duration from the next one's stamp; this is for the last, which has none.
        for packet in packets:
            seconds = Fraction(self._duration, _TICKS)
            packet.duration = round(seconds / packet.time_base) if packet.time_base else self._duration
        return packets


def letterbox(image: Image, height: int, width: int) -> Image:
    """`image` [H, W, 3] scaled to fit `[height, width, 3]`, centred, its aspect kept, black bars around it."""
    if image.shape[:2] == (height, width):
        return image
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_height = min(height, max(1, round(image.shape[0] * scale)))
    inner_width = min(width, max(1, round(image.shape[1] * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    canvas[top : top + inner_height, left : left + inner_width] = cv2.resize(
        image, (inner_width, inner_height), interpolation=interpolation
    )
    return canvas


def pad_even(image: Image) -> Image:
    """`image` with its last row and column repeated where their number is odd: chroma has half the resolution."""
    bottom, right = image.shape[0] % 2, image.shape[1] % 2
    if not (bottom or right):
        return image
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="edge")

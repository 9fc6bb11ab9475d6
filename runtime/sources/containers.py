"""Opening a video file or an address with FFmpeg and picking the stream to decode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from sharpose.errors import SourceError

__all__ = ["open_stream", "reason"]


def reason(error: BaseException) -> str:
    """FFmpeg's or the system's words for an error, without the file name or address that `str` would repeat."""
    if isinstance(error, av.error.ExitError):
        return "no answer in time"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def open_stream(
    name: str,
    path: Path | None,
    url: str,
    *,
    timeout: float,
    options: Mapping[str, str],
    accelerator: HWAccel | None = None,
) -> tuple[InputContainer, VideoStream]:
    """Opens a file (`path`) or else an address (`url`) and picks its best video stream.

    Args:
        name: What to call it in errors.
        path: The file, or None.
        url: The address, used where `path` is None.
        timeout: Seconds to wait for an address to answer, for opening and for each read.
        options: FFmpeg's, for an address.
        accelerator: Decodes; the CPU if None.

    Raises:
        SourceError: it can't be opened, or holds no moving picture that can be decoded.
    """
    try:
        if path is not None:
            # `file:` keeps FFmpeg from reading a protocol into a name such as `take1:2.mp4`.
            container = av.open(f"file:{path}", "r", metadata_errors="replace", hwaccel=accelerator)
        else:
            container = av.open(
                url, "r", options=dict(options), timeout=timeout, metadata_errors="replace", hwaccel=accelerator
            )
    except (av.FFmpegError, OSError, ValueError) as error:
        why = reason(error)
        if path is not None and isinstance(error, av.error.InvalidDataError):
            why = "it is no video, or was cut off before the index that it ends with"
        if isinstance(error, av.error.ProtocolNotFoundError):
            scheme = url.partition("://")[0]
            why = f"this FFmpeg has no {scheme}; receive it with another program and pipe it in, or use rtsp or udp"
        kind = "a stream" if path is None else "a video file"
        raise SourceError(f"{name}: expected {kind}, but it can't be opened as one: {why}") from None
    except RuntimeError:  # PyAV, where not one stream fits the accelerator; it names neither
        raise SourceError(f"{name}: the hardware decoder that was asked for can't decode its codec") from None
    try:
        return container, _video_stream(name, container)
    except BaseException:
        container.close()
        raise


def _video_stream(name: str, container: InputContainer) -> VideoStream:
    if container.format.name == "tty":  # FFmpeg would draw a text file as terminal art
        raise SourceError(f"{name}: expected a video, found a text file")
    # A song's cover counts as video for FFmpeg.
    covers = [stream for stream in container.streams.video if stream.disposition & Disposition.attached_pic]
    streams = [stream for stream in container.streams.video if stream not in covers]
    if not streams:
        kinds = {"a cover picture" if stream in covers else stream.type for stream in container.streams}
        found = " and ".join(sorted(kinds, reverse=True)) or "nothing"
        raise SourceError(f"{name}: expected a video stream, found {found} only")
    best = container.streams.best("video")
    stream = next((stream for stream in streams if best is not None and stream.index == best.index), streams[0])
    if getattr(stream, "codec_context", None) is None:
        raise SourceError(f"{name}: its video codec is unknown to this FFmpeg; convert it to H.264 first")
    return stream

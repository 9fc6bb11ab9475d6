"""The annotated pictures as an H.264 or H.265 video file, through PyAV."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import av
from av.container import OutputContainer

from sharpose.errors import InputError, SinkError
from sharpose.runtime.frames import FrameRecord, Image
from sharpose.runtime.sinks.encoders import find_encoder
from sharpose.runtime.sinks.partial import mark_partial
from sharpose.runtime.sinks.picture_encoder import PictureEncoder
from sharpose.runtime.sinks.video_file import VideoFile
from sharpose.runtime.sinks.video_settings import VideoSettings

__all__ = ["VIDEO_SUFFIXES", "VideoSink"]

VIDEO_SUFFIXES = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""The suffixes that can be written, with FFmpeg's names for the containers."""

_LIVE_FRAGMENT = 500_000  # microseconds


class VideoSink:
    """Writes each record's `picture`, timed by its frame's `time`.

    The size is the first picture's, made even; others are letterboxed to it. While it grows the file is fragmented, so
    that it can be played after a kill: from a file, up to all but the last frame, however slowly the frames come; from
    a live source, up to half a second and a frame before its end.

    Args:
        path: Ends in `.mp4`, `.mov` or `.mkv`. Without a record it is never made.
        frame_rate: Nominal frames a second, for the header, and for how long a single picture stands; the last of
            several stands as long as the one before it.
        settings: How to encode.
        live: The source has no end: no index is gathered for the end of the file, so memory stays as it is. (The index
            takes about 110 bytes a frame.)
        clock: Seconds; a file that was removed is noticed within one.

    Raises:
        InputError: the path has another suffix, or the rate is not positive.
        SinkError: the encoder is not usable here.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        frame_rate: float | None = None,
        settings: VideoSettings | None = None,
        live: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = Path(path)
        self.name = str(self.path)
        if self.path.suffix.lower() not in VIDEO_SUFFIXES:
            raise InputError(f"{self.path}: expected a video file's name ending in {' '.join(VIDEO_SUFFIXES)}")
        if frame_rate is not None and not 0 < frame_rate < float("inf"):
            raise InputError(f"expected a positive frame rate, got {frame_rate}")
        self._settings = settings or VideoSettings()
        self._encoder = find_encoder(self._settings)
        self._rate = frame_rate
        self._live = live
        self._clock = clock
        self._file: VideoFile | None = None
        self._container: OutputContainer | None = None
        self._pictures: PictureEncoder | None = None
        self._start = 0.0
        self._made = self._closed = self._lost = False

    @property
    def encoder(self) -> str:
        """FFmpeg's name of the encoder."""
        return self._encoder.name

    def write(self, record: FrameRecord) -> None:
        """Encodes a picture. Raises `SinkError` where it can't be; the file then ends with the one before."""
        if self._closed:
            raise SinkError(f"{self.path}: is closed, no picture can be added")
        picture = record.picture
        try:
            if self._pictures is None:
                self._open(picture, record.frame.time)
            assert self._pictures is not None
            assert self._container is not None
            assert self._file is not None
            self._container.mux(self._pictures.encode(picture, record.frame.time - self._start))
            self._file.commit()
        except (av.FFmpegError, OSError) as error:
            raise self._give_up(picture, error) from None
        except SinkError:
            self._lost = True
            self._end_quietly()
            raise

    def close(self) -> None:
        """Writes what is still in the encoder and ends the file. May be called twice. Raises `SinkError`."""
        if self._closed:
            return
        self._closed = True
        container, file, pictures = self._container, self._file, self._pictures
        if container is None or file is None:
            return
        try:
            if pictures is not None:
                container.mux(pictures.finish())
            file.commit()
            container.close()
            file.commit()
            file.close()
        except (av.FFmpegError, OSError) as error:
            raise self._give_up(None, error) from None
        except SinkError:
            self._lost = True
            self._end_quietly()
            raise
        self._container = self._pictures = self._file = None

    def abandon(self) -> Path | None:
        """Ends the file of a failed run and marks it as partial; its new path, or None where nothing was written."""
        with contextlib.suppress(SinkError):  # what led here was reported; what reached the file can be played
            self.close()
        return mark_partial(self.path) if self._made and not self._lost else None

    def _open(self, picture: Image, start: float) -> None:
        self._start = start
        suffix = self.path.suffix.lower()
        file = self._file = VideoFile(self.path, boxes=suffix != ".mkv", clock=self._clock)
        self._container = av.open(
            file,
            "w",
            format=VIDEO_SUFFIXES[suffix],
            options=_muxer_options(suffix, endless=self._live or not file.seekable()),
        )
        self._pictures = PictureEncoder(
            self._container, self._encoder, self._settings, picture=picture, frame_rate=self._rate
        )
        self._container.start_encoding()
        self._made = True

    def _give_up(self, picture: Image | None, error: Exception) -> SinkError:
        size = self._pictures.size if self._pictures is not None else (picture.shape[:2] if picture is not None else ())
        what = f"the video ({size[1]}x{size[0]})" if size else "the video"
        if self._file is None:  # it could not be made
            self._closed = True
            return SinkError(f"{self.path}: {what} can't be written: {getattr(error, 'strerror', None) or error}")
        failure = self._file.failure(what, error)
        self._file.take_back()
        self._end_quietly()
        return failure

    def _end_quietly(self) -> None:
        """Lets go of a file that failed, without adding to it."""
        self._closed = True
        container, file = self._container, self._file
        self._container = self._pictures = self._file = None
        if file is not None:
            file.take_back()
        if container is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                container.close()
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


def _muxer_options(suffix: str, *, endless: bool) -> dict[str, str]:
    options = {"flush_packets": "1"}  # or the last 256 KiB would wait in memory
    if suffix == ".mkv":
        # A cluster is written when the next begins: one a frame.
        return options | {"cluster_time_limit": "1"} | ({"live": "1"} if endless else {})
    plain = "empty_moov+default_base_moof"
    if endless:
        return options | {"movflags": f"{plain}+skip_trailer", "frag_duration": str(_LIVE_FRAGMENT)}
    # Hybrid: fragments while it grows, an ordinary index with the number of frames once it is closed.
    hybrid = "hybrid_fragmented+" if av.library_versions["libavformat"] >= (61, 7) else ""
    return options | {"movflags": f"{hybrid}frag_every_frame+{plain}"}

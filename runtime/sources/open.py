"""From what the user typed to a source of frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sharpose.errors import SourceError
from sharpose.runtime.frames import Source
from sharpose.runtime.options import Kind, SourceOptions
from sharpose.runtime.sources.base import TrimmedSource
from sharpose.runtime.sources.camera import (
    CameraSource,
    GstreamerSource,
    csi_pipeline,
    is_camera,
    is_csi,
    is_pipeline,
    jetson_pipeline,
    pipeline_of,
)
from sharpose.runtime.sources.decoding import Hardware
from sharpose.runtime.sources.live import LiveSource
from sharpose.runtime.sources.pictures import PictureSource, is_picture
from sharpose.runtime.sources.raw import RawSource
from sharpose.runtime.sources.scene import SceneSource, is_scene
from sharpose.runtime.sources.urls import is_url, kind_of_address, redact_url
from sharpose.runtime.sources.video import VideoSource

__all__ = ["open_source"]

_EXPECTED = (
    "expected a video, a picture, a folder or glob of pictures, a camera's index, a URL, a GStreamer pipeline "
    "(`gst:…`), `-` for raw frames on standard input, or `scene`"
)
# FFmpeg would hand out single tiles of these pictures.
_UNSUPPORTED_PICTURES = frozenset((".heic", ".heif", ".avif"))

_Say = Callable[[str], None]


def open_source(
    spec: str, options: SourceOptions | None = None, *, say: Callable[[str], None] = lambda line: None
) -> Source:
    """Opens a source of frames.

    Cameras, addresses, pipelines and standard input are read by threads of their own: what comes back for them is a
    `LiveSource`, whose `queue` can also be polled.

    Args:
        spec: A video file, a picture file, a folder or glob of pictures, a camera (`0`, `/dev/video0`, on a Jetson
            `csi://0`), an address (`rtsp://…`, `http://…`, `udp://…`), a GStreamer pipeline (`gst:…`), `-` for raw
            frames on standard input, or `scene` with or without settings (`scene:people=3`). `./0` and `./scene` are
            files.
        options: How to read it.
        say: Told in one line, without secrets, when a live source is lost and when it is back, and which hardware
            decodes. It may be called from another thread.

    Raises:
        SourceError: it is none of these, or can't be opened.
        InputError: an option would do nothing for this kind of source.
    """
    options = SourceOptions() if options is None else options
    name = redact_url(spec)
    if is_scene(spec):
        options.check(name, Kind.SCENE)
        return _trimmed(SceneSource(spec), options)
    if spec == "-":
        options.check("-", Kind.STDIN)
        size, rate = options.stdin_size, options.stdin_rate
        return LiveSource("standard input", lambda: _trimmed(RawSource(size, rate), options), options, say=say)
    if is_camera(spec):
        options.check(name, Kind.CAMERA)
        name = spec if spec.startswith("/") else f"camera {spec}"
        return LiveSource(name, lambda: _strided(CameraSource(spec), options), options, say=say)
    if is_pipeline(spec) or is_csi(spec):
        options.check(name, Kind.PIPELINE)
        return _pipeline(name, csi_pipeline(spec) if is_csi(spec) else pipeline_of(spec), options, say)
    if spec.lower().startswith("file://"):
        spec = unquote(urlsplit(spec).path)
    elif is_url(spec):
        return _address(spec, options, say)
    return _file(spec, options, say)


def _address(spec: str, options: SourceOptions, say: _Say) -> Source:
    name, kind = redact_url(spec), kind_of_address(spec)
    if spec.lower().startswith(("http://", "https://")):
        # Whether it is a file is known once it is open, and checked then.
        if options.start is None:
            options.check(name, kind)
    else:
        options.check(name, kind)
    if options.hwaccel == "jetson":
        return _pipeline(name, jetson_pipeline(spec, options.rtsp_transport or "tcp"), options, say)
    hardware = Hardware(options.hwaccel, name, say)
    return LiveSource(name, lambda: VideoSource(spec, options, hardware=hardware), options, say=say)


def _pipeline(name: str, pipeline: str, options: SourceOptions, say: _Say) -> Source:
    return LiveSource(name, lambda: _strided(GstreamerSource(name, pipeline), options), options, say=say)


def _file(spec: str, options: SourceOptions, say: _Say) -> Source:
    if not spec:
        raise SourceError(f"{_EXPECTED}, got an empty name")
    path = Path(spec)
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:
        raise SourceError(f"{spec!r}: {_EXPECTED}, but this name can't be looked up: {error}") from None
    is_glob = not exists and any(character in spec for character in "*?[")
    if is_folder or is_glob or (exists and is_picture(path)):
        options.check(spec, Kind.PICTURES)
        return _strided(PictureSource(spec), options)
    if not exists:
        raise SourceError(f"{spec}: no such file or folder; {_EXPECTED}")
    if path.suffix.lower() in _UNSUPPORTED_PICTURES:
        raise SourceError(f"{spec}: {path.suffix[1:]} pictures can't be read; convert it to JPEG or PNG")
    options.check(spec, Kind.VIDEO)
    if options.hwaccel == "jetson":
        return _trimmed(GstreamerSource(spec, jetson_pipeline(spec, "tcp"), live=False), options)
    return VideoSource(spec, options, hardware=Hardware(options.hwaccel, spec, say))


def _strided(source: Source, options: SourceOptions) -> Source:
    """The source with `stride` alone: of a live one, `LiveSource` sees to the duration."""
    return _trimmed(source, replace(options, start=None, duration=None))


def _trimmed(source: Source, options: SourceOptions) -> Source:
    if options.stride == 1 and not options.start and options.duration is None:
        return source
    return TrimmedSource(source, stride=options.stride, start=options.start or 0.0, duration=options.duration)

"""From what the user typed to a source of frames."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from sharpose.errors import SourceError
from sharpose.runtime.frames import Source
from sharpose.runtime.sources.camera import CameraSource, is_camera
from sharpose.runtime.sources.picture_files import is_picture
from sharpose.runtime.sources.pictures import PictureSource
from sharpose.runtime.sources.scene import SceneSource, is_scene
from sharpose.runtime.sources.urls import is_url
from sharpose.runtime.sources.video import VideoSource

__all__ = ["open_source"]

_EXPECTED = "expected a video, a picture, a folder or glob of pictures, a camera's index, a URL, or `scene`"
# FFmpeg would hand out single tiles of these pictures.
_UNSUPPORTED_PICTURES = frozenset((".heic", ".heif", ".avif"))


def open_source(spec: str) -> Source:
    """Opens a source of frames.

    Args:
        spec: A video file, a picture file, a folder or glob of pictures, a camera (`0`, `/dev/video0`), an address
            (`rtsp://…`, `http://…`), or `scene` with or without settings (`scene:people=3`). `./0` and `./scene` are
            files.

    Raises:
        SourceError: it is none of these, or can't be opened.
    """
    if is_scene(spec):
        return SceneSource(spec)
    if is_camera(spec):
        return CameraSource(spec)
    if spec.lower().startswith("file://"):
        spec = unquote(urlsplit(spec).path)
    elif is_url(spec):
        return VideoSource(spec)
    if not spec:
        raise SourceError(f"{_EXPECTED}, got an empty name")
    path = Path(spec)
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:
        raise SourceError(f"{spec!r}: {_EXPECTED}, but this name can't be looked up: {error}") from None
    if is_folder:
        return PictureSource(spec)
    if exists:
        if path.suffix.lower() in _UNSUPPORTED_PICTURES:
            raise SourceError(f"{spec}: {path.suffix[1:]} pictures can't be read; convert it to JPEG or PNG")
        return PictureSource(spec) if is_picture(path) else VideoSource(spec)
    if any(character in spec for character in "*?["):
        return PictureSource(spec)
    raise SourceError(f"{spec}: no such file or folder; {_EXPECTED}")

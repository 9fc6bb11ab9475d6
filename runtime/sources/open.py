"""From what the user typed to a source of frames: which kind it is, its short name, and the source itself."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sharpose.errors import InputError, SourceError
from sharpose.runtime.frames import Frame, Source, SourceInfo
from sharpose.runtime.options import Kind, SourceOptions, is_scene
from sharpose.runtime.result import Boxes
from sharpose.runtime.sources.camera import (
    CameraSource,
    GstreamerSource,
    camera_name,
    is_camera,
    is_pipeline,
    jetson_pipeline,
    pipeline_of,
)
from sharpose.runtime.sources.decoding import Hardware
from sharpose.runtime.sources.folder import is_glob, is_picture, list_files
from sharpose.runtime.sources.live import LiveSource
from sharpose.runtime.sources.pictures import PictureSource
from sharpose.runtime.sources.raw import RawSource
from sharpose.runtime.sources.timing import TIME_SLACK
from sharpose.runtime.sources.urls import RTSP, is_url, lower_scheme, redact_url, redact_urls, scheme_of
from sharpose.runtime.sources.video import VideoSource

_EXPECTED = (
    "expected a video, a picture, a folder or glob of them, a camera's index, a URL, a GStreamer pipeline (`gst:…`), "
    "`-` for raw frames on standard input, or `scene`"
)
# FFmpeg would hand out single tiles of these pictures.
_UNSUPPORTED_PICTURES = frozenset((".heic", ".heif", ".avif"))


def is_video_file(spec: str) -> bool:
    """Whether `spec` is a video file that is there."""
    try:
        return _kind_of(spec) is Kind.VIDEO
    except SourceError:
        return False


def sources_in(spec: str, say: Callable[[str], None] = lambda line: None) -> list[str]:
    """The sources that one SOURCE stands for: of a folder or glob its pictures, as one, and each of its videos.

    Args:
        spec: As for `open_source`, which refuses what is none of it; here that is one source.
        say: Called with a line about what is left out, unless the pictures' source counts it in its warnings.
    """
    try:
        if _kind_of(spec) is not Kind.PICTURES:
            return [spec]
        listing = list_files(local_path(spec))
    except SourceError:
        return [spec]
    if not listing.pictures and listing.left_out:
        say(f"{spec}: left out {listing.left_out}")
    return [spec] * bool(listing.pictures) + [str(video) for video in listing.videos]


def open_source(
    spec: str,
    options: SourceOptions | None = None,
    *,
    say: Callable[[str], None] = lambda line: None,
    beside_videos: bool = False,
) -> Source:
    """Opens a source of frames.

    Cameras, addresses, pipelines and standard input are read by threads of their own: what comes back for them is a
    `LiveSource`, whose queue can also be polled.

    Args:
        spec: A video file, a picture file, a folder or glob with pictures, a camera (`0`, `/dev/video0`, on a Jetson
            `csi://0`), an address (`rtsp://…`, `http://…`, `udp://…`), a GStreamer pipeline (`gst:…`), `-` for raw
            frames on standard input, or `scene` with or without settings (`scene:people=3`). `./0` and `./scene` are
            files.
        options: How to read it.
        say: Called with one line, without secrets, when a live source is lost and when it is back, and to name the
            hardware that decodes; possibly from another thread.
        beside_videos: Whether videos in a folder of pictures are sources of their own, as `sources_in` has them; else
            a warning counts them.

    Raises:
        SourceError: it is none of these, or can't be opened.
        InputError: an option would do nothing for this kind of source.
    """
    options = SourceOptions() if options is None else options
    kind = _kind_of(spec)
    if kind in (Kind.VIDEO, Kind.PICTURES):
        spec = name = local_path(spec)
    else:
        spec = lower_scheme(spec) if is_url(spec) else spec
        name = redact_url(spec)
    options.check(name, kind, *([Kind.REMOTE_FILE] if kind is Kind.STREAM and _is_http(spec) else []))
    jetson = options.hwaccel == "jetson"

    if kind is Kind.SCENE:
        return _trimmed(SceneSource(spec), options)
    if kind is Kind.PICTURES:
        return _trimmed(PictureSource(spec, strict=options.strict, beside_videos=beside_videos), options)
    if kind is Kind.VIDEO and jetson:
        return _trimmed(GstreamerSource(name, jetson_pipeline(spec, "tcp"), live=False), options)
    if kind is Kind.VIDEO:
        return VideoSource(spec, options, hardware=Hardware(options.hwaccel, name, say))

    read: Callable[[], Source]
    if kind is Kind.STDIN:
        name, read = "standard input", partial(RawSource, options.stdin_size, options.stdin_rate)
    elif kind is Kind.CAMERA:
        name, read = camera_name(spec), partial(CameraSource, spec)
    elif kind is Kind.PIPELINE:
        read = partial(GstreamerSource, name, pipeline_of(spec))
    elif jetson:
        read = partial(GstreamerSource, name, jetson_pipeline(spec, options.rtsp_transport or "tcp"))
    else:
        hardware = Hardware(options.hwaccel, name, say)
        return LiveSource(name, partial(_open_address, spec, options, hardware), options, say=say)
    return LiveSource(name, lambda: _trimmed(read(), options), options, say=say)


def _kind_of(spec: str) -> Kind:
    """Which kind of source `spec` names. An `http(s)://` stream may turn out to be a file once it is open."""
    if is_scene(spec):
        return Kind.SCENE
    if spec == "-":
        return Kind.STDIN
    if is_camera(spec):
        return Kind.CAMERA
    if is_pipeline(spec):
        return Kind.PIPELINE
    if is_url(spec) and scheme_of(spec) != "file":
        return Kind.RTSP if scheme_of(spec) in RTSP else Kind.STREAM

    spec = local_path(spec)
    if not spec:
        raise SourceError(f"{_EXPECTED}, got an empty name")
    path = Path(spec)
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{redact_url(spec)!r}: {_EXPECTED}, but this name can't be looked up: {why}") from None
    if is_folder or is_glob(spec) or (exists and is_picture(path)):
        return Kind.PICTURES
    if not exists:
        found = "a link to nothing" if path.is_symlink() else "no such file or folder"
        raise SourceError(f"{redact_url(spec)}: {found}; {_EXPECTED}")
    if path.suffix.lower() in _UNSUPPORTED_PICTURES:
        raise SourceError(f"{spec}: {path.suffix[1:]} pictures can't be read; convert it to JPEG or PNG")
    return Kind.VIDEO


def local_path(spec: str) -> str:
    """The path in a `file://` address; anything else as it is."""
    return url2pathname(urlsplit(spec).path) if spec.lower().startswith("file://") else spec


def _is_http(spec: str) -> bool:
    return scheme_of(spec) in ("http", "https")


def _open_address(spec: str, options: SourceOptions, hardware: Hardware) -> Source:
    source = VideoSource(spec, options, hardware=hardware)
    try:
        if _is_http(spec):
            options.check(source.info.name, Kind.STREAM if source.info.live else Kind.REMOTE_FILE)
    except InputError:
        source.close()
        raise
    return source


def _trimmed(source: Source, options: SourceOptions) -> Source:
    duration = None if source.info.live else options.duration  # of a live one, `LiveSource` sees to it
    if options.stride == 1 and not options.start and duration is None:
        return source
    return TrimmedSource(source, stride=options.stride, start=options.start or 0.0, duration=duration)


class TrimmedSource:
    """Another source's frames from `start` on, for `duration` seconds, and every `stride`-th of them.

    Frames keep their index and time.

    Args:
        source: Where they come from; closed with this one.
        stride: Hand out every `stride`-th frame.
        start: Seconds to skip.
        duration: Seconds to read; all if None.
    """

    def __init__(self, source: Source, *, stride: int = 1, start: float = 0.0, duration: float | None = None) -> None:
        self._source = source
        self._stride = stride
        count, rate = source.info.frame_count, source.info.frame_rate
        slack = TIME_SLACK if rate is None else min(TIME_SLACK, 0.5 / rate)
        self._from = start - slack
        self._until = None if duration is None else start + duration - slack
        whole = start == 0.0 and duration is None and count is not None
        self.info = replace(  # image_ids stay those of all frames: a boxes file may have the skipped ones too
            source.info,
            frame_count=-(-(count or 0) // stride) if whole else None,
            frame_rate=None if rate is None else rate / stride,
        )

    def __iter__(self) -> Iterator[Frame]:
        """The frames. Raises what the source raises."""
        wanted = 0
        for frame in self._source:
            self.info.progress += 1
            if frame.time < self._from:
                continue
            if self._until is not None and frame.time >= self._until:
                return
            if wanted % self._stride == 0:
                yield frame
            wanted += 1

    def close(self) -> None:
        """Closes the source."""
        self._source.close()


class SceneSource:
    """The drawn scene: frames with the true boxes of the people in them.

    Args:
        spec: `scene`, or `scene:seed=0,people=5,frames=150,size=720x1280,fps=25`.

    Raises:
        SharposeError: what follows `scene:` is not understood.
    """

    def __init__(self, spec: str) -> None:
        from sharpose.scene import Scene, parse_scene  # drawing code, needed by nobody who brings a video

        config = parse_scene(spec)
        self._scene = Scene(config)
        self.info = SourceInfo(spec, config.frames, float(config.fps), range(config.frames))

    def __iter__(self) -> Iterator[Frame]:
        """The frames, `boxes` set."""
        for drawn in self._scene:
            boxes = Boxes.from_xyxy(drawn.boxes_xyxy)
            yield Frame(drawn.image, drawn.index, drawn.time, drawn.index, boxes)

    def close(self) -> None:
        """Nothing is open."""


_LONGEST_NAME, _LONGEST_IN_BYTES = 80, 160  # which leaves room for a folder's numbers and endings


def source_names(specs: Sequence[str]) -> list[str]:
    """A short name for each source, for file names: letters of any script, digits, `. _ -`; no password; no two
    alike in any case.

    `walk.mp4` is `walk`, camera `0` is `camera0`, `rtsp://user:secret@cam1:554/live` is `cam1_554_live`. A name that
    is taken gets `-2`, `-3`, … behind it.
    """
    names: list[str] = []
    taken: set[str] = set()
    for spec in specs:
        base = name = _short_name(spec)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _short_name(spec: str) -> str:
    if spec.isdigit():
        text = f"camera{spec}"
    elif spec.lower().startswith("file://"):
        text = PurePath(spec[len("file://") :]).stem
    elif is_url(spec):
        text = redact_url(spec).split("://", 1)[1].rpartition("@")[2]
        text = re.split(r"[?#]", text, maxsplit=1)[0]  # a query holds secrets more often than names
        text = re.sub(r"[^/;&]*=\*\*\*", "", text)
    elif is_scene(spec):
        text = spec
    else:
        path = PurePath(redact_urls(spec))
        named = next((part for part in (path, *path.parents) if re.search(r"[^\W_]", part.name)), path)
        text = named.stem  # of `holiday/*`, `holiday`
    text = unicodedata.normalize("NFC", text)
    # A vowel's sign of Devanagari or Thai is a mark, which is no letter, but part of the word.
    kept = "".join(one if re.match(r"[\w.-]", one) or unicodedata.category(one)[0] == "M" else "\0" for one in text)
    name = re.sub("\0+", "_", kept).strip("._-")[:_LONGEST_NAME]
    return name.encode()[:_LONGEST_IN_BYTES].decode(errors="ignore") or "source"

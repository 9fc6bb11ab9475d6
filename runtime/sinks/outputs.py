"""The outputs that the user asked for, and the sinks that write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sharpose.errors import InputError
from sharpose.runtime.frames import Sink
from sharpose.runtime.options import VideoSettings
from sharpose.runtime.sinks.coco import CocoSink
from sharpose.runtime.sinks.folders import OpenPoseSink, PicturesSink
from sharpose.runtime.sinks.restream import RESTREAM_SCHEMES, RestreamSink
from sharpose.runtime.sinks.tables import CsvSink, JsonLinesSink, MotSink
from sharpose.runtime.sinks.video import VIDEO_SUFFIXES, VideoSink
from sharpose.runtime.sources.urls import is_url, redact_url
from sharpose.skeleton import Skeleton

__all__ = ["Output", "SinkSettings", "fill", "make_sink", "outputs_of_streams"]

_PLACEHOLDER = "{source}"


def fill(target: str, name: str) -> str:
    """`target` with `{source}` replaced by `name`."""
    return target.replace(_PLACEHOLDER, name)


@dataclass(frozen=True)
class Output:
    """One output that the user asked for.

    Attributes:
        option: The option it came with, such as `--json`.
        target: A file, a folder or, for `--output`, a stream's address; `{source}` stands for the source's name.
    """

    option: str
    target: str

    @property
    def path(self) -> Path | None:
        """The file or folder that is written; None for an address."""
        return None if self.option == "--output" and is_url(self.target) else Path(self.target)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder with one file per frame."""
        return self.option in _FOLDERS

    @property
    def name(self) -> str:
        """The target without a password."""
        return self.target if self.path is not None else redact_url(self.target)


@dataclass(frozen=True)
class SinkSettings:
    """What sinks know of the records that they will get, and how to write them.

    Attributes:
        name: The source's, for file names, from `source_names`.
        skeleton: Of the poses.
        frame_rate: Nominal frames per second, or None.
        live: Whether the source has no end.
        tracked: Whether people have ids.
        video: How videos are encoded.
        picture_kind: What `--frames` writes: `jpg` or `png`.
        say: Called with one line for the user while the run goes on, possibly from another thread.
    """

    name: str
    skeleton: Skeleton
    frame_rate: float | None = None
    live: bool = False
    tracked: bool = False
    video: VideoSettings = field(default_factory=VideoSettings)
    picture_kind: str = "jpg"
    say: Callable[[str], None] = lambda line: None


def outputs_of_streams(outputs: Sequence[Output], names: Sequence[str]) -> list[list[Output]]:
    """The outputs of each source, `{source}` filled in.

    Args:
        outputs: As the user gave them.
        names: Of the sources, from `source_names`.

    Raises:
        InputError: several sources would write into one output, or two outputs are the same.
    """
    if len(names) > 1:
        for output in outputs:
            if _PLACEHOLDER not in output.target:
                raise InputError(
                    f"{output.option} {output.name}: {len(names)} sources can't share one output; put {_PLACEHOLDER} "
                    "into its name, which stands for the source's"
                )
    filled = [[replace(output, target=fill(output.target, name)) for output in outputs] for name in names]
    taken: dict[str, Output] = {}
    for output in (output for of_one in filled for output in of_one):
        where = output.target if output.path is None else str(output.path.resolve())
        # Devices such as /dev/null take any number.
        if where in taken and not (output.path is not None and output.path.is_char_device()):
            raise InputError(
                f"{output.option} {output.name} and {taken[where].option} {taken[where].name} are the same; "
                "give each its own"
            )
        taken[where] = output
    return filled


def make_sink(output: Output, settings: SinkSettings) -> Sink:
    """The sink of one output, its `{source}` filled in; nothing is created on the disk before its first record.

    Raises:
        InputError: no sink writes to such a target, or it can't for this stream.
        SinkError: what it needs is not installed.
    """
    if output.option not in _MAKERS:
        raise InputError(f"expected one of {' '.join(_MAKERS)}, got {output.option}")
    return _MAKERS[output.option](output.target, settings)


def _video_sink(target: str, settings: SinkSettings) -> Sink:
    if is_url(target):
        return RestreamSink(target, settings=settings.video, frame_rate=settings.frame_rate, say=settings.say)
    if Path(target).suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(
            f"--output {target}: expected a video's name ending in {' '.join(VIDEO_SUFFIXES)}, or an address that "
            f"begins with {' '.join(f'{scheme}://' for scheme in RESTREAM_SCHEMES)}"
        )
    return VideoSink(target, frame_rate=settings.frame_rate, settings=settings.video, live=settings.live)


# A new format is a class that implements `Sink`, a line here, and an option in `runtime/cli.py`.
_MAKERS: dict[str, Callable[[str, SinkSettings], Sink]] = {
    "--output": _video_sink,
    "--json": lambda target, settings: JsonLinesSink(target),
    "--coco": lambda target, settings: CocoSink(target),
    "--csv": lambda target, settings: CsvSink(target, skeleton=settings.skeleton),
    "--openpose": lambda target, settings: OpenPoseSink(target, stem=settings.name, skeleton=settings.skeleton),
    "--mot": lambda target, settings: MotSink(target, tracked=settings.tracked),
    "--frames": lambda target, settings: PicturesSink(target, stem=settings.name, kind=settings.picture_kind),
}
_FOLDERS = frozenset(("--openpose", "--frames"))  # the options whose target is a folder

"""The outputs that the user asked for, and the sinks that write them."""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sharpose.angles import angles_of
from sharpose.bundle import shipped_bundle
from sharpose.cli import CLOSED
from sharpose.errors import InputError
from sharpose.file_locks import check_not_held
from sharpose.files import STDOUT
from sharpose.runtime.biomechanics.facing import note_of_facing
from sharpose.runtime.biomechanics.options import BiomechanicsOptions, is_people_folder
from sharpose.runtime.biomechanics.sinks import MotionSettings, MotionSink, ProcessedAnglesSink, TrcSink
from sharpose.runtime.detectors.catalogue import is_file_name
from sharpose.runtime.frames import Sink
from sharpose.runtime.options import RunOptions, VideoSettings
from sharpose.runtime.sinks.coco import CocoSink
from sharpose.runtime.sinks.folders import FolderSettings, OpenPoseSink, PicturesSink
from sharpose.runtime.sinks.restream import RESTREAM_SCHEMES, RestreamSink
from sharpose.runtime.sinks.tables import AnglesSink, CsvSink, JsonLinesSink, MotSink
from sharpose.runtime.sinks.video import VIDEO_SUFFIXES, VideoSink
from sharpose.runtime.sources.folder import is_picture
from sharpose.runtime.sources.open import local_path
from sharpose.runtime.sources.urls import is_url, redact_url
from sharpose.skeleton import Skeleton

_PLACEHOLDER = "{source}"
FOLDER = "{folder}"
"""In an archive's names: the folder of the video."""
_WORD_IN_BRACES = re.compile(r"\{\s*\w*\s*(?:[:!][^{}]*)?\}")
_LONGEST_STEM = 200  # bytes of a picture's name that a result's name begins with


def fill(option: str, target: str, name: str, folder: str | None = None) -> str:
    """The `target` of an option with `{source}` replaced by `name`, and `{folder}` by `folder` where that is given.

    Raises:
        InputError: it has another word in braces.
    """
    known = (_PLACEHOLDER,) if folder is None else (_PLACEHOLDER, FOLDER)
    unknown = next((word for word in _WORD_IN_BRACES.findall(target) if word not in known), None)
    if unknown is not None:
        also = "" if folder is None else f", and {FOLDER}, for its folder"
        raise InputError(
            f"{option} {redact_url(target)}: {unknown}: expected no word in braces but {_PLACEHOLDER}, which stands "
            f"for the source's name{also}"
        )
    filled = target.replace(_PLACEHOLDER, name)
    return filled if folder is None else filled.replace(FOLDER, folder)  # last: a folder's name may have braces


@dataclass(frozen=True)
class Output:
    """One output that the user asked for.

    Attributes:
        option: The option it came with, such as `--json`.
        target: A file, a folder, `-` for standard output or, for `--output`, a stream's address; `{source}` stands for
            the source's name.
    """

    option: str
    target: str

    @property
    def path(self) -> Path | None:
        """The file or folder that is written; None for an address and for standard output."""
        return None if self.to_stdout or (self.option == "--output" and is_url(self.target)) else Path(self.target)

    @property
    def to_stdout(self) -> bool:
        """Whether it is `-`, standard output (`./-` is a file)."""
        return self.target == STDOUT

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, with a file per frame or per person."""
        return self.option in _FOLDERS or is_people_folder(self.option, self.target)

    @property
    def name(self) -> str:
        """The target without a password."""
        return self.target if self.path is not None else redact_url(self.target)

    @property
    def identity(self) -> Identity:
        """What it is, whatever its name; see `identity_of`."""
        return (self.target,) if self.path is None else identity_of(self.path)


@dataclass(frozen=True)
class SinkSettings:
    """What sinks know of the records that they will get, and how to write them.

    Attributes:
        name: The source's, for file names, from `source_names`.
        skeleton: Of the poses.
        frame_rate: Nominal frames per second, or None.
        live: Whether the source has no end.
        timed: False for pictures that have no times.
        tracked: Whether people have ids.
        keypoint_threshold: Lowest score of a keypoint that `--angles` and `--trc` are made of.
        video: How videos are encoded.
        biomechanics: What is done with keypoints before `--angles` and `--trc`.
        picture_kind: What `--frames` writes: `jpg` or `png`.
        pictures: The picture files by frame, where the source is one of pictures; see `SourceInfo.pictures`.
        sound: Where the sound of videos comes from; see `SourceInfo.sound`.
        overwrite: Whether the files of an earlier run in a folder are replaced.
        say: Called with a line about what was lost while the run goes on, possibly from another thread.
        note: Called with a line that is worth knowing.
    """

    name: str
    skeleton: Skeleton
    frame_rate: float | None = None
    live: bool = False
    timed: bool = True
    tracked: bool = False
    keypoint_threshold: float = 0.3
    video: VideoSettings = field(default_factory=VideoSettings)
    biomechanics: BiomechanicsOptions = field(default_factory=BiomechanicsOptions)
    picture_kind: str = "jpg"
    pictures: Collection[Path] | None = None
    sound: str | None = None
    overwrite: bool = False
    say: Callable[[str], None] = lambda line: None
    note: Callable[[str], None] = lambda line: None

    @property
    def folder(self) -> FolderSettings:
        """How the files in folders are named."""
        names = None if self.pictures is None else picture_stems(self.pictures)
        return FolderSettings(self.name, names, overwrite=self.overwrite, note=self.note)

    @property
    def motion(self) -> MotionSettings:
        """What sinks of whole trajectories know."""
        return MotionSettings(
            self.skeleton,
            self.biomechanics,
            self.keypoint_threshold,
            tracked=self.tracked,
            frame_rate=self.frame_rate,
            live=self.live,
            timed=self.timed,
            folder=self.folder,
            say=self.say,
            note=self.note,
        )


def outputs_of_streams(
    outputs: Sequence[Output], names: Sequence[str], folders: Sequence[str] | None = None
) -> list[list[Output]]:
    """The outputs of each source, `{source}` filled in.

    Args:
        outputs: As the user gave them.
        names: Of the sources, from `source_names`.
        folders: Of the sources, for `{folder}`; None where there is no such word.

    Raises:
        InputError: several sources would write into one output, two outputs are the same, or one can't go to standard
            output, or that is closed.
    """
    for output in outputs:
        if output.to_stdout and output.option not in _TO_STDOUT:
            raise InputError(
                f"{output.option} -: standard output takes {' '.join(sorted(_TO_STDOUT))} only; give a file's name "
                "(./- for one that is called so)"
            )
        if (descriptor := _descriptor_of(output)) in CLOSED:
            raise InputError(f"{output.option} {output.target}: {_DESCRIPTORS[descriptor]} is closed")
    if len(names) > 1:
        for output in outputs:
            if _PLACEHOLDER not in output.target:
                raise InputError(
                    f"{output.option} {output.name}: {len(names)} sources can't share one output; put {_PLACEHOLDER} "
                    "into its name, which stands for the source's"
                )
    filled = [
        [replace(output, target=fill(output.option, output.target, name, folder)) for output in outputs]
        for name, folder in zip(names, folders or itertools.repeat(None, len(names)), strict=True)
    ]
    taken: dict[Identity, Output] = {}
    for output in (output for of_one in filled for output in of_one):
        where = output.identity
        # Devices such as /dev/null take any number.
        if where in taken and not (output.path is not None and output.path.is_char_device()):
            raise InputError(
                f"{output.option} {output.name} and {taken[where].option} {taken[where].name} are the same; "
                "give each its own"
            )
        taken[where] = output
    return filled


def check_files(
    options: RunOptions,
    names: Sequence[str],
    outputs: Sequence[Output],
    video_folders: Collection[Path],
    boxes: Collection[str] = (),
) -> None:
    """Refuse addresses where files are expected, and outputs that can't be written or would overwrite what is read.

    Args:
        options: Of the run.
        names: Of its sources.
        outputs: Of all of them.
        video_folders: See `check_outputs`.
        boxes: The files of boxes, where they don't follow from the names.

    Raises:
        InputError: something has to be refused.
        OutputTakenError: another run is writing an output.
    """
    _refuse_addresses(options)
    check_outputs(
        outputs,
        _files_read(options, names, boxes),
        bundle=shipped_bundle() if options.bundle is None else options.bundle,
        overwrite=options.overwrite,
        video_folders=video_folders,
    )


def _refuse_addresses(options: RunOptions) -> None:
    files_of = {
        "--bundle": options.bundle,
        "--boxes": options.boxes,
        "--detector": options.detector,
        "--detector-table": options.detector_table,
        "--engine-cache": options.engine_cache,
    }
    given = [*files_of.items(), *((option, target) for option, target in options.outputs if option != "--output")]
    for option, file in given:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(file)):  # a `Path` has lost the second slash
            raise InputError(f"{option}: expected a path on this machine, got an address")


def _files_read(options: RunOptions, names: Sequence[str], boxes: Collection[str]) -> Iterator[tuple[Path, str]]:
    """Files and folders that the run reads, and what to call them."""
    for source in options.sources:
        path = Path("/dev/stdin" if source == "-" else local_path(source))
        yield path, "the source"
        if any(character in source for character in "*?["):
            yield from ((Path(found), "the source") for found in glob.glob(str(path), recursive=True))  # noqa: PTH207
    yield shipped_bundle() if options.bundle is None else options.bundle, "the bundle"
    if options.boxes is not None:
        files = set(boxes) or {fill("--boxes", options.boxes, name) for name in names}
    else:
        files = {options.detector} if options.detector is not None and is_file_name(options.detector) else set()
    for name in files:
        yield Path(name), f"the input {name}"
    if options.detector_table is not None:
        yield options.detector_table, f"the input {options.detector_table}"


def check_outputs(
    outputs: Sequence[Output],
    inputs: Iterable[tuple[Path, str]],
    *,
    bundle: Path,
    overwrite: bool,
    video_folders: Iterable[Path] = (),
) -> None:
    """Refuse outputs that would overwrite what is read, or, without `overwrite`, a file that exists.

    Files are compared by what they are, not by name: hard links, bind mounts and /proc/self/fd lead to the same one.

    Args:
        outputs: Of all streams.
        inputs: Files and folders of files, and what to call them (`the source`).
        bundle: The bundle's folder.
        overwrite: Whether files that exist may be replaced.
        video_folders: Folders whose videos are read: another run would take a video that is written there for one.

    Raises:
        InputError: one has to be refused.
        OutputTakenError: another run is writing one.
    """
    some_exist = False
    for output in outputs:
        try:
            some_exist |= output.path is None or output.path.exists()
            # Finds names that are too long in folders that don't exist yet, too, where exists() looks nothing up.
            for part in () if output.path is None else output.path.parts:
                with contextlib.suppress(FileNotFoundError):
                    os.lstat(part)
        except OSError as error:
            raise InputError(
                f"output {output.name}: expected a path that can be written to: {error.strerror}"
            ) from None
    read: dict[Identity, str] = {}
    of_pictures: set[Identity] = set()
    for path, name in inputs:
        read.setdefault(identity_of(path), name)
        if is_picture(path):
            of_pictures.add(identity_of(path.parent))
        with contextlib.suppress(OSError, ValueError):
            for file in path.iterdir() if some_exist and path.is_dir() else ():
                read.setdefault(identity_of(file), name)
    of_videos = {identity_of(folder) for folder in video_folders}
    # Thousands of outputs share few folders.
    of_bundle, of_folder, in_the_way = identity_of(bundle), functools.cache(identity_of), functools.cache(_file_among)
    for output in outputs:
        target = output.path
        found = read.get(_stdout_identity() if output.to_stdout else output.identity)
        if found is not None:
            raise InputError(f"output {output.name} would overwrite {found}; give another name")
        if target is None:
            continue
        for index, part in enumerate(target.parts):  # `new/../old` would stand for `old` once `new` was made
            if part == ".." and not Path(*target.parts[:index]).exists():
                raise InputError(f"output {target}: there is no folder {Path(*target.parts[:index])}; leave out the ..")
        if of_folder((target.resolve() if target.is_symlink() else target).parent) == of_bundle:
            raise InputError(f"output {target} lies in the bundle's folder; give another one")
        if output.option == "--frames" and output.identity in of_pictures:
            raise InputError(f"output {target} is the folder of the source's pictures; give another one")
        if output.option == "--output" and of_folder(target.parent) in of_videos:
            raise InputError(
                f"output {target} lies among the source's videos, where another run would take it for one; give "
                "another folder"
            )
        if target.is_dir() and not output.is_folder:
            raise InputError(f"output {target} is a folder; expected a file name")
        if (in_between := in_the_way(target.parent)) is not None:
            what = "the file" if in_between.exists() else "the broken link"
            raise InputError(f"output {target}: expected a folder, found {what} {in_between}; give another name")
        if not _is_descriptor(target):
            check_not_held(target)
        if target.is_file() and not (overwrite or output.is_folder or _is_descriptor(target)):
            raise InputError(f"output {target} already exists; give another name, or --overwrite to replace it")


def _file_among(folder: Path) -> Path | None:
    """Which of a folder and those that it lies in is no folder, if one isn't; those to come don't count."""
    there = next((one for one in (folder, *folder.parents) if os.path.lexists(one)), folder)
    return there if os.path.lexists(there) and not there.is_dir() else None


Identity = tuple[object, ...]


def identity_of(path: Path) -> Identity:
    """The same for two paths exactly where they lead to the same file or folder, which needn't exist."""
    with contextlib.suppress(OSError, ValueError):
        return _identity(path.stat())
    missing: list[str] = []
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # a name that can't be looked up stands for itself
        where = path.resolve()
        while not where.exists() and where != where.parent:
            missing.append(where.name)
            where = where.parent
        return *_identity(where.stat()), *missing
    return (str(path),)


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _stdout_identity() -> Identity:
    """Of the file that a shell sends standard output to."""
    try:
        status = os.fstat(1)
    except OSError:  # it is closed
        return ()
    return _identity(status) if stat.S_ISREG(status.st_mode) else ()


_DESCRIPTORS = {0: "standard input", 1: "standard output", 2: "standard error"}


def _descriptor_of(output: Output) -> int | None:
    """Which of the process's descriptors 0, 1 and 2 it names, if any."""
    if output.path is None:
        return 1 if output.to_stdout else None
    where = output.path.absolute()
    names = {f"/dev/{name}": number for number, name in enumerate(("stdin", "stdout", "stderr"))}
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        if where.parent.resolve() == Path("/proc/self/fd").resolve():
            names |= {str(where.parent / str(number)): number for number in _DESCRIPTORS}
    return names.get(str(where))


def _is_descriptor(path: Path) -> bool:
    """Whether it names one of the process's open files, such as /dev/stdout, which a shell may have made just now."""
    parts = path.absolute().parts
    return parts[:2] == ("/", "proc") or (parts[:2] == ("/", "dev") and parts[2:3] != ("shm",))


def picture_stems(pictures: Collection[Path]) -> list[str] | None:
    """Names for the files of picture files by frame; None where they don't tell the pictures apart."""
    stems = [path.stem for path in pictures]
    alike = len({stem.casefold() for stem in stems}) < len(stems)
    several_in_a_file = len({path.parent for path in pictures} & set(pictures)) > 0
    too_long = any(len(os.fsencode(stem)) > _LONGEST_STEM for stem in stems)
    return None if alike or several_in_a_file or too_long else stems


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
    return VideoSink(
        target,
        frame_rate=settings.frame_rate,
        settings=settings.video,
        live=settings.live,
        sound=settings.sound,
        say=settings.say,
    )


def _angles_sink(target: str, settings: SinkSettings) -> Sink:
    ending = Path(target).suffix.lower()
    if ending not in ("", ".csv", ".mot"):
        raise InputError(
            f"--angles {target}: expected a name ending in .csv or .mot, a folder, whose name has no ending, or - for "
            "CSV on standard output"
        )
    if not angles_of(settings.skeleton):
        raise InputError(
            f"--angles {target}: expected a skeleton with the points of an angle, such as left_hip, left_knee and "
            f"left_ankle; {settings.skeleton.name} has those of none; leave out --angles"
        )
    assumed = note_of_facing(settings.skeleton, settings.biomechanics.facing)
    if assumed is not None:
        settings.note(assumed)
    if ending == ".mot":
        return MotionSink(target, settings.motion)
    if is_people_folder("--angles", target):
        return MotionSink(target, settings.motion, ending=".mot")
    if settings.biomechanics.looks_ahead is not None:
        return ProcessedAnglesSink(target, settings.motion)
    return AnglesSink(
        target,
        skeleton=settings.skeleton,
        keypoint_threshold=settings.keypoint_threshold,
        facing=settings.biomechanics.facing,
        say=settings.say,
    )


def _trc_sink(target: str, settings: SinkSettings) -> Sink:
    if is_people_folder("--trc", target):
        return TrcSink(target, settings.motion, ending=".trc")
    if Path(target).suffix.lower() != ".trc":
        raise InputError(f"--trc {target}: expected a name ending in .trc, or a folder, whose name has no ending")
    return TrcSink(target, settings.motion)


# A new format is a class that implements `Sink`, a line here, and an option in `runtime/cli.py`.
_MAKERS: dict[str, Callable[[str, SinkSettings], Sink]] = {
    "--output": _video_sink,
    "--json": lambda target, settings: JsonLinesSink(target),
    "--coco": lambda target, settings: CocoSink(target),
    "--csv": lambda target, settings: CsvSink(target, skeleton=settings.skeleton),
    "--angles": _angles_sink,
    "--openpose": lambda target, settings: OpenPoseSink(target, settings.folder, skeleton=settings.skeleton),
    "--mot": lambda target, settings: MotSink(target, tracked=settings.tracked),
    "--trc": _trc_sink,
    "--frames": lambda target, settings: PicturesSink(target, settings.folder, kind=settings.picture_kind),
}
OUTPUT_OPTIONS = tuple(_MAKERS)
"""The options that name outputs."""
_TO_STDOUT = frozenset(("--json", "--csv", "--angles", "--mot"))
_FOLDERS = frozenset(("--openpose", "--frames"))  # the options whose target is a folder

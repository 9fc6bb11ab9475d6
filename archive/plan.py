"""What an archive consists of: its videos in a fixed order, the names of their results, and a shard's part of them."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import click

from sharpose.archive.options import Shard
from sharpose.errors import InputError, SharposeError, SourceError, counted, one_line
from sharpose.files import UNFINISHED, found_at, partial_name
from sharpose.runtime.options import RunOptions
from sharpose.runtime.sinks.outputs import FOLDER, Output, check_files, fill, identity_of, outputs_of_streams
from sharpose.runtime.sources.folder import is_glob, is_picture, is_video, list_files
from sharpose.runtime.sources.open import is_video_file, local_path, source_names
from sharpose.runtime.sources.urls import is_url, redact_url

_EXPECTED = "expected a video, a folder or glob of videos, or @FILE, a list of those"
_EXPECTED_IN_LIST = "expected a video, or a folder or glob of videos"


@dataclass(frozen=True)
class Video:
    """A video and its results.

    Attributes:
        path: Of the video; no other of the archive has it.
        name: Which `{source}` stands for.
        outputs: Where its results go.
        boxes: The file of its people's boxes, if there are such files.
    """

    path: str
    name: str
    outputs: tuple[Output, ...]
    boxes: str | None = None

    @property
    def missing(self) -> tuple[Output, ...]:
        """The outputs that aren't there. An empty folder is none: somebody may have made it beforehand."""
        return tuple(output for output in self.outputs if not _is_there(output))


def _is_there(output: Output) -> bool:
    path = Path(output.target)
    return path.exists() and not (output.is_folder and path.is_dir() and not any(path.iterdir()))


@dataclass(frozen=True)
class Plan:
    """What one run has to do: `videos`, those of its shard, out of `total`."""

    videos: tuple[Video, ...]
    total: int


def make_plan(options: RunOptions, shard: Shard, say: Callable[[str], None], report: Path | None = None) -> Plan:
    """Find the videos and name their results. The whole archive is checked, whatever the shard.

    Videos are in the order of their names, so that all shards agree, also where paths differ between machines.

    Args:
        options: `sources` and `outputs` as on the command line.
        shard: Which part: every `count`-th video, from number `index` on.
        say: Called with a line about what is left out.
        report: The file of `--report`, if one is wanted.

    Raises:
        SharposeError: a source is no video, there are none, two videos would have one result, an output can't be
            written, or the report would overwrite what is read or another result.
        click.UsageError: there is no output, or several videos would share a file of boxes.
    """
    if not options.outputs:
        raise click.UsageError("expected an output such as --json 'out/{source}.jsonl', got none")
    paths = _unique(path for spec in options.sources for path in _expand(spec, say))
    if not paths:
        raise InputError(f"{', '.join(options.sources)}: {_EXPECTED}, found a list without one")
    named = sorted((source_names([path])[0], path) for path in paths)
    names, folders = [name for name, _ in named], [_folder_of(path) for _, path in named]
    outputs = [Output(option, target) for option, target in options.outputs]
    _check_targets(outputs)
    _check_names(named, options)
    of_videos = outputs_of_streams(outputs, names, folders)
    results = [output for of_video in of_videos for output in of_video]
    _check_cases([path for _, path in named], of_videos)
    _check_partial(results)
    _check_nesting(results)
    boxes: list[str | None] = [
        None if options.boxes is None else fill("--boxes", options.boxes, name, folder)
        for name, folder in zip(names, folders, strict=True)
    ]
    if options.boxes is not None and len(names) > 1 and "{source}" not in options.boxes:
        raise click.UsageError(
            f"--boxes {options.boxes}: {len(names)} videos can't share one file of boxes; put {{source}} into its "
            "name, which stands for the video's"
        )
    every = replace(options, sources=tuple(path for _, path in named), overwrite=True)
    of_folders = {Path(path).parent for path in paths if path not in options.sources}
    files_of_boxes = [file for file in boxes if file is not None]
    written = list(results)
    if report is not None:
        _check_report(report, options.sources, results)
        written.insert(0, Output("--report", str(report)))
    check_files(every, names, written, of_folders, files_of_boxes)
    videos = [
        Video(path, name, tuple(of), file) for (name, path), of, file in zip(named, of_videos, boxes, strict=True)
    ]
    ours = tuple(videos[shard.index :: shard.count])
    _check_places(output for video in ours for output in video.missing)
    return Plan(ours, len(videos))


def _folder_of(path: str) -> str:
    """What `{folder}` stands for: a video's folder as it was given, without what leads out of a folder of results."""
    return inside(PurePath(os.path.normpath(Path(path).parent)))


def inside(folder: PurePath) -> str:
    """A folder's path without `/`, a drive, `.` and `..` at its beginning; `.` if that is all."""
    parts = folder.relative_to(folder.anchor).parts
    return "/".join(part for part in parts if part != "..") or "."


def _unique(paths: Iterator[str]) -> list[str]:
    """Without those that are the same entry of the same folder, however they were given."""
    folders: dict[Path, Path] = {}
    found: dict[Path, str] = {}
    for path in paths:
        parent = Path(path).parent
        if parent not in folders:
            folders[parent] = parent.resolve()
        found.setdefault(folders[parent] / Path(path).name, path)
    return list(found.values())


def _expand(spec: str, say: Callable[[str], None]) -> Iterator[str]:
    if not spec.startswith("@"):
        yield from _videos_in(spec, say)
        return
    path = Path(spec[1:])
    if is_video(path):
        raise InputError(f"{spec}: expected a list of videos, a line each, found a video; leave out the @")
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        found = "no text" if isinstance(error, UnicodeError) else one_line(error)
        raise InputError(f"{spec}: expected a list of videos, a line each, found: {found}") from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            try:
                yield from _videos_in(line, say, listed=True)
            except SharposeError as error:
                raise InputError(f"{path}, line {number}: {error}") from None


def _videos_in(spec: str, say: Callable[[str], None], *, listed: bool = False) -> list[str]:
    """The videos that a SOURCE, or a line of a list, stands for.

    A video that is `listed` may be gone by now: it fails when it is opened, and the others go on.
    """
    path, expected = local_path(spec), _EXPECTED_IN_LIST if listed else _EXPECTED
    if is_video_file(spec):
        return [path]
    there = Path(path)
    if there.is_dir() or is_glob(path):
        try:
            listing = list_files(path)
        except SourceError as error:
            _, but, found = str(error).partition(", but ")
            raise InputError(f"{spec}: {expected}{but}{found}" if found else str(error)) from None
        pictures = f"{counted(len(listing.pictures), 'picture')}; sharpose-run reads those" if listing.pictures else ""
        left_out = "; ".join(filter(None, (listing.left_out, pictures)))
        if not listing.videos:
            raise InputError(f"{spec}: {expected}, found no video, but {left_out}")
        if left_out:
            say(f"{spec}: left out {left_out}")
        return list(map(str, listing.videos))
    found = "an address" if is_url(spec) else "a picture" if is_picture(there) else found_at(there)
    if listed and found == "nothing" and there.suffix:
        return [path]
    raise InputError(f"{redact_url(spec)}: {expected}, found {found}")


def _check_targets(outputs: Sequence[Output]) -> None:
    """Refuse what can't be written under a hidden name and renamed."""
    for output in outputs:
        if output.path is None:
            what = "standard output" if output.to_stdout else "an address"
            raise InputError(f"{output.option} {output.name}: expected a file or folder, got {what}")
        if found_at(output.path) == "a special file":
            raise InputError(f"{output.option} {output.name}: expected a file or folder, found a special file")
        if output.is_folder and output.path.is_file():
            raise InputError(f"{output.option} {output.name}: expected a folder, found a file")
        if FOLDER in re.sub(f"(^|(?<=/)){re.escape(FOLDER)}/", "", output.target):
            raise InputError(
                f"{output.option} {output.name}: expected {FOLDER} as a folder of its own in the path, such as "
                f"out/{FOLDER}/{{source}}.jsonl"
            )
        around = next((one for one in outputs if one.is_folder and Path(one.target) in output.path.parents), None)
        if around is not None:
            raise InputError(
                f"{output.option} {output.name} lies in the folder of {around.option} {around.name}, which is done "
                "once it is there; give it another folder"
            )


def _check_names(named: Sequence[tuple[str, str]], options: RunOptions) -> None:
    """Refuse videos of one name, unless `{folder}` tells their results apart."""
    boxes = () if options.boxes is None else (("--boxes", options.boxes),)
    without = [option for option, target in (*options.outputs, *boxes) if FOLDER not in target]
    seen: dict[tuple[str, str], str] = {}
    for name, path in named:
        other = seen.setdefault((name, "" if without else _folder_of(path)), path)
        if other == path:
            continue
        by_folder = f"put {FOLDER}/ before it in {' and '.join(without)}, rename one"
        raise InputError(
            f"{other} and {path}: both are called {name}, and so would be their results; "
            f"{by_folder if _folder_of(other) != _folder_of(path) else 'rename one'}, or archive them in two runs with "
            "outputs of their own"
        )


def _check_cases(paths: Sequence[str], outputs: Sequence[Sequence[Output]]) -> None:
    """Refuse results whose names differ in case alone where a file system holds them for one."""
    seen: dict[str, tuple[str, str]] = {}
    for path, of_video in zip(paths, outputs, strict=True):
        for output in of_video:
            target, other = seen.setdefault(output.target.casefold(), (output.target, path))
            if target != output.target and _ignores_case(Path(output.target).parent):
                raise InputError(
                    f"{other} and {path}: the names of these videos, or of their folders, differ in case alone, which "
                    f"the file system of {output.option} {output.name} ignores; rename one"
                )


def _ignores_case(folder: Path) -> bool:
    with _probe(folder) as probe:
        return probe.with_name(probe.name.swapcase()).exists()


@contextlib.contextmanager
def _probe(folder: Path) -> Iterator[Path]:
    """A file for a moment in a folder, or where that would be made; raises `InputError` where there can be none."""
    there = next(one for one in (folder, *folder.parents) if found_at(one) != "nothing")
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".Probe-", suffix=UNFINISHED) as probe:
            yield Path(probe.name)
    except OSError as error:
        found = f"but: {one_line(error)}" if there.is_dir() else f"found {found_at(there)}"
        raise InputError(f"{there}: expected a folder that results can be written to, {found}") from None


def _check_places(missing: Iterable[Output]) -> None:
    """Find out before the first video where nothing can be written."""
    checked: set[Path] = set()
    for output in missing:
        parent = Path(output.target).parent
        if parent in checked:
            continue
        try:
            with _probe(parent):
                checked.update((parent, *parent.parents))
        except InputError as error:
            raise InputError(f"{output.option} {output.name}: {error}") from None


def _check_partial(results: Sequence[Output]) -> None:
    """Refuse results that are called as a partial one of another video would be, now or in another run."""
    for output in results:
        path = Path(output.target)
        if (path.name if output.is_folder else path.stem).endswith(".partial"):
            raise InputError(
                f"{output.target}: this result would have the name of another's partial one; rename the video"
            )


def _check_nesting(results: Sequence[Output]) -> None:
    """Refuse results in a folder that is itself a result, as `{folder}` may lead to."""
    targets = {Path(output.target) for output in results}
    for output in results:
        around = next((parent for parent in Path(output.target).parents if parent in targets), None)
        if around is not None:
            raise InputError(f"{output.target}: this result would lie in another one, {around}; rename a video")


def _check_report(report: Path, sources: Sequence[str], results: Sequence[Output]) -> None:
    """Refuse a `--report` that would replace a list of videos, or a result, whole or partial, or lie within one."""
    place = identity_of(report)
    around = {identity_of(folder) for folder in report.resolve().parents}
    if any(spec.startswith("@") and identity_of(Path(spec[1:])) == place for spec in sources):
        raise InputError(f"--report {report} would overwrite the list of videos; give another name")
    for output in results:
        path = Path(output.target)
        whole, partial = identity_of(path), identity_of(partial_name(path, folder=output.is_folder))
        if place in (whole, partial) or whole in around:
            raise InputError(
                f"--report {report} would overwrite {output.target}, a result of {output.option}; give another name"
            )

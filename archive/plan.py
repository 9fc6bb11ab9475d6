"""What an archive consists of: its videos in a fixed order, the names of their results, and a shard's part of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from sharpose.archive.options import Shard
from sharpose.errors import InputError, SharposeError, counted, one_line
from sharpose.files import UNFINISHED, found_at, partial_name
from sharpose.runtime.options import RunOptions
from sharpose.runtime.sinks.outputs import Output, check_files, fill, outputs_of_streams
from sharpose.runtime.sources.folder import is_glob, is_picture, list_files
from sharpose.runtime.sources.open import is_video_file, local_path, source_names
from sharpose.runtime.sources.urls import is_url, redact_url

_EXPECTED = "expected a video, a folder or glob of videos, or @FILE, a list of those"


@dataclass(frozen=True)
class Video:
    """A video and its results.

    Attributes:
        path: Of the video.
        name: Which `{source}` stands for.
        outputs: Where its results go.
    """

    path: str
    name: str
    outputs: tuple[Output, ...]

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
        SharposeError: a source is no video, there are none, two videos have one name, an output can't be written, or
            the report would overwrite what is read or another result.
        click.UsageError: there is no output, or several videos would share a file of boxes.
    """
    if not options.outputs:
        raise click.UsageError("expected an output such as --json 'out/{source}.jsonl', got none")
    paths = _unique(path for spec in options.sources for path in _expand(spec, say))
    if not paths:
        raise InputError(f"{', '.join(options.sources)}: {_EXPECTED}, found a list without one")
    named = sorted((source_names([path])[0], path) for path in paths)
    names = [name for name, _ in named]
    outputs = [Output(option, target) for option, target in options.outputs]
    _check_targets(outputs)
    for (name, path), (other, before) in zip(named[1:], named, strict=False):
        if name == other:
            raise InputError(
                f"{before} and {path}: both are called {name}, and so would be their results; rename one, or archive "
                "them in two runs with outputs of their own"
            )
    of_videos = outputs_of_streams(outputs, names)
    _check_cases(names, of_videos)
    _check_partial(of_videos)
    if options.boxes is not None and len(names) > 1 and fill("--boxes", options.boxes, names[0]) == options.boxes:
        raise click.UsageError(
            f"--boxes {options.boxes}: {len(names)} videos can't share one file of boxes; put {{source}} into its "
            "name, which stands for the video's"
        )
    every = replace(options, sources=tuple(path for _, path in named), overwrite=True)
    folders = {Path(path).parent for path in paths if path not in options.sources}
    results = [output for of_video in of_videos for output in of_video]
    if report is not None:
        _check_report(report, options.sources, results)
        check_files(every, names, [Output("--report", str(report))], folders)
    check_files(every, names, results, folders)
    videos = [Video(path, name, tuple(of)) for (name, path), of in zip(named, of_videos, strict=True)]
    return Plan(tuple(videos[shard.index :: shard.count]), len(videos))


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
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{spec}: expected a list of videos, a line each: {one_line(error)}") from None
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
    path = local_path(spec)
    if is_video_file(spec):
        return [path]
    there = Path(path)
    if there.is_dir() or is_glob(path):
        listing = list_files(path)
        pictures = f"{counted(len(listing.pictures), 'picture')}; sharpose-run reads those" if listing.pictures else ""
        left_out = "; ".join(filter(None, (listing.left_out, pictures)))
        if not listing.videos:
            raise InputError(f"{spec}: {_EXPECTED}, found no video, but {left_out}")
        if left_out:
            say(f"{spec}: left out {left_out}")
        return list(map(str, listing.videos))
    found = "an address" if is_url(spec) else "a picture" if is_picture(there) else found_at(there)
    if listed and found == "nothing" and there.suffix:
        return [path]
    raise InputError(f"{redact_url(spec)}: {_EXPECTED}, found {found}")


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
        around = next((one for one in outputs if one.is_folder and Path(one.target) in output.path.parents), None)
        if around is not None:
            raise InputError(
                f"{output.option} {output.name} lies in the folder of {around.option} {around.name}, which is done "
                "once it is there; give it another folder"
            )


def _check_cases(names: Sequence[str], outputs: Sequence[Sequence[Output]]) -> None:
    """Refuse names that differ in case alone where a file system holds them for one."""
    seen: dict[str, str] = {}
    for name, of_video in zip(names, outputs, strict=True):
        other = seen.setdefault(name.casefold(), name)
        if other == name:
            continue
        for output in of_video:
            if _ignores_case(Path(output.target).parent):
                raise InputError(
                    f"{other} and {name}: these names of videos differ in case alone, which the file system of "
                    f"{output.option} {output.name} ignores; rename one of the videos"
                )


def _ignores_case(folder: Path) -> bool:
    folder = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".Case-", suffix=UNFINISHED) as probe:
            path = Path(probe.name)
            return path.with_name(path.name.swapcase()).exists()
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be written to: {one_line(error)}") from None


def _check_partial(outputs: Sequence[Sequence[Output]]) -> None:
    """Refuse results that are called as a partial one of another video would be, now or in another run."""
    for of_video in outputs:
        for output in of_video:
            path = Path(output.target)
            if (path.name if output.is_folder else path.stem).endswith(".partial"):
                raise InputError(
                    f"{output.target}: this result would have the name of another's partial one; rename the video"
                )


def _check_report(report: Path, sources: Sequence[str], results: Sequence[Output]) -> None:
    """Refuse a `--report` that would replace a list of videos, or a result, whole or partial, or lie within one."""
    place = report.resolve()
    if any(spec.startswith("@") and Path(spec[1:]).resolve() == place for spec in sources):
        raise InputError(f"--report {report} would overwrite the list of videos; give another name")
    for output in results:
        path = Path(output.target).resolve()
        if place in (path, partial_name(path, folder=output.is_folder)) or path in place.parents:
            raise InputError(
                f"--report {report} would overwrite {output.target}, a result of {output.option}; give another name"
            )

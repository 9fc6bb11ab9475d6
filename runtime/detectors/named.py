"""`--detector NAME`: a detector from the table, downloaded once to the cache; and what to say where none is given."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from sharpose.engines.cache import default_cache_folder
from sharpose.errors import DetectorError
from sharpose.runtime.detectors.download import Download, download
from sharpose.runtime.detectors.table import DetectorEntry, load_table, user_table_path

__all__ = ["MOTION", "find_detector", "how_to_find_people", "is_file_name"]

MOTION = "motion"
"""The name of the detector without weights."""

TRUST = "trust"
"""As `--detector-sha256`: take what comes the first time, and pin it."""


def is_file_name(text: str) -> bool:
    """Whether `--detector TEXT` means a file rather than a name of the table."""
    return text.lower().endswith(".onnx") or "/" in text or Path(text).exists()


def find_detector(
    name: str,
    *,
    sha256: str | None = None,
    table: Path | None = None,
    folder: Path | None = None,
    console: Console | None = None,
    timeout: float = 30.0,
) -> Path:
    """The file of a detector in the table, downloaded if it isn't in the cache.

    Args:
        name: As in the table.
        sha256: The user's own hash, or `trust` to take what comes the first time and hold on to it; else the table's.
        table: The user's own table; see `load_table`.
        folder: The cache; `~/.cache/sharpose/detectors` if None.
        console: Where the bar is shown, if it is a terminal, and lines are said; stderr if None.
        timeout: Seconds without a byte after which a server counts as dead.

    Raises:
        DetectorError: there is no such name, its hash isn't known to anybody, or it can't be downloaded.
    """
    entries = load_table(table)
    entry = entries.get(name)
    if entry is None:
        close = difflib.get_close_matches(name, entries, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise DetectorError(
            f"--detector {name}: {hint}expected a file, {MOTION}, or one of {', '.join(sorted(entries))} "
            f"(your own go into {user_table_path()})"
        )
    console = console or Console(stderr=True)
    folder = folder or default_cache_folder() / "detectors"
    path = folder / f"{name}.onnx"
    pinned = path.with_name(path.name + ".sha256")
    wanted = _wanted_hash(name, entry, sha256, pinned)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    with _bar(name, console) as on_progress:
        found = download(Download(entry.url, path, wanted, timeout), on_progress, say)
    if wanted is None:
        try:
            pinned.write_text(found + "\n")
        except OSError as error:
            raise DetectorError(f"{pinned}: can't be written ({error.strerror})") from error
        say(f"warning: {name}: nobody has vouched for this file; trusted it as you asked, sha256 {found}")
    return path


def _wanted_hash(name: str, entry: DetectorEntry, given: str | None, pinned: Path) -> str | None:
    """What the file must be; None where the user trusts what comes, for the first time."""
    if given is not None and given != TRUST:
        digest = given.lower().removeprefix("sha256:")
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise DetectorError(f"--detector-sha256: expected 64 hexadecimal digits or {TRUST!r}, got {given!r}")
        return digest
    if entry.sha256 is not None:
        return entry.sha256
    if pinned.is_file():
        return pinned.read_text("utf-8").strip()
    if given == TRUST:
        return None
    raise DetectorError(
        f"--detector {name}: no published sha256 of {entry.url} is known, so it isn't downloaded unseen; give yours by "
        f"--detector-sha256 HASH or as sha256: in {user_table_path()}, or --detector-sha256 {TRUST} to take what comes"
    )


@contextlib.contextmanager
def _bar(name: str, console: Console) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, from the first byte on."""
    columns = (TextColumn("downloading {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(name, total=None)

    def update(done: int, total: int | None) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        progress.stop()


def how_to_find_people(source: str) -> str:
    """What a user who said nothing about people may say: one line.

    Args:
        source: What is to be run, without its password.
    """
    return (
        f"where are the people in {source}? give --detector FILE.onnx (YOLOX, YOLOv8-style or end-to-end), --detector "
        f"NAME (such as yolox-tiny; downloaded once), --detector {MOTION} (a camera that stands still; needs no "
        "weights), --boxes FILE (COCO detection results), or --full-frame (one person fills the picture); the built-in "
        "scene brings its own boxes"
    )

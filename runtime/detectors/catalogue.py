"""`--detector NAME`: detectors that are had by name, downloaded once to the cache and checked."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from sharpose.config import describe_validation_error
from sharpose.errors import DetectorError, EngineError
from sharpose.files import cache_folder, file_lock

__all__ = [
    "MOTION",
    "DetectorEntry",
    "Download",
    "download",
    "find_detector",
    "how_to_find_people",
    "is_file_name",
    "load_table",
    "user_table_path",
]


class DetectorEntry(BaseModel):
    """One detector of the table.

    Attributes:
        url: Where the ONNX file is, `https://` (or `http://` on this machine).
        sha256: Of the file; None where nobody who can be named has published it.
        sha256_source: Who published it; goes with `sha256`.
        family: `yolox`, `yolov8` or `end-to-end`: what it is expected to be recognised as.
        licence: Of the weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=r"^(https://|http://(127\.0\.0\.1|localhost)[:/]).+\.onnx$")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    sha256_source: str | None = Field(default=None, min_length=1)
    family: Literal["yolox", "yolov8", "end-to-end"]
    licence: str = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> DetectorEntry:
        if (self.sha256 is None) != (self.sha256_source is None):
            raise ValueError("sha256 and sha256_source go together: a hash is worth what its source is worth")
        return self


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    detectors: dict[str, DetectorEntry]

    @model_validator(mode="after")
    def _check(self) -> _Table:
        for name in self.detectors:
            # A name that could be a file, a number or an option would be taken for one.
            if not name.replace("-", "").replace("_", "").isalnum() or name[0] == "-" or name == "motion":
                raise ValueError(f"name {name!r}: expected letters, digits, - and _, and not 'motion'")
        return self


def user_table_path() -> Path:
    """`$XDG_CONFIG_HOME/sharpose/detectors.yaml`, or `~/.config/sharpose/detectors.yaml`."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # The specification says to ignore a relative one.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "sharpose" / "detectors.yaml"  # noqa: PTH117


def load_table(own: Path | None = None) -> dict[str, DetectorEntry]:
    """Every detector by name; the user's entries replace ours of the same name.

    Args:
        own: The user's table, which must exist; `user_table_path()`, if it is there, where None.

    Raises:
        DetectorError: PyYAML isn't installed, or a table can't be read or isn't valid.
    """
    ours = resources.files("sharpose.configs").joinpath("detectors/detectors.yaml").read_text("utf-8")
    table = _parse(ours, "the built-in table of detectors")
    path = own or user_table_path()
    if own is None and not path.exists():
        return table
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DetectorError(f"table of detectors {path}: can't be read ({reason})") from error
    return table | _parse(text, f"table of detectors {path}")


def _parse(text: str, source: str) -> dict[str, DetectorEntry]:
    try:
        import yaml
    except ImportError:
        raise DetectorError("detectors by name need PyYAML: pip install pyyaml, or give --detector FILE.onnx") from None
    try:
        return _Table.model_validate(yaml.safe_load(text)).detectors
    except yaml.YAMLError as error:
        raise DetectorError(f"{source}: not valid YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        raise DetectorError(f"{source}: {describe_validation_error(error)}") from error


_CHUNK = 1 << 18
_TRIES = 3  # each goes on where the last one was cut off

OnProgress = Callable[[int, "int | None"], None]


@dataclass(frozen=True)
class Download:
    """What to get, and where it goes.

    Attributes:
        url: Where it is.
        path: Where it goes; its folder is made.
        sha256: What it must be; None to take what comes (and say so to the user).
        timeout: Seconds without a byte after which a server counts as dead.
    """

    url: str
    path: Path
    sha256: str | None
    timeout: float = 30.0


def download(
    job: Download,
    on_progress: OnProgress = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Get a file, unless it is there. However many processes ask, one downloads.

    Args:
        job: What.
        on_progress: Told the bytes so far and, where the server says it, of how many.
        say: Told in a line what is waited for.

    Returns:
        The file's sha256.

    Raises:
        DetectorError: the server refuses, is silent or keeps hanging up, the disk can't be written, or the file is not
            the one that the hash is of (it is deleted then).
    """
    try:
        job.path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(_beside(job.path, ".lock"), lambda: say(f"{job.path.name}: another process downloads it")):
            if job.path.exists():
                return _check(job, job.path)
            part = _beside(job.path, ".part")
            _fetch(job, part, on_progress)
            found = _check(job, part)
            os.replace(part, job.path)  # noqa: PTH105
            return found
    except EngineError as error:  # the lock's: it speaks of another cache
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) else str(cause)
        raise DetectorError(f"{job.path.parent}: can't be locked ({reason}); set XDG_CACHE_HOME") from error
    except OSError as error:
        raise DetectorError(
            f"{job.path}: can't be written ({error.strerror or error}); make room, or set XDG_CACHE_HOME"
        ) from error


def _fetch(job: Download, part: Path, on_progress: OnProgress) -> None:
    """Fill `part` up to the end, from where it stands."""
    for attempt in range(1, _TRIES + 1):
        try:
            with part.open("ab") as file, _answer(job, file) as (body, total):
                while chunk := body.read(_CHUNK):
                    file.write(chunk)
                    on_progress(file.tell(), total)
                if total is not None and file.tell() < total:
                    raise http.client.IncompleteRead(b"", total - file.tell())
                return
        except urllib.error.HTTPError as error:
            if error.code == 416 and part.stat().st_size:  # nothing is left, or the file there is another by now
                part.unlink()
                continue
            raise DetectorError(f"{job.url}: the server answers {error.code} {error.reason}") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if attempt == _TRIES:
                kept = part.stat().st_size if part.exists() else 0
                how = "timed out" if isinstance(reason, TimeoutError) else str(reason) or type(reason).__name__
                raise DetectorError(
                    f"{job.url}: {' '.join(how.split())} ({_TRIES} tries); {kept} bytes are kept, run again to go on"
                ) from error
    raise DetectorError(f"{job.url}: the server's answers don't fit together; run again")


@contextlib.contextmanager
def _answer(job: Download, file: IO[bytes]) -> Iterator[tuple[http.client.HTTPResponse, int | None]]:
    """The server's answer from where `file` ends, and the size of the whole; a server without ranges starts anew."""
    start = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "sharpose", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(job.url, headers=headers)
    with urllib.request.urlopen(request, timeout=job.timeout) as body:
        length = body.headers.get("Content-Length")
        left = int(length) if length is not None and length.isdigit() else None
        if start and not (body.status == 206 and body.headers.get("Content-Range", "").startswith(f"bytes {start}-")):
            file.truncate(0)
            start = file.seek(0)
        yield body, None if left is None else start + left


def _check(job: Download, file: Path) -> str:
    """The file's sha256. Raises `DetectorError`, and deletes it, where it isn't the one asked for."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
    found = digest.hexdigest()
    if job.sha256 is not None and found != job.sha256:
        file.unlink()
        raise DetectorError(
            f"{job.url}: expected sha256 {job.sha256}, the file has {found}; deleted it: a wrong hash, or not the "
            "file that was published"
        )
    return found


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


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
    folder = folder or cache_folder() / "detectors"
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

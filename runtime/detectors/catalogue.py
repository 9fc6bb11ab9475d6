"""Detectors by name, downloaded once to the cache and checked against their sha256."""

from __future__ import annotations

import contextlib
import difflib
import http.client
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import IO, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from sharpose.errors import DetectorError, counted, describe_validation_error
from sharpose.file_locks import file_lock
from sharpose.files import cache_folder, file_sha256, parse_yaml, read_yaml, replacing

MOTION = "motion"
"""The name of the detector without weights."""

TRUST = "trust"
"""As `--detector-sha256`: accept the first download and pin its sha256."""

MIRROR = "SHARPOSE_DETECTOR_MIRROR"
"""The environment variable of a folder's address, where detectors' files lie under the names that they have at home."""

_ADDRESS = r"(https://|http://(127\.0\.0\.1|localhost)[:/])"
_CHUNK = 1 << 18  # bytes
_TRIES = 3  # each resumes where the last one was cut off
_SHORTEST_TRY = 0.1  # of the timeout: with less left, no other is made


class DownloadError(DetectorError):
    """A file doesn't come: nobody answers, the server refuses, or the connection is lost."""


def is_file_name(text: str) -> bool:
    """Whether `--detector TEXT` is a file rather than a name."""
    return text.lower().endswith(".onnx") or "/" in text or os.sep in text or Path(text).exists()


class DetectorEntry(BaseModel):
    """One detector of the table.

    Attributes:
        url: Address of the ONNX file, `https://` (or `http://` on this machine).
        sha256: Of the file; None where nobody has published it.
        sha256_source: Who published `sha256`; given together with it.
        family: `yolox`, `yolov8`, `yolo-end-to-end` or `end-to-end`.
        licence: Of the weights.
        mean: Subtracted from the pixels, 0 to 255, a number for each channel; None for the family's way.
        std: What they are divided by then.
        rgb: Whether the graph gets red, green, blue; None for the family's way.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=f"^{_ADDRESS}.+\\.onnx$")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    sha256_source: str | None = Field(default=None, min_length=1)
    family: Literal["yolox", "yolov8", "yolo-end-to-end", "end-to-end"]
    licence: str = Field(min_length=1)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    rgb: bool | None = None

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
            if not name.replace("-", "").replace("_", "").isalnum() or name[0] == "-" or name == MOTION:
                raise ValueError(f"name {name!r}: expected letters, digits, - and _, and not '{MOTION}'")
        return self


def user_table_path() -> Path:
    """`$XDG_CONFIG_HOME/sharpose/detectors.yaml`, or `~/.config/sharpose/detectors.yaml`.

    Of a user without a home folder, as containers have, it begins with `~`, and there is no such file.
    """
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # The specification says to ignore a relative one; pathlib's own way home raises where there is none.
    folder = base if os.path.isabs(base) else os.path.expanduser("~/.config")  # noqa: PTH111, PTH117
    return Path(folder) / "sharpose" / "detectors.yaml"


def load_table(own: Path | None = None) -> dict[str, DetectorEntry]:
    """All detectors by name; the user's entries replace built-in ones of the same name.

    Args:
        own: The user's table, which must exist; by default `user_table_path()`, if there is such a file.

    Raises:
        DetectorError: PyYAML isn't installed, or a table can't be read or isn't valid.
    """
    ours = resources.files("sharpose.configs").joinpath("detectors/detectors.yaml").read_text("utf-8")
    source = "the built-in table of detectors"

    def failure(reason: str) -> DetectorError:
        return DetectorError(f"{source}: {reason}")

    table = _checked(parse_yaml(ours, failure), failure)
    path = own or user_table_path()
    if own is None and not path.exists():
        return table
    source = f"table of detectors {path}"
    return table | _checked(read_yaml(path, failure), failure)


def _checked(values: object, failure: Callable[[str], DetectorError]) -> dict[str, DetectorEntry]:
    try:
        return _Table.model_validate(values).detectors
    except ValidationError as error:
        raise failure(describe_validation_error(error)) from error


def find_detector(
    name: str,
    *,
    sha256: str | None = None,
    table: Path | None = None,
    console: Console | None = None,
    say: Callable[[str], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Path:
    """Path of a detector's file in `~/.cache/sharpose/detectors`, downloaded if it isn't there.

    It comes from the table's address, or from under that in the environment variable `SHARPOSE_DETECTOR_MIRROR`.

    Args:
        name: As in the table.
        sha256: The user's own hash, or `trust` to accept the first download and pin its hash; by default the table's.
        table: The user's own table; see `load_table`.
        console: Shows progress, if it is a terminal; by default stderr.
        say: Called with what is downloaded from where to where; by default the console prints it.
        warn: Called with the hash of a file that is trusted; by default the console prints it.

    Raises:
        DownloadError: the file doesn't come; names other ways to find people.
        DetectorError: no such name, no published hash, another hash, or the disk failed.
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
    path = cache_folder() / "detectors" / f"{name}.onnx"
    pinned = path.with_name(f"{path.name}.sha256")

    def show(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    say, warn = say or show, warn or (lambda line: show(f"warning: {line}"))
    url = _address_of(entry)
    _set_aside(path, entry, say)
    expected = _expected_sha256(name, entry, sha256, pinned)
    try:
        with _progress_bar(name, console) as on_progress:
            found = download(url, path, expected, on_progress=on_progress, say=say)
    except DownloadError as error:
        raise DownloadError(
            f"the detector {name} can't be downloaded: {error}; give --detector FILE.onnx (in Python "
            f"`Detector.from_onnx`), --detector {MOTION} (a camera that stands still; `motion=True`), --full-frame "
            "(one person fills the picture; `full_frame=True`) or --boxes FILE (COCO detection results; `boxes=FILE`), "
            f"or name a mirror in {MIRROR}"
        ) from error
    if expected is None:
        try:
            with replacing(pinned) as temporary:
                temporary.write_text(found + "\n", "utf-8")
        except OSError as error:
            raise DetectorError(f"{pinned}: can't be written ({error.strerror})") from error
        warn(f"{name}: nobody has published a hash of this file; trusted as you asked, sha256 {found}")
    return path


def _address_of(entry: DetectorEntry) -> str:
    """The entry's own address, or its file's at the mirror."""
    mirror = os.environ.get(MIRROR)
    if not mirror:
        return entry.url
    if not re.fullmatch(rf"{_ADDRESS}[^\s@?#]+", mirror):
        raise DetectorError(
            f"{MIRROR}: expected the address of a folder, as https://HOST/FOLDER, without login, ? and # (http:// on "
            "this machine alone)"
        )
    return f"{mirror.rstrip('/')}/{entry.url.rpartition('/')[2]}"


def _expected_sha256(name: str, entry: DetectorEntry, given: str | None, pinned: Path) -> str | None:
    """Hash that the file must have; None where the user trusts the first download."""
    if given is not None and given != TRUST:
        digest = given.lower().removeprefix("sha256:")
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise DetectorError(f"--detector-sha256: expected 64 hexadecimal digits or {TRUST!r}, got {given!r}")
        return digest
    if entry.sha256 is not None:
        return entry.sha256
    if pinned.is_file() and (pin := _sha256_in(pinned)) is not None:
        return pin
    if given == TRUST:
        return None
    raise DetectorError(
        f"--detector {name}: no published sha256 of {entry.url} is known, so it isn't downloaded; give yours by "
        f"--detector-sha256 HASH or as sha256: in {user_table_path()}, or --detector-sha256 {TRUST} to accept any file"
    )


def _sha256_in(pinned: Path) -> str | None:
    """The hash in a file, or None where it was cut off."""
    text = pinned.read_bytes().strip().decode(errors="replace")
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def _set_aside(path: Path, entry: DetectorEntry, say: Callable[[str], None]) -> None:
    """Move away what is kept under this name from the address that the table had before, and note the one of now.

    A file without a note is the user's own copy, or older than notes are; one that has the table's hash stays.
    """
    note = path.with_name(f"{path.name}.url")
    try:
        before = note.read_text("utf-8").strip() if note.is_file() else None
        if before == entry.url:
            return
        if before is not None:
            if path.is_file() and (entry.sha256 is None or file_sha256(path) != entry.sha256):
                aside = path.with_name(f"{path.name}.old")
                path.replace(aside)
                say(f"{path.stem}: the table names another address by now; what came from {before} is {aside}")
            for suffix in ("part", "sha256"):
                path.with_name(f"{path.name}.{suffix}").unlink(missing_ok=True)
        # Without an earlier note nothing depends on this one yet: a file in a folder that can't be written is used.
        with contextlib.suppress(OSError) if before is None else contextlib.nullcontext():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(note) as temporary:
                temporary.write_text(entry.url + "\n", "utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DetectorError(f"{note}: can't be read or written ({error}); set XDG_CACHE_HOME") from error


@contextlib.contextmanager
def _progress_bar(name: str, console: Console) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, shown from the first byte on."""
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


def download(
    url: str,
    path: Path,
    sha256: str | None,
    *,
    timeout: float = 30.0,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Download a file, unless it is there, and say so. Of several processes, one downloads and the others wait.

    Args:
        url: Its address.
        path: Where to put it; the folder is made.
        sha256: Expected hash; None to accept any file.
        timeout: Seconds without a byte, over all attempts, before the server counts as dead.
        on_progress: Called with the bytes so far and, where the server tells it, the size.
        say: Called with a line before the download, and while another process is waited for.

    Returns:
        The file's sha256.

    Raises:
        DownloadError: the server fails; what has come is kept.
        DetectorError: the disk fails, or the hash is another one (the file is deleted then).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(
            path.with_name(f"{path.name}.lock"),
            lambda: say(f"{path.name}: another process downloads it"),
            lambda reason: DetectorError(f"{path.parent}: can't be locked ({reason}); set XDG_CACHE_HOME"),
        ):
            if path.exists():
                return _check(path, url, sha256)
            part = path.with_name(f"{path.name}.part")
            say(f"downloading {url} to {path}")
            _fetch(url, part, timeout, on_progress)
            found = _check(part, url, sha256)
            os.replace(part, path)  # noqa: PTH105
            return found
    except OSError as error:
        raise DetectorError(
            f"{path}: can't be written ({error.strerror or error}); make room, or set XDG_CACHE_HOME"
        ) from error


def _fetch(url: str, part: Path, timeout: float, on_progress: Callable[[int, int | None], None]) -> None:
    """Append to `part` what is missing of the file. Attempts that bring nothing share one `timeout`."""
    silent_until = time.monotonic() + timeout
    for attempt in range(1, _TRIES + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            with part.open("ab") as file, _open_url(url, file, silent_until - time.monotonic()) as (body, total):
                while chunk := _read(body):
                    file.write(chunk)
                    on_progress(file.tell(), total)
                if total is not None and file.tell() < total:
                    raise http.client.IncompleteRead(b"", total - file.tell())
                return
        except urllib.error.HTTPError as error:
            if error.code == 416 and part.stat().st_size:  # nothing is left, or the file there is another by now
                part.unlink()
                continue
            raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            kept = part.stat().st_size if part.exists() else 0
            if kept > before:
                silent_until = time.monotonic() + timeout
            if attempt == _TRIES or time.monotonic() > silent_until - _SHORTEST_TRY * timeout:
                how = "timed out" if isinstance(reason, TimeoutError) else str(reason) or type(reason).__name__
                resume = f"; {kept} bytes are kept, run again to resume" if kept else ""
                raise DownloadError(f"{url}: {' '.join(how.split())} ({counted(attempt, 'try')}){resume}") from error
    raise DownloadError(f"{url}: the server's answers contradict each other; run again")


def _read(body: http.client.HTTPResponse) -> bytes:
    """The next piece, b"" at the end. A network that goes away is no `OSError` alone, which would be the disk's."""
    try:
        return body.read(_CHUNK)
    except (TimeoutError, ConnectionError):
        raise
    except OSError as error:
        raise ConnectionError(error.strerror or str(error)) from error


@contextlib.contextmanager
def _open_url(url: str, file: IO[bytes], timeout: float) -> Iterator[tuple[http.client.HTTPResponse, int | None]]:
    """The response from where `file` ends, and the whole size; starts over where the server knows no ranges."""
    start = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "sharpose", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with _answer_of(urllib.request.Request(url, headers=headers), timeout) as body:
        length = body.headers.get("Content-Length")
        left = int(length) if length is not None and length.isdigit() else None
        if start and not (body.status == 206 and body.headers.get("Content-Range", "").startswith(f"bytes {start}-")):
            file.truncate(0)
            start = file.seek(0)
        yield body, None if left is None else start + left


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to https only, as the table's addresses are, and on this machine to this machine."""

    def redirect_request(
        self,
        request: urllib.request.Request,
        body: IO[bytes],
        code: int,
        reason: str,
        headers: http.client.HTTPMessage,
        address: str,
    ) -> urllib.request.Request | None:
        """The request to go on with. Raises `DownloadError` for one that the table may not name."""
        to = urlsplit(address)
        here = to.scheme == "http" and to.hostname in ("127.0.0.1", "localhost")
        if to.scheme != "https" and not (here and urlsplit(request.full_url).scheme == "http"):
            raise DownloadError(  # without what follows the host, which may be signed
                f"{request.full_url}: expected a redirect to https://, got one to {to.scheme}://{to.hostname}"
            )
        return super().redirect_request(request, body, code, reason, headers, address)


def _answer_of(request: urllib.request.Request, timeout: float) -> http.client.HTTPResponse:
    """A server's answer. `timeout` is for all: looking up the name, each of its addresses, redirects.

    Raises:
        TimeoutError: it didn't come in time.
    """
    answers = queue.SimpleQueue[http.client.HTTPResponse | Exception]()

    def ask() -> None:
        try:
            answers.put(urllib.request.build_opener(_Redirects).open(request, timeout=timeout))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, name="download", daemon=True).start()  # a name's lookup can't be ended
    try:
        answer = answers.get(timeout=max(timeout, 0.0))
    except queue.Empty:
        raise TimeoutError("timed out") from None
    if isinstance(answer, OSError) and not isinstance(answer, (urllib.error.URLError, TimeoutError, ConnectionError)):
        raise ConnectionError(answer.strerror or str(answer)) from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def _check(file: Path, url: str, sha256: str | None) -> str:
    """The file's sha256; deletes the file and raises `DetectorError` where another one is expected."""
    found = file_sha256(file)
    if sha256 is not None and found != sha256:
        file.unlink()
        raise DetectorError(
            f"{url}: expected sha256 {sha256}, found {found}; deleted the file: a wrong hash, or not the file that was "
            "published"
        )
    return found

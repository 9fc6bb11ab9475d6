"""Downloading a file once: resumed where it was cut off, checked, and there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sharpose.engines.file_lock import file_lock
from sharpose.errors import DetectorError, EngineError

__all__ = ["Download", "download"]

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

"""Files: JSON and YAML read with limits, hashes, files that are whole at every moment, the cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sharpose.errors import (
    InputError,
    OutputRemovedError,
    ReaderGoneError,
    SharposeError,
    SinkError,
    one_line,
    reader_has_gone,
)
from sharpose.file_locks import open_to_write

LABELS_LIMIT = 2 << 30
"""Bytes of the longest files of boxes and labels; COCO's own have 0.5 GB."""

_JSON_LIMIT, _YAML_LIMIT = 1 << 20, 1 << 18  # bytes; ours have some 10 kB
_YAML_DEPTH, _YAML_VALUES = 50, 100_000  # values with what aliases repeat
_DIGITS = "4300 digits"  # CPython's limit, which its message tells programmers how to lift

UNFINISHED = ".unfinished"
"""Ending of temporary files; one that a killed process left may be removed."""

STDOUT = "-"
"""What `GrowingFile` takes for standard output."""
STDOUT_PATH = Path("standard output")
"""Its name in messages."""


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary file `.NAME.RANDOM.unfinished` beside `path`, which takes its place at the end of the block.

    Any error in the block, Ctrl-C included, removes it; what was there before then stays as it is. Of several writers
    at once the last one wins.

    Args:
        path: Where it goes; the permissions of a file that is there are kept.
        sync: Whether it must be on the disk (fsync) before it is renamed, so that a lost power supply doesn't leave
            half a file under that name. A killed process never does.

    Raises:
        OSError: the file can't be written.
    """
    # No process number: the first process of every container is number 1, and containers may share a volume.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield temporary
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o777)
        if sync:
            to_disk(temporary)
        temporary.replace(path)
        if sync:
            to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """`replacing`, for the files of a training run.

    Raises:
        SinkError: the file can't be written, as on a full disk; what was there before stays as it is.
    """
    try:
        with replacing(path) as temporary:
            yield temporary
    # torch's writer turns a full disk into a RuntimeError of many lines
    except (OSError, RuntimeError) as error:
        kept = "; the earlier one is untouched" if path.exists() else ""
        raise SinkError(
            f"{path}: can't be written ({one_line(error)[:160]}){kept}; free some space and go on with --resume"
        ) from error


def read_json(path: Path, failure: Callable[[str], SharposeError], limit: int = _JSON_LIMIT) -> Any:  # noqa: ANN401
    """What a JSON file says; memory follows what is read, never what the file claims.

    Args:
        path: A file, or a pipe.
        failure: Makes the error from its reason, such as `not JSON (Expecting value: line 1 column 1)`.
        limit: Bytes of the longest file that is read.

    Raises:
        SharposeError: the file can't be read, is too long or nested too deeply, or isn't JSON.
    """
    content = _read(path, failure, limit)
    if not content:
        raise failure("it is empty")
    try:
        return json.loads(content)
    except RecursionError:
        raise failure("JSON nested too deeply") from None
    except MemoryError:
        raise failure(f"its {len(content)} bytes of JSON don't fit into this machine's memory") from None
    except ValueError as error:  # also bad UTF-8, and an integer of thousands of digits
        raise failure(f"not JSON ({_words(error)})") from error


def read_yaml(path: Path, failure: Callable[[str], SharposeError]) -> Any:  # noqa: ANN401 (whatever YAML says)
    """What a YAML file says; see `read_json`."""
    try:
        text = _read(path, failure, _YAML_LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise failure(f"not UTF-8 ({error})") from error
    if not text.strip():
        raise failure("it is empty")
    return parse_yaml(text, failure)


def parse_yaml(text: str, failure: Callable[[str], SharposeError]) -> Any:  # noqa: ANN401 (whatever YAML says)
    """What a YAML text says.

    Raises:
        SharposeError: PyYAML isn't installed, the text isn't YAML, is nested too deeply, or its aliases explode.
    """
    try:
        import yaml
    except ImportError:
        raise failure("reading YAML needs PyYAML: pip install pyyaml") from None
    starts, ends = (yaml.SequenceStartEvent, yaml.MappingStartEvent), (yaml.SequenceEndEvent, yaml.MappingEndEvent)
    values, sizes = 0, dict[str, int]()
    opened: list[tuple[str | None, int]] = []  # the anchor of each collection around, and the values before it
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                if any(anchor == event.anchor for anchor, _ in opened):
                    raise failure(f"alias *{event.anchor} stands inside of what it repeats")
                values += sizes.get(str(event.anchor), 1)
            elif isinstance(event, starts):
                opened.append((event.anchor, values))
                values += 1
            elif isinstance(event, ends):
                anchor, before = opened.pop()
                sizes |= {anchor: values - before} if anchor else {}
            elif isinstance(event, yaml.ScalarEvent):
                values += 1
                sizes |= {event.anchor: 1} if event.anchor else {}
            if len(opened) > _YAML_DEPTH or values > _YAML_VALUES:
                line = f" in line {event.start_mark.line + 1}" if event.start_mark is not None else ""
                raise failure(
                    f"expected at most {_YAML_DEPTH} levels and {_YAML_VALUES} values (aliases counted as what they "
                    f"repeat), got more{line}"
                )
        return yaml.safe_load(text)
    except SharposeError:
        raise
    except Exception as error:  # dates, numbers and tags that don't fit break PyYAML's constructors in many ways
        raise failure(f"not valid YAML ({_words(error)})") from error


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def found_at(path: Path) -> str:
    """What stands at a path, for messages: `nothing`, `a folder`, `a file`, `an empty file`, `a special file`."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except OSError as error:
        return f"something that can't be looked at ({error.strerror})"
    if stat.S_ISDIR(status.st_mode):
        return "a folder"
    if not stat.S_ISREG(status.st_mode):
        return "a special file"
    return "a file" if status.st_size else "an empty file"


def _read(path: Path, failure: Callable[[str], SharposeError], limit: int) -> bytearray:
    content = bytearray()
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # 0 for a pipe
            while max(size, len(content)) <= limit and (chunk := file.read(1 << 20)):
                content += chunk
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise failure(one_line(error)) from error
    if max(size, len(content)) > limit:
        raise failure(f"expected at most {limit} bytes, got {size if size > limit else 'more'}")
    return content


def _words(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return f"an integer of more than {_DIGITS}" if _DIGITS in words else words[:300]


_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS)  # what systems say of a folder


def to_disk(path: Path) -> None:
    """Wait until a file's bytes or a folder's names are on the disk. Windows takes care of names itself.

    Raises:
        OSError: it can't be opened, or writing failed. Not for a folder whose file system can't bring names to the
            disk, as those that virtual machines share with their host can't: the files are written all the same.
    """
    if sys.platform == "win32":
        if path.is_dir():
            return
        descriptor = os.open(path, os.O_RDWR | os.O_BINARY)
    else:
        descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Folder of what can be made or downloaded again: `$XDG_CACHE_HOME/sharpose`, or `~/.cache/sharpose`.

    On Windows, `%LOCALAPPDATA%/sharpose` instead of the latter.

    Raises:
        InputError: none is set, and the system knows no home folder of this user.
    """
    bases = [os.environ.get("XDG_CACHE_HOME", "")]
    if sys.platform == "win32":
        bases.append(os.environ.get("LOCALAPPDATA", ""))
    # The XDG specification says to ignore a relative one.
    base = next((Path(base) for base in bases if os.path.isabs(base)), None)  # noqa: PTH117
    if base is None:
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            raise InputError(
                "cache folder: this user has no home folder; set XDG_CACHE_HOME to the full path of a writable folder"
            ) from None
    return base / "sharpose"


def partial_name(path: Path, *, folder: bool = False) -> Path:
    """What the result at `path` is called while a part of it is missing: `out.partial.mp4`, or `out.partial`."""
    return path.with_name(f"{path.name}.partial" if folder else f"{path.stem}.partial{path.suffix}")


def mark_partial(path: Path) -> Path:
    """Renames `out.mp4` to `out.partial.mp4`, replacing one that is there.

    Returns:
        The new path; `path` itself where there is nothing to rename (no file, a device, a pipe).

    Raises:
        SinkError: the file can't be renamed.
    """
    devices = path.is_relative_to("/dev") and not path.is_relative_to("/dev/shm")  # which holds files
    if not path.is_file() or devices or path.is_relative_to("/proc"):
        return path
    partial = partial_name(path)
    try:
        path.replace(partial)
    except OSError as error:
        raise SinkError(f"{path}: expected to rename this incomplete file to {partial}: {error.strerror}") from None
    return partial


def write_all(descriptor: int, data: bytes, position: int | None = None) -> None:
    """Writes all of `data`, at `position` if given, however many calls that takes. Raises `OSError`."""
    view = memoryview(data)
    while view:
        if position is None:
            written = os.write(descriptor, view)
        else:
            if sys.platform == "win32":  # the file's own position moves there
                os.lseek(descriptor, position, os.SEEK_SET)
                written = os.write(descriptor, view)
            else:
                written = os.pwrite(descriptor, view, position)
            position += written
        view = view[written:]


_LOOK_EVERY = 1.0  # seconds between looks at whether the file still has a name


def removed_error(path: Path) -> OutputRemovedError:
    """That somebody removed what is being written."""
    return OutputRemovedError(f"{path}: was removed while it was being written; its results are lost from here on")


class GrowingFile:
    """Bytes that reach the system with every call, in a file that is made, with its folders, at the first one.

    A process killed inside a call may leave the beginning of an entry at the file's end: entries of lines end with a
    newline, so a last line without one is not whole.

    Args:
        path: Where it goes; a file that is there is replaced. May be a pipe or a device; the text `-` is standard
            output.
        clock: Seconds; a removed file is noticed within one.
    """

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stdout = path == STDOUT
        self.path = STDOUT_PATH if self._stdout else Path(path)
        self._clock = clock
        self._descriptor: int | None = None
        self._size = 0
        self._made = False
        self._looked = 0.0
        self._removed = False

    @property
    def made(self) -> bool:
        """Whether anything was written."""
        return self._made

    def append(self, entry: bytes) -> None:
        """Writes `entry`.

        Raises:
            ReaderGoneError: it is standard output, whose reader has gone.
            SinkError: it can't be written, the file then holds the entries before it; or the file was removed.
        """
        try:
            if self._descriptor is None and self._stdout:
                self._descriptor = os.dup(1)
            elif self._descriptor is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = open_to_write(self.path)
                self._looked = self._clock()
            elif not self._stdout and self._clock() - self._looked >= _LOOK_EVERY:
                self._looked = self._clock()
                status = os.fstat(self._descriptor)
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                    self._removed = True
                    raise removed_error(self.path)
            write_all(self._descriptor, entry)
        except OSError as error:
            self._take_back()
            kind = ReaderGoneError if self._stdout and reader_has_gone(error) else SinkError
            raise kind(f"{self.path}: can't be written: {error.strerror}") from None
        self._size += len(entry)
        self._made = True

    def close(self) -> None:
        """Closes the file. May be called twice. Raises `SinkError` where the system reports a late failure."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                os.close(descriptor)
            except OSError as error:
                raise SinkError(f"{self.path}: can't be written: {error.strerror}") from None

    def abandon(self) -> Path | None:
        """Closes the file of a failed run and marks it as partial; its new path, or None where nothing is left."""
        with contextlib.suppress(SinkError):  # what led here was reported
            self.close()
        if not self.made or self._removed:
            return None
        return self.path if self._stdout else mark_partial(self.path)

    def _take_back(self) -> None:
        """Undoes a half-written entry; a pipe can't take anything back."""
        if self._descriptor is None or self._stdout:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            if not self._made and self.path.is_file():
                self.path.unlink()

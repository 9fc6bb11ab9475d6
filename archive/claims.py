"""Results under hidden names: who may write them, how they become whole at once, and what killed runs left.

Beside an output `out/walk.jsonl`, a worker makes the folder `out/.walk.jsonl.unfinished`. It holds a file `owner`,
which names the worker and is locked as long as that lives, and a folder of this attempt's own with what has
been written so far. At the end that is synced and renamed.

A lock that nobody holds proves the owner dead where it ran on this machine. Of other machines, which may share the file
system but not its locks, an owner counts as alive for `LEASE` seconds after it has last touched its file. A file that
names nobody is of a worker that was killed in between.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import threading
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sharpose.errors import OutputTakenError, SinkError, one_line
from sharpose.file_locks import lock_now
from sharpose.files import UNFINISHED, partial_name, to_disk, write_all
from sharpose.runtime.sinks.outputs import Output

LEASE = 180.0
"""Seconds; NFS may show another machine's touch a minute late."""
_UNNAMED = 10.0  # seconds that an owner has to say who it is: its first act, which is brought to the disk
_TOUCH_EVERY = 20.0  # seconds
_OWNER = "owner"


@cache
def _machine() -> str:
    """Of the running kernel: the containers on a machine share its locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def identity() -> str:
    """What an `owner` file says of this process: its machine, host name and process id."""
    return f"{_machine()} {platform.node()} {os.getpid()}"


def hidden_folder(output: Output) -> Path:
    """Where an output is written."""
    path = Path(output.target)
    return path.with_name(f".{path.name}{UNFINISHED}")


@dataclass(frozen=True)
class _Place:
    """An output that this process may write: `lock`, a descriptor of the owner's file, and the attempt's folder."""

    output: Output
    lock: int
    owner: str
    attempt: Path

    @property
    def target(self) -> Path:
        return Path(self.output.target)

    @property
    def written(self) -> Path:
        return self.attempt / self.target.name

    @property
    def is_ours(self) -> bool:
        """Whether no other run has taken this process for dead."""
        try:
            return (self.attempt.parent / _OWNER).read_text("utf-8") == self.owner
        except OSError:
            return False

    @property
    def partial(self) -> Path:
        return partial_name(self.target, folder=self.output.is_folder)


class Claim:
    """The outputs of a video that this process writes and nobody else; from `claim`."""

    def __init__(self, places: Sequence[_Place]) -> None:
        self._places = places

    @property
    def hidden(self) -> tuple[tuple[str, str], ...]:
        """Option and target of each output, as `RunOptions.outputs`, under its hidden name."""
        return tuple((place.output.option, str(place.written)) for place in self._places)

    def publish(self) -> None:
        """Bring the outputs to the disk and give them their names; earlier partial ones are removed.

        Raises:
            SinkError: one isn't there or can't be written.
            OutputTakenError: another run has taken this one for dead, and the outputs over.
        """
        try:
            for place in self._places:
                if not place.written.exists():
                    raise SinkError(f"{place.target}: nothing was written")
                _sync_tree(place.written)
            for place in self._places:
                if not place.is_ours:
                    raise OutputTakenError(f"{place.target}: another run has taken it over")
                if place.output.is_folder and place.target.is_dir():
                    place.target.rmdir()  # an empty one
                place.written.replace(place.target)
                _remove(place.partial)
            for folder in {place.target.parent for place in self._places}:
                to_disk(folder)
        except OSError as error:
            raise SinkError(f"{place.target}: can't be written: {one_line(error)}") from None

    def keep_partial(self) -> tuple[str, ...]:
        """Keep what was written under names that say it is partial, in the place of an earlier such one.

        Returns:
            Those names.

        Raises:
            SinkError: one can't be renamed.
        """
        kept = []
        for place in self._places:
            found = [path for path in (place.written, place.attempt / place.partial.name) if _holds_something(path)]
            for path in found[:1]:
                try:
                    _remove(place.partial)
                    path.replace(place.partial)
                except OSError as error:
                    raise SinkError(f"{place.partial}: can't be written: {one_line(error)}") from None
                kept.append(str(place.partial))
        return tuple(kept)

    def named(self, line: str) -> str:
        """A message with the outputs' own names in place of the hidden ones."""
        for place in self._places:
            parent = str(place.target.parent)
            line = line.replace(f"{place.attempt}{os.sep}", "" if parent == "." else f"{parent}{os.sep}")
        return line

    def __enter__(self) -> Claim:
        self._over = threading.Event()
        self._toucher = threading.Thread(target=self._touch, name="touch", daemon=True)
        self._toucher.start()
        return self

    def __exit__(self, *failure: object) -> None:
        """Remove the hidden folders with all that was not published, and let others write the outputs."""
        self._over.set()
        self._toucher.join()
        for place in self._places:
            _release(place)

    def _touch(self) -> None:
        while not self._over.wait(_TOUCH_EVERY):
            for place in self._places:
                with contextlib.suppress(OSError):
                    if sys.platform == "win32":  # which doesn't touch open files
                        os.utime(place.attempt.parent / _OWNER)
                    else:  # its own, whoever has taken its place meanwhile
                        os.utime(place.lock)


def claim(outputs: Sequence[Output], dead: Collection[str] = ()) -> Claim:
    """Take outputs that nobody is writing; what killed workers left there is removed.

    Args:
        outputs: Of one video.
        dead: Identities of workers that are known to be dead.

    Raises:
        OutputTakenError: another worker is writing one.
        SinkError: a hidden folder can't be made.
    """
    places: list[_Place] = []
    try:
        for output in outputs:
            places.append(_take(output, dead))
    except BaseException as error:
        for place in places:
            _release(place)
        if isinstance(error, OSError):
            raise SinkError(f"{output.target}: can't be written: {one_line(error)}") from None
        raise
    return Claim(places)


def sweep(outputs: Sequence[Output], dead: Collection[str] = ()) -> list[Path]:
    """Remove what killed workers left of these outputs; not what a worker that is alive is writing.

    Args:
        outputs: Of one video or more.
        dead: Identities of workers that are known to be dead.

    Returns:
        The hidden folders that were removed.
    """
    removed = []
    for output in outputs:
        folder = hidden_folder(output)
        if folder.is_dir():
            with contextlib.suppress(OutputTakenError, OSError):
                _release(_take(output, dead))
                removed.append(folder)
    return removed


def _take(output: Output, dead: Collection[str]) -> _Place:
    folder = hidden_folder(output)
    while True:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        lock = _lock(folder, output, dead)
        if lock is not None:
            break
    try:
        owner = f"{identity()} {uuid.uuid4().hex}"
        os.ftruncate(lock, 0)
        write_all(lock, owner.encode(), 0)
        os.fsync(lock)  # other machines see it only then
        for leftover in folder.iterdir():
            if leftover.name != _OWNER:
                _remove(leftover)
        attempt = folder / owner.rpartition(" ")[2]
        attempt.mkdir()
    except BaseException:  # a full disk, for example
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        raise
    return _Place(output, lock, owner, attempt)


def _lock(folder: Path, output: Output, dead: Collection[str]) -> int | None:
    """Descriptor of the owner's file, locked; None where another run has just removed that.

    Raises:
        OutputTakenError: its owner is alive.
    """
    path, flags = folder / _OWNER, os.O_RDWR
    try:
        try:
            lock, is_new = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            lock, is_new = os.open(path, flags), False
    except FileNotFoundError:
        return None
    try:
        os.lseek(lock, 0, os.SEEK_SET)
        owner = os.read(lock, 1000).decode(errors="replace")
        machine, host, process, *_ = [*owner.split(" "), "", "", ""]
        who = f"process {process} on {host}" if owner else "which is just beginning"
        taken = OutputTakenError(f"{output.target}: is being written by another run, {who}")
        locks = True
        try:
            lock_now(lock)
        except BlockingIOError:
            raise taken from None
        except OSError:  # the file system has none
            locks = False
        known_dead = (locks and machine == _machine()) or owner.rpartition(" ")[0] in dead
        if not (is_new or known_dead) and _seconds_since_touch(lock, folder) < (LEASE if owner else _UNNAMED):
            raise taken
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _seconds_since_touch(lock: int, folder: Path) -> float:
    """By the clock of the file system's server, which also stamped the touch."""
    os.utime(folder)
    return folder.stat().st_mtime - os.fstat(lock).st_mtime


def _release(place: _Place) -> None:
    folder = place.attempt.parent
    with contextlib.suppress(OSError):
        if place.is_ours:
            for path in folder.iterdir():
                if path.name != _OWNER:
                    _remove(path)
            if sys.platform != "win32":
                (folder / _OWNER).unlink()
    os.close(place.lock)
    if sys.platform == "win32":  # an open file can't be removed there, so not one that another run takes over now
        with contextlib.suppress(OSError):
            (folder / _OWNER).unlink()
    with contextlib.suppress(OSError):  # NFS keeps a removed file there until it is closed
        folder.rmdir()


def _remove(path: Path) -> None:
    """Remove a file or folder; one that isn't there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _holds_something(path: Path) -> bool:
    """Whether there is a file that isn't empty, as it is on a full disk, or a folder with such a file."""
    return any(one.is_file() and one.stat().st_size for one in _tree(path))


def _sync_tree(path: Path) -> None:
    for one in _tree(path):
        to_disk(one)


def _tree(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from path.iterdir()
    yield path

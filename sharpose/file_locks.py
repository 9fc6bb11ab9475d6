"""Locks that keep two runs from writing one file or folder: `flock`, and on Windows a lock of one byte.

Each is on what is written itself, and the system lets go of it when the process ends, however it ends. `filelock` and
`portalocker` lock open files too, but on Windows both take the first byte, and nobody could read a result that grows.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sharpose.errors import EngineError, OutputTakenError, SharposeError

_FOLDERS_LOCK = ".held"  # Windows can't lock a folder, but a file in it

if sys.platform == "win32":
    import msvcrt

    # Nobody else can read or write a byte that is locked there, so it is one that no file has. That can be locked.
    _FAR = (1 << 43) - 2
    _LOOK_EVERY = 0.05  # seconds between attempts, while waiting: Windows' own wait gives up after ten
    _WRITE = os.O_WRONLY | os.O_BINARY  # else a newline becomes two bytes

    def lock_now(descriptor: int, *, shared: bool = False) -> None:
        """Lock an open file until its descriptor is closed; `shared` or not, as `msvcrt` has one kind of lock.

        Raises:
            BlockingIOError: another descriptor, of this process or another one, has the lock.
            OSError: its file system has no locks.
        """
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(error.errno, error.strerror) from None
        finally:
            os.lseek(descriptor, position, os.SEEK_SET)

    def _wait_for_lock(descriptor: int) -> None:
        while True:
            try:
                return lock_now(descriptor)
            except BlockingIOError:
                time.sleep(_LOOK_EVERY)

    def _open_folder(path: Path) -> int:
        return os.open(path / _FOLDERS_LOCK, os.O_RDWR | os.O_CREAT | os.O_BINARY, 0o666)

    def _open_to_look(path: Path) -> int:
        return os.open(path / _FOLDERS_LOCK if path.is_dir() else path, os.O_RDONLY | os.O_BINARY)
else:
    import fcntl

    _WRITE = os.O_WRONLY

    def lock_now(descriptor: int, *, shared: bool = False) -> None:
        """Lock an open file or folder until its descriptor is closed.

        Args:
            descriptor: Of the file or folder; over NFS, open for writing, unless the lock is shared.
            shared: Whether others may lock it so as well.

        Raises:
            BlockingIOError: another descriptor, of this process or another one, has the lock.
            OSError: its file system has no locks.
        """
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)

    def _wait_for_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def _open_folder(path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def _open_to_look(path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # which doesn't wait for a pipe's writer


@contextlib.contextmanager
def file_lock(
    path: Path,
    on_wait: Callable[[], None] = lambda: None,
    failure: Callable[[str], SharposeError] | None = None,
) -> Iterator[None]:
    """Hold an exclusive lock on a file, which stays there: removing it would let two in.

    Args:
        path: The lock's file, made if need be; its folder must be there.
        on_wait: Called once if another process holds it.
        failure: Makes the error from its reason; an `EngineError` about the engine cache if None.

    Raises:
        SharposeError: the file can't be made, or its file system has no locks.
    """
    failure = failure or (lambda reason: EngineError(f"lock {path}: {reason}; give a writable --engine-cache"))
    try:
        file = path.open("ab")
    except OSError as error:
        raise failure(f"can't be made ({error.strerror})") from error
    with file:
        try:
            lock_now(file.fileno())
        except BlockingIOError:
            on_wait()
            _wait_for_lock(file.fileno())
        except OSError as error:
            raise failure(f"its file system has no locks ({error.strerror})") from error
        yield


def hold(descriptor: int, path: Path, *, shared: bool = False) -> None:
    """Locks an open file against other runs that would write it, until its descriptor is closed.

    The system lets go of it when the process is killed. A file system without locks is no error.

    Args:
        descriptor: Of the file.
        path: What an error calls it.
        shared: Whether others may hold it so as well.

    Raises:
        OutputTakenError: another run holds `path`.
    """
    try:
        lock_now(descriptor, shared=shared)
    except BlockingIOError:
        raise OutputTakenError(
            f"{path}: is being written by another run; give another name, or wait until that has ended"
        ) from None
    except OSError:  # its file system has no locks
        pass


@dataclass(frozen=True)
class HeldFolder:
    """A folder into which no other run writes until it is closed; from `hold_folder`."""

    path: Path
    descriptor: int

    def close(self) -> None:
        """Let others write there; once."""
        os.close(self.descriptor)
        if sys.platform == "win32":  # an open file can't be removed there, so not one that another run has taken
            with contextlib.suppress(OSError):
                (self.path / _FOLDERS_LOCK).unlink()


def hold_folder(path: Path) -> HeldFolder:
    """Hold a folder, which is there, against other runs that would write into it; see `hold`.

    Raises:
        OSError: it can't be opened.
        OutputTakenError: another run holds it.
    """
    descriptor = _open_folder(path)
    try:
        hold(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return HeldFolder(path, descriptor)


def check_not_held(path: Path) -> None:
    """Raises `OutputTakenError` where another run is writing the file or folder; one that isn't there is fine.

    Any number of runs may look at the same time, as the shards of an archive do.
    """
    with contextlib.suppress(OSError):
        descriptor = _open_to_look(path)
        try:
            if stat.S_IFMT(os.fstat(descriptor).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
                hold(descriptor, path, shared=True)
        finally:
            os.close(descriptor)


def open_to_write(path: Path, named: Path | None = None) -> int:
    """Descriptor of a file to write, made or emptied, that is held until it is closed; a pipe or a device isn't held.

    Args:
        path: The file, in a folder that is there.
        named: What an error calls it; `path` if None.

    Raises:
        OSError: it can't be opened.
        OutputTakenError: another run is writing it.
    """
    while True:
        descriptor = os.open(path, _WRITE | os.O_CREAT, 0o666)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return descriptor
            hold(descriptor, named or path)
            with contextlib.suppress(FileNotFoundError):
                # Else another run has just ended and renamed it.
                if os.path.samestat(status, path.stat()):
                    os.ftruncate(descriptor, 0)
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)

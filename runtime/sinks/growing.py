"""A file that grows by whole entries: an entry that can't be written leaves no half of it behind."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from sharpose.errors import SinkError
from sharpose.runtime.sinks.partial import mark_partial

__all__ = ["GrowingFile", "removed_error"]

_LOOK_EVERY = 1.0  # seconds between looks at whether the file still has a name


def removed_error(path: Path) -> SinkError:
    """That somebody removed what is being written."""
    return SinkError(f"{path}: was removed while it was being written; its results are lost from here on")


class GrowingFile:
    """Bytes that reach the system with every call, in a file that is made, with its folders, at the first one.

    A process killed inside a call may leave the beginning of an entry at the file's end: entries of lines end with a
    newline, so a last line without one is not whole.

    Args:
        path: Where it goes; a file that is there is replaced. May be a pipe or a device.
        clock: Seconds; a removed file is noticed within one.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
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
            SinkError: it can't be written, the file then holds the entries before it; or the file was removed.
        """
        try:
            if self._descriptor is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
                self._looked = self._clock()
            elif self._clock() - self._looked >= _LOOK_EVERY:
                self._looked = self._clock()
                self._check_name()
            self._write(entry)
        except OSError as error:
            self._take_back()
            raise SinkError(f"{self.path}: can't be written: {error.strerror}") from None
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
        return mark_partial(self.path) if self.made and not self._removed else None

    def _check_name(self) -> None:
        assert self._descriptor is not None
        status = os.fstat(self._descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
            self._removed = True
            raise removed_error(self.path)

    def _write(self, data: bytes) -> None:
        assert self._descriptor is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def _take_back(self) -> None:
        """Undoes a half-written entry; a pipe can't take anything back."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            if not self._made and self.path.is_file():
                self.path.unlink()

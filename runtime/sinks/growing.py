"""A file that grows by whole entries: an entry that can't be written leaves no half of it behind."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from sharpose.errors import SinkError

__all__ = ["GrowingFile"]


class GrowingFile:
    """Bytes that reach the system with every call, in a file that is made, with its folders, at the first one.

    Args:
        path: Where it goes; a file that is there is replaced.
        tail: What always stands after the last entry; the next entry takes its place. Needs a file, not a pipe.
    """

    def __init__(self, path: Path, *, tail: bytes = b"") -> None:
        self.path = path
        self._tail = tail
        self._descriptor: int | None = None
        self._size = 0  # of the entries, without the tail

    @property
    def made(self) -> bool:
        """Whether anything was written."""
        return self._size > 0

    def append(self, entry: bytes) -> None:
        """Writes `entry`, and the tail after it.

        Raises:
            SinkError: it can't be written; the file then holds the entries before it.
        """
        try:
            if self._descriptor is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            if self._tail:
                os.lseek(self._descriptor, self._size, os.SEEK_SET)
            self._write(entry + self._tail)
        except OSError as error:
            self._take_back()
            raise SinkError(f"{self.path}: can't be written: {error.strerror}") from None
        self._size += len(entry)

    def close(self) -> None:
        """Closes the file. May be called twice. Raises `SinkError` where the system reports a late failure."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                os.close(descriptor)
            except OSError as error:
                raise SinkError(f"{self.path}: can't be written: {error.strerror}") from None

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
            if self._size:
                self._write(self._tail)
            elif self.path.is_file():
                self.path.unlink()

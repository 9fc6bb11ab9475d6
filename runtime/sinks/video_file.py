"""The file that FFmpeg's muxers write to, in our own hands: it grows by whole pieces and notices its removal."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

from sharpose.errors import SinkError
from sharpose.runtime.sinks.growing import removed_error

__all__ = ["VideoFile"]

_LOOK_EVERY = 1.0  # seconds
_BOX_HEADER = 8  # bytes: size and name


class VideoFile:
    """A new file as PyAV wants it: `write`, and `seek` and `tell` where it is no pipe.

    What the muxer writes waits for `commit`, which makes it part of the file in one step, whenever the process is
    killed: an MP4 is a row of boxes, and readers skip one called `free`, even where its end is missing. So a piece is
    written as one such box, and then, in eight bytes, gets its own first header.

    A write that failed is remembered: nothing after it reaches the file, so that the muxer, when it is closed, can't
    announce an index that there was no room for.

    Args:
        path: Made, with its folders; a file that is there is replaced.
        boxes: Whether it consists of boxes (MP4, MOV).
        clock: Seconds; a removed file is noticed within one.

    Attributes:
        error: The first failure, or None.
        removed: Whether somebody removed the file.

    Raises:
        OSError: it can't be made.
    """

    def __init__(self, path: Path, *, boxes: bool, clock: Callable[[], float] = time.monotonic) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.name = str(path)  # PyAV reads it
        self.error: OSError | None = None
        self.removed = False
        self._path = path
        self._boxes = boxes
        self._waiting = bytearray()
        self._position = 0
        self._clock = clock
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._looked = clock()
        self._whole = 0

    def seekable(self) -> bool:
        """Whether it is a file, not a pipe or a device."""
        return self._regular

    def write(self, data: bytes) -> int:
        """Keeps `data` for `commit`."""
        self._waiting += data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to `offset`, after all before it was written; where that fails, the next `commit` says so."""
        with contextlib.suppress(OSError, SinkError):  # PyAV would print it
            self.commit()
        self._position = os.lseek(self._descriptor, offset, whence)
        return self._position

    def tell(self) -> int:
        """The offset."""
        return self._position + len(self._waiting)

    def commit(self) -> None:
        """Writes what waits. Raises `OSError`, and `SinkError` where the file was removed."""
        data, self._waiting = bytes(self._waiting), bytearray()
        if self.removed:
            raise removed_error(self._path)
        if self.error is not None:
            raise self.error
        try:
            if not self._regular:
                self._write(data, None)
            elif self._boxes and self._position == self._whole and len(data) > _BOX_HEADER:
                self._write(struct.pack(">I4s", len(data), b"free") + data[_BOX_HEADER:], self._position)
                self._write(data[:_BOX_HEADER], self._position)
            else:
                self._write(data, self._position)
        except OSError as error:
            self.error = error
            raise
        self._position += len(data)
        self._whole = max(self._whole, self._position)
        if self._regular and self._clock() - self._looked >= _LOOK_EVERY:
            self._looked = self._clock()
            if os.fstat(self._descriptor).st_nlink == 0:
                self.removed = True
                raise removed_error(self._path)

    def take_back(self) -> None:
        """Cuts off what was written since it was last whole, and refuses any more."""
        if self.error is None:
            self.error = OSError(0, "the file was given up")
        if self._regular:
            self._waiting.clear()
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._whole)

    def close(self) -> None:
        """Closes it; what waits is lost. May be called twice. Raises `OSError`."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _write(self, data: bytes, position: int | None) -> None:
        view = memoryview(data)
        while view:
            if position is None:
                written = os.write(self._descriptor, view)
            else:
                written = os.pwrite(self._descriptor, view, position)
                position += written
            view = view[written:]

    def failure(self, what: str, error: Exception) -> SinkError:
        """`error`, in one line, as `what` that can't be written."""
        cause = self.error if self.error is not None and self.error.errno else error
        why = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        return SinkError(f"{self._path}: {what} can't be written: {why}")

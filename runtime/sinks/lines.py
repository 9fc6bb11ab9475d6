"""What the sinks that write lines of text have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.sinks.growing import GrowingFile

__all__ = ["LineSink"]


class LineSink(ABC):
    """A file that gets the lines of a frame in one write, so that a kill loses none that was written before.

    Args:
        path: The file, or a pipe. Without a record it is never made.
        clock: Seconds; a file that was removed is noticed within one.
    """

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = Path(path)
        self.name = str(self.path)
        self._file = GrowingFile(self.path, clock=clock)
        self._begun = False

    def write(self, record: FrameRecord) -> None:
        """Adds the frame's lines. Raises `SinkError` where they can't be written or a number is not finite."""
        text = self.lines(record)
        if not self._begun:
            text = self.header() + text
        if text or not self._begun:
            self._file.append(text)
        self._begun = True

    def close(self) -> None:
        """Closes the file. May be called twice."""
        self._file.close()

    def abandon(self) -> Path | None:
        """Closes the file of a failed run and marks it as partial; its new path, or None where nothing was written."""
        return self._file.abandon()

    def header(self) -> bytes:
        """What stands before the first line."""
        return b""

    @abstractmethod
    def lines(self, record: FrameRecord) -> bytes:
        """The lines of one frame, each with its end."""

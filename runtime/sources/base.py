"""What sources have in common: trimming, and keeping OpenCV's libraries off the user's terminal."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import cv2

from sharpose.runtime.frames import Frame, Source

__all__ = ["TrimmedSource", "captured_complaints", "quiet_log"]


class TrimmedSource:
    """Another source's frames from `start` on, for `duration` seconds, and every `stride`-th of them.

    Frames keep their index and time.

    Args:
        source: Where they come from; closed with this one.
        stride: Every how many-th to take.
        start: Seconds to leave out.
        duration: Seconds to take; all if None.

    Attributes:
        progress: Frames that were read, also those that were left out.
    """

    def __init__(self, source: Source, *, stride: int = 1, start: float = 0.0, duration: float | None = None) -> None:
        self._source = source
        self._stride = stride
        self._start = start
        self._duration = duration
        self.progress = 0
        count, rate = source.info.frame_count, source.info.frame_rate
        whole = start == 0.0 and duration is None and count is not None
        self.info = replace(  # image_ids stay those of all frames: a boxes file may have the skipped ones too
            source.info,
            frame_count=-(-(count or 0) // stride) if whole else None,
            frame_rate=None if rate is None else rate / stride,
        )

    def __iter__(self) -> Iterator[Frame]:
        """The frames. Raises what the source raises."""
        taken = 0
        for frame in self._source:
            self.progress += 1
            if frame.time < self._start:
                continue
            if self._duration is not None and frame.time >= self._start + self._duration:
                return
            if taken % self._stride == 0:
                yield frame
            taken += 1

    def close(self) -> None:
        """Closes the source."""
        self._source.close()


_opencv_log: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 has it in a module of its own
_SILENT = 0
_capturing = threading.Lock()
_COMPLAINTS = (
    "Corrupt JPEG data",
    "Premature end of JPEG",
    "Unsupported marker",
    "Invalid SOS",
    "Warning: ",
    "libpng ",
)


@contextmanager
def quiet_log() -> Iterator[None]:
    """Silences OpenCV's own log."""
    level = _opencv_log.getLogLevel()
    _opencv_log.setLogLevel(_SILENT)
    try:
        yield
    finally:
        _opencv_log.setLogLevel(level)


@contextmanager
def captured_complaints() -> Iterator[list[str]]:
    """Catches what libjpeg and libpng write straight to the process's standard error.

    Yields:
        A list that is filled, at the end, with their lines. Whatever else was written to standard error meanwhile (by
        other threads) is passed on then.
    """
    complaints: list[str] = []
    with _capturing:
        try:
            captured = tempfile.TemporaryFile()  # noqa: SIM115
            terminal = os.dup(2)
        except OSError:  # nowhere to write, or standard error is closed: their lines stay where they go
            yield complaints
            return
        with captured:
            os.dup2(captured.fileno(), 2)
            try:
                yield complaints
            finally:
                os.dup2(terminal, 2)
                captured.seek(0)
                for line in captured.read().splitlines(keepends=True):
                    text = line.decode(errors="replace").rstrip()
                    if text.startswith(_COMPLAINTS):
                        complaints.append(text)
                    else:
                        os.write(terminal, line)
                os.close(terminal)

"""Keeping the libraries inside OpenCV from writing to the user's terminal."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2

__all__ = ["captured_complaints", "quiet_log"]

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

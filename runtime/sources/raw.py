"""Raw frames on standard input, as FFmpeg's `-f rawvideo -pix_fmt bgr24` writes them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator

import numpy as np

from sharpose.errors import InputError, SourceError, counted
from sharpose.runtime.frames import Frame, SourceInfo

_DEFAULT_RATE = 25.0  # FFmpeg's own default


class RawSource:
    """Frames of height · width · 3 bytes, BGR, one after the other.

    Args:
        size: Height and width in pixels; None is an error that says how to give it.
        rate: Frames per second; 25 if None.
        descriptor: The file to read; standard input if None. It stays open.

    Raises:
        InputError: the size was not given.
        SourceError: standard input is a terminal or closed.
    """

    def __init__(
        self, size: tuple[int, int] | None, rate: float | None = None, *, descriptor: int | None = None
    ) -> None:
        self.info = SourceInfo("standard input", frame_rate=rate or _DEFAULT_RATE)
        if size is None:
            raise InputError(
                "standard input holds raw frames without a header: give --stdin-size HEIGHTxWIDTH (and --stdin-rate), "
                "as in `ffmpeg -i VIDEO -f rawvideo -pix_fmt bgr24 - | sharpose-run - --stdin-size 720x1280 …`"
            )
        try:
            descriptor = sys.__stdin__.fileno() if descriptor is None and sys.__stdin__ else descriptor
        except (OSError, ValueError):
            descriptor = None
        if descriptor is None:
            raise SourceError(f"{self.info.name}: expected raw frames, but it is closed")
        if os.isatty(descriptor):
            raise SourceError(f"{self.info.name}: expected raw frames through a pipe, but it is a terminal")
        try:  # not sys.stdin: a thread that waits in it holds its lock when Python ends
            self._file = io.FileIO(descriptor, closefd=False)
        except OSError as error:  # a folder
            raise SourceError(f"{self.info.name}: can't be read: {error.strerror}") from None
        self._size = size
        self._step = 1.0 / (rate or _DEFAULT_RATE)
        self._closed = False

    def __iter__(self) -> Iterator[Frame]:
        """The frames. Raises `SourceError` where there is not one whole frame, or reading fails."""
        index = 0
        height, width = self._size
        while not self._closed:
            image = np.empty((height, width, 3), np.uint8)
            filled = self._fill(image.data.cast("B"))
            if filled < image.nbytes:
                what = f"{filled} of the {image.nbytes} bytes of a {height}x{width} frame"
                if index == 0:
                    raise SourceError(f"{self.info.name}: expected raw frames, but it ended after {what}")
                if filled:
                    self.info.warnings.append(
                        f"{self.info.name}: cut off after {counted(index, 'frame')} and {what}; is --stdin-size right?"
                    )
                return
            yield Frame(image, index, index * self._step, index)
            index += 1

    def close(self) -> None:
        """Stop reading."""
        self._closed = True

    def _fill(self, target: memoryview) -> int:
        """Fill `target` as far as there is input; the number of bytes read."""
        filled = 0
        while filled < len(target):
            try:
                count = self._file.readinto(target[filled:])
            except OSError as error:
                raise SourceError(f"{self.info.name}: can't be read: {error.strerror}") from None
            if count is None:
                raise SourceError(f"{self.info.name}: can't be read: it doesn't wait for data (O_NONBLOCK)")
            if count == 0:
                break
            filled += count
        return filled

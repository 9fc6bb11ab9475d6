"""The annotated pictures as JPEG or PNG files, one a frame."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from sharpose.errors import InputError, SinkError
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.sinks.folder import ResultFolder

__all__ = ["PICTURE_FORMATS", "PicturesSink"]

PICTURE_FORMATS = {
    "jpg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    "png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
}
"""The kinds of pictures that can be written, with OpenCV's parameters for them."""


class PicturesSink:
    """Writes `STEM_000000000000.jpg`, or `.png`, a file a frame.

    Args:
        path: The folder.
        stem: What file names begin with.
        kind: One of `PICTURE_FORMATS`.

    Raises:
        InputError: another kind, or the folder holds such files already.
    """

    def __init__(self, path: str | Path, *, stem: str, kind: str = "jpg") -> None:
        if kind not in PICTURE_FORMATS:
            raise InputError(f"expected pictures of the kind {' or '.join(PICTURE_FORMATS)}, got {kind!r}")
        self._kind = kind
        self._folder = ResultFolder(path, stem=stem, ending=f".{kind}")
        self.path = Path(path)
        self.name = str(self.path)

    def write(self, record: FrameRecord) -> None:
        """Writes the frame's picture. Raises `SinkError` where it can't be encoded or written."""
        try:
            done, encoded = cv2.imencode(f".{self._kind}", record.picture, PICTURE_FORMATS[self._kind])
        except cv2.error as error:
            done, encoded = False, np.zeros(0, np.uint8)
            why = f": {error.err}"
        else:
            why = ""
        if not done:
            height, width = record.picture.shape[:2]
            raise SinkError(f"{self.path}: a picture of {width}x{height} can't be made a {self._kind}{why}")
        self._folder.write(record.frame.index, encoded.tobytes())

    def close(self) -> None:
        """Does nothing: every file is whole. May be called twice."""

    def abandon(self) -> Path | None:
        """Marks the folder of a failed run as partial; its new path, or None where nothing was written."""
        return self._folder.abandon()

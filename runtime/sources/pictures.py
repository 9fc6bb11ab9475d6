"""Frames of picture files: one file, a folder, or a glob."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from sharpose.errors import SourceError
from sharpose.runtime.frames import Frame, Image, SourceHealth
from sharpose.runtime.sources.picture_files import find_pictures, image_ids_of
from sharpose.runtime.sources.stderr import captured_complaints, quiet_log

__all__ = ["PictureSource", "read_picture"]


class PictureSource:
    """Picture files in natural order, one a second.

    Args:
        spec: A picture file, a folder (not its subfolders), or a glob (`**` reaches into subfolders).

    Attributes:
        paths: The files, in order.
        frame_rate: 1.

    Raises:
        SourceError: there is no picture, or two would have the same image id.
    """

    def __init__(self, spec: str) -> None:
        self.name = spec
        self.paths = find_pictures(spec)
        self._ids = image_ids_of(self.paths)
        self.frame_count: int | None = len(self.paths)
        self.image_ids: frozenset[int] | None = frozenset(self._ids)
        self.warnings: list[str] = []
        self.live = False
        self.health = SourceHealth()
        self.frame_rate: float | None = 1.0

    def __iter__(self) -> Iterator[Frame]:
        """The pictures. Raises `SourceError` at the first that can't be read."""
        for index, (path, image_id) in enumerate(zip(self.paths, self._ids, strict=True)):
            image, complaint = _decode(path)
            if complaint is not None:
                self.warnings.append(f"{path}: may be damaged ({complaint})")
            yield Frame(image, index, float(index), image_id)

    def close(self) -> None:
        """Nothing stays open between pictures."""


def read_picture(path: Path) -> Image:
    """Reads a picture: uint8 [H, W, 3], BGR, upright; grey, 16-bit, CMYK and transparent ones are converted.

    Raises:
        SourceError: the file can't be read, or not as a picture.
    """
    return _decode(path)[0]


def _decode(path: Path) -> tuple[Image, str | None]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: expected a picture that can be read: {error.strerror}") from None
    if not data:
        raise SourceError(f"{path}: expected a picture, found an empty file")
    image = None
    with quiet_log(), captured_complaints() as complaints:
        # Not imread: it can't open every name on every system. EXIF orientation is applied here too.
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as error:
            complaints.append(str(error.err))
    if image is None:
        why = f" ({complaints[0]})" if complaints else ""
        raise SourceError(f"{path}: expected a picture, but it can't be decoded as one{why}; is it damaged?")
    if _is_cut_jpeg(data):  # OpenCV 4 fills what is missing with grey and says nothing
        complaints.append("it ends early")
    return np.ascontiguousarray(image, dtype=np.uint8), complaints[0] if complaints else None


def _is_cut_jpeg(data: bytes) -> bool:
    """Whether a JPEG's last scan has no end; neither marker can occur inside a scan."""
    return data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")

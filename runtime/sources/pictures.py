"""Frames of picture files: one file, a folder, or a glob."""

from __future__ import annotations

import glob
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sharpose.errors import SourceError
from sharpose.runtime.frames import Frame, Image, SourceInfo

__all__ = ["PictureSource", "captured_complaints", "is_picture", "quiet_opencv", "read_picture"]

_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".ts", ".mts", ".mpg", ".mpeg", ".wmv"))
_EXPECTED = "expected pictures (" + " ".join(suffix[1:] for suffix in _PICTURE_SUFFIXES) + ")"


def is_picture(path: Path) -> bool:
    """Whether the name ends like a picture's and isn't hidden (`._1.jpg` is a macOS leftover, no picture)."""
    return path.suffix.lower() in _PICTURE_SUFFIXES and not path.name.startswith(".")


class PictureSource:
    """Picture files in natural order (2 before 10), one per second.

    A frame's `image_id` is the file's stem where that is all digits, else its index, or a number that is free where
    a stem has that already. Where two stems are the same number, all ids are indices.

    Args:
        spec: A picture file, a folder (not its subfolders), or a glob (`**` reaches into subfolders).

    Attributes:
        paths: The files, in order.

    Raises:
        SourceError: there is no picture.
    """

    def __init__(self, spec: str) -> None:
        self.paths = _find_pictures(spec)
        self._ids, note = _number(self.paths)
        pictures = dict(zip(self.paths, self._ids, strict=True))
        ids = frozenset(self._ids)
        self.info = SourceInfo(spec, len(self.paths), frame_rate=1.0, image_ids=ids, pictures=pictures, id_note=note)

    def __iter__(self) -> Iterator[Frame]:
        """The pictures. Raises `SourceError` at the first that can't be read."""
        for index, (path, image_id) in enumerate(zip(self.paths, self._ids, strict=True)):
            image, complaint = read_picture(path)
            if complaint is not None:
                self.info.warnings.append(f"{path}: may be damaged ({complaint})")
            yield Frame(image, index, float(index), image_id)

    def close(self) -> None:
        """Nothing stays open between pictures."""


def _number(paths: list[Path]) -> tuple[list[int], str | None]:
    """Image ids, no two alike, and a line about those that are not what a name or a position says."""
    stems = [int(path.stem) if re.fullmatch("[0-9]+", path.stem) else None for path in paths]
    owners: dict[int, Path] = {}
    for path, stem in zip(paths, stems, strict=True):
        if stem is not None and owners.setdefault(stem, path) is not path:
            note = f"{owners[stem]} and {path} have the same number: image ids are positions, from 0"
            return list(range(len(paths))), note
    free = max([len(paths) - 1, *owners])
    ids, moved = [], []
    for index, (path, stem) in enumerate(zip(paths, stems, strict=True)):
        number = index if stem is None else stem
        if stem is None and index in owners:
            number = free = free + 1
            moved.append(f"{path} has the image id {number}, as {owners[index]} has its position {index}")
        ids.append(number)
    more = f" (and {len(moved) - 1} more)" if len(moved) > 1 else ""
    return ids, moved[0] + more if moved else None


def _find_pictures(spec: str) -> list[Path]:
    path = Path(spec)
    if path.is_dir():
        try:
            found = [entry for entry in path.iterdir() if entry.is_file()]
        except OSError as error:
            raise SourceError(f"{spec}: expected a folder of pictures that can be read: {error.strerror}") from None
        where = "the folder holds"
    elif path.is_file():
        found, where = [path], "this is"
    else:
        matches = map(Path, glob.glob(spec, recursive=True))  # noqa: PTH207 (Path.glob refuses absolute patterns)
        found = [match for match in matches if match.is_file()]
        where = "the glob matches"
    pictures = sorted(filter(is_picture, found), key=_natural_key)
    if not pictures:
        raise SourceError(f"{spec}: {_EXPECTED}, but {where} {_describe(found)}")
    return pictures


def _natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split("([0-9]+)", str(path))
    return [(1, int(part), "") if index % 2 else (0, 0, part) for index, part in enumerate(parts)], str(path)


def _describe(found: list[Path]) -> str:
    if not found:
        return "no file"
    videos = sum(path.suffix.lower() in _VIDEO_SUFFIXES for path in found)
    if videos:
        return f"{videos} video{'s'[: videos > 1]}; give one video file at a time"
    suffixes = sorted({path.suffix.lower() or "no suffix" for path in found})
    return f"{len(found)} other file{'s'[: len(found) > 1]} ({', '.join(suffixes[:5])})"


def read_picture(path: Path) -> tuple[Image, str | None]:
    """Reads a picture; grey, 16-bit, CMYK and transparent ones are converted.

    Returns:
        uint8 [H, W, 3], BGR, upright; and the decoder's first complaint, or None.

    Raises:
        SourceError: the file can't be read, or not as a picture.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: expected a picture that can be read: {error.strerror}") from None
    if not data:
        raise SourceError(f"{path}: expected a picture, found an empty file")
    image = None
    with quiet_opencv(), captured_complaints() as complaints:
        # Not imread: it can't open every name on every system. EXIF orientation is applied here too.
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as error:
            complaints.append(str(error.err))
    if image is None:
        why = f" ({complaints[0]})" if complaints else ""
        raise SourceError(f"{path}: expected a picture, but it can't be decoded as one{why}; is it damaged?")
    # A JPEG's last scan without an end; neither marker can occur inside a scan. OpenCV 4 fills what is missing with
    # grey and says nothing.
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        complaints.append("it ends early")
    return np.ascontiguousarray(image, dtype=np.uint8), complaints[0] if complaints else None


_opencv_log: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 has it in a module of its own
_capturing, _silencing = threading.Lock(), threading.Lock()
_silenced: list[int] = []  # the log's own level, for each thread in `quiet_opencv`
# How lines of libjpeg and libpng begin.
_COMPLAINTS = (
    "Corrupt JPEG data",
    "Premature end of JPEG",
    "Unsupported marker",
    "Invalid SOS",
    "Warning: ",
    "libpng ",
)


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Silences OpenCV's own log, which all threads share: the last one to leave sets its level back."""
    with _silencing:
        _silenced.append(_silenced[0] if _silenced else _opencv_log.getLogLevel())
        _opencv_log.setLogLevel(0)
    try:
        yield
    finally:
        with _silencing:
            level = _silenced.pop()
            if not _silenced:
                _opencv_log.setLogLevel(level)


@contextmanager
def captured_complaints() -> Iterator[list[str]]:
    """Catches what libjpeg and libpng write straight to the process's standard error.

    Yields:
        A list that is filled, at the end, with their lines. What other threads wrote to standard error meanwhile is
        passed on then.
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

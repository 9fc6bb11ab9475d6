"""Frames of picture files: one file, a folder, or a glob."""

from __future__ import annotations

import io
import os
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sharpose.errors import SourceError, counted
from sharpose.runtime.frames import Frame, SourceInfo
from sharpose.runtime.result import Image
from sharpose.runtime.sources.folder import list_files
from sharpose.runtime.sources.picture_header import PictureHeader, png_is_whole, read_header

# In a picture. OpenCV would take memory for what a header claims, and copies what it decoded: 6 bytes a pixel.
_MOST_PIXELS = 120_000_000
_MOST_ANIMATED = 25_000_000  # where OpenCV keeps several: of an animated PNG or WebP
_DECODED_BYTES = 20_000_000  # decoded at once, of files with several pictures
_ANIMATIONS = hasattr(cv2, "imdecodeanimation")  # OpenCV 4.11 and later
_NAMED = 10  # broken pictures that are named


class PictureSource:
    """Picture files in natural order (2 before 10), taken as one second apart.

    All pictures of animated PNG and WebP (timed as they say) and of TIFF with pages are frames. A frame's `image_id` is
    the file's stem where that is all digits, else its index, or a number that is free where a stem has that already.
    Where two stems are the same number, all ids are indices.

    Args:
        spec: A picture file, a folder (not its subfolders), or a glob (`**` reaches into subfolders).
        strict: Whether a picture that can't be read is an error. Else it is left out, and the others keep their indices
            and ids.
        beside_videos: Whether videos there are sources of their own; else they are counted as left out.

    Attributes:
        paths: The files, in order.

    Raises:
        SourceError: there is no picture.
    """

    def __init__(self, spec: str, *, strict: bool = False, beside_videos: bool = False) -> None:
        listing = list_files(spec)
        videos = "" if beside_videos or not listing.videos else counted(len(listing.videos), "video")
        left_out = "; ".join(filter(None, [videos, listing.left_out]))
        self.paths = listing.pictures
        if not self.paths:
            raise SourceError(f"{spec}: expected pictures, found {left_out}; open each video")
        self._strict = strict
        headers = [_header_of(path) for path in self.paths]
        self._durations = [header.durations for header in headers]
        self._timed = len(headers) == 1 and headers[0].animated
        same_name = Counter(path.name for path in self.paths)
        names_in_use = [path.name if same_name[path.name] == 1 else str(path) for path in self.paths]
        self._file_names = [_as_text(name) for name in names_in_use]
        names: list[Path] = []
        for path, durations in zip(self.paths, self._durations, strict=True):
            names += [path, *(path / f"picture {number}" for number in range(2, len(durations) + 1))]
        self._ids, note = _number(names)
        self.info = SourceInfo(
            spec,
            len(names),
            frame_rate=len(names) / sum(map(sum, self._durations)),
            image_ids=frozenset(self._ids),
            timed=self._timed,
            pictures=dict(zip(names, self._ids, strict=True)),
            id_note=note,
        )
        if left_out:
            self.info.warnings.append(f"{spec}: left out {left_out}")
        if undecodable := sum(name != text for name, text in zip(names_in_use, self._file_names, strict=True)):
            files = counted(undecodable, "picture file")
            self.info.warnings.append(
                f"{spec}: {files} with a name that is not UTF-8: results write its bytes as \\xNN"
            )

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._ids)

    def __iter__(self) -> Iterator[Frame]:
        """The frames. Raises `SourceError` where no picture can be read; with `strict`, where one can't."""
        index, time, read = 0, 0.0, 0
        broken: list[SourceError] = []
        try:
            for path, file_name, durations in zip(self.paths, self._file_names, self._durations, strict=True):
                try:
                    for number, (image, complaint) in enumerate(_pictures_of(path, len(durations))):
                        if complaint is not None:
                            self.info.warnings.append(f"{path}: {complaint}")
                        read += 1
                        at = index + number
                        yield Frame(
                            image,
                            at,
                            time + sum(durations[:number]),
                            self._ids[at],
                            file_name=file_name,
                            timed=self._timed,
                        )
                except SourceError as error:
                    if self._strict:
                        raise
                    broken.append(error)
                index, time = index + len(durations), time + sum(durations)
            if not read and len(broken) == 1:
                raise broken[0]
            if not read:
                raise SourceError(
                    f"{self.info.name}: none of {len(broken)} pictures can be read; the first: {broken[0]}"
                )
        finally:
            if read and broken:
                self.info.failures += [f"{error}; left out" for error in broken[:_NAMED]]
                files = counted(len(self.paths), "picture file")
                self.info.failures.append(f"{self.info.name}: {len(broken)} of {files} could not be read, or not whole")

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


def _header_of(path: Path) -> PictureHeader:
    try:
        with path.open("rb") as file:
            return read_header(file)
    except OSError:  # said when it is to be decoded
        return PictureHeader()


def _as_text(name: str) -> str:
    r"""A file's name with the bytes that are not UTF-8 as `\xNN`, which every reader of a result takes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def read_picture(path: Path) -> tuple[Image, str | None]:
    """Reads a picture, or the first of a file; grey, 16-bit, CMYK and transparent ones are converted.

    Returns:
        uint8 [H, W, 3], BGR, upright; and a complaint about it, or None.

    Raises:
        SourceError: the file can't be read, or its content is not that of a JPEG, PNG, WebP, TIFF or BMP, or it claims
            to be of more than 120 million pixels, 25 where it is animated.
    """
    return next(_pictures_of(path, 1))


def _pictures_of(path: Path, expected: int) -> Iterator[tuple[Image, str | None]]:
    """The first `expected` pictures of a file. Raises `SourceError` where it has fewer, after those."""
    try:
        data = path.read_bytes()
    except OSError as error:
        why = "a link to nothing" if path.is_symlink() and not path.exists() else error.strerror
        raise SourceError(f"{path}: expected a picture that can be read: {why}") from None
    if not data:
        raise SourceError(f"{path}: expected a picture, found an empty file")
    header = read_header(io.BytesIO(data))
    if not png_is_whole(data):  # OpenCV would take memory for what a chunk claims
        raise SourceError(f"{path}: expected a picture, but it is longer than the file; is it damaged?")
    pixels = header.width * header.height
    if not pixels:  # OpenCV goes by content as well, and might take any size of what it knows besides
        raise SourceError(
            f"{path}: expected a picture, but its content isn't that of a JPEG, PNG, WebP, TIFF or BMP; is it damaged, "
            "or of another format?"
        )
    most = _MOST_ANIMATED if header.animated else _MOST_PIXELS
    if pixels > most:
        raise SourceError(
            f"{path}: expected a picture of at most {most // 1_000_000} million pixels, but its header claims "
            f"{header.width}x{header.height}; scale it down, or repair it"
        )
    several = expected > 1 or bool(header.previews)  # which may come before the one picture
    if not several or (not _ANIMATIONS and not path.suffix.lower().startswith(".tif")):
        image, complaint = _decode_one(path, data)
        if len(header.durations) > 1:
            complaint = f"holds {len(header.durations)} pictures, and only the first is used"
            complaint += "" if _ANIMATIONS else "; OpenCV 4.11 and later read all of them"
        yield image, complaint
        return
    pages = [page for page in range(expected + len(header.previews)) if page not in header.previews][:expected]
    chunk = max(1, _DECODED_BYTES // (3 * max(1, pixels)))
    read = 0
    for start in range(0, pages[-1] + 1, chunk):
        images = _decode_pages(data, start, min(pages[-1] + 1, start + chunk))
        for page, image in enumerate(images, start):
            if page not in header.previews:
                read += 1
                yield np.ascontiguousarray(image, dtype=np.uint8), None
        if len(images) < min(pages[-1] + 1, start + chunk) - start:
            break
    if read < expected:
        raise SourceError(f"{path}: holds {expected} pictures, but only {read} of them can be decoded")


def _decode_pages(data: bytes, start: int, stop: int) -> Sequence[Any]:
    with quiet_opencv(), captured_complaints():
        try:
            return cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR, range=(start, stop))[1]
        except cv2.error:
            return ()


def _decode_one(path: Path, data: bytes) -> tuple[Image, str | None]:
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
    return np.ascontiguousarray(image, dtype=np.uint8), f"may be damaged ({complaints[0]})" if complaints else None


_opencv_log: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 has it in a module of its own
_capturing, _silencing = threading.Lock(), threading.Lock()
_silenced: list[int] = []  # the log's own level, for each thread in `quiet_opencv`
# How lines of libjpeg, libpng and the encoders begin.
_COMPLAINTS = (
    "Corrupt JPEG data",
    "Premature end of JPEG",
    "Unsupported marker",
    "Invalid SOS",
    "Warning: ",
    "libpng ",
    "x264 [",
    "x265 [",
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
    """Catches what libjpeg, libpng, x264 and x265 write straight to the process's standard error.

    Yields:
        A list that is filled, at the end, with their lines. What other threads wrote to standard error meanwhile is
        passed on then. A child process that is started meanwhile goes on writing there: its later lines are lost.
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

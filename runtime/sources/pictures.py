"""Frames of picture files: one file, a folder, or a glob."""

from __future__ import annotations

import errno
import glob
import io
import os
import re
import stat
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
from sharpose.runtime.sources.picture_header import PictureHeader, png_is_whole, read_header

_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")
_VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".ts", ".mts", ".mpg", ".mpeg", ".wmv"))
# In a picture. OpenCV would take memory for what a header claims, and copies what it decoded: 6 bytes a pixel.
_MOST_PIXELS = 120_000_000
_MOST_ANIMATED = 25_000_000  # where OpenCV keeps several: of an animated PNG or WebP
_DECODED_BYTES = 20_000_000  # decoded at once, of files with several pictures
_ANIMATIONS = hasattr(cv2, "imdecodeanimation")  # OpenCV 4.11 and later
_NAMED = 10  # broken pictures that are named
_EXPECTED = "expected pictures (" + " ".join(suffix[1:] for suffix in _PICTURE_SUFFIXES) + ")"


def is_picture(path: Path) -> bool:
    """Whether the name ends like a picture's and isn't hidden (`._1.jpg` is a macOS leftover, no picture)."""
    return path.suffix.lower() in _PICTURE_SUFFIXES and not path.name.startswith(".")


class PictureSource:
    """Picture files in natural order (2 before 10), taken as one second apart.

    All pictures of animated PNG and WebP (timed as they say) and of TIFF with pages are frames. A frame's `image_id` is
    the file's stem where that is all digits, else its index, or a number that is free where a stem has that already.
    Where two stems are the same number, all ids are indices.

    Args:
        spec: A picture file, a folder (not its subfolders), or a glob (`**` reaches into subfolders).
        strict: Whether a picture that can't be read is an error. Else it is left out, and the others keep their indices
            and ids.

    Attributes:
        paths: The files, in order.

    Raises:
        SourceError: there is no picture.
    """

    def __init__(self, spec: str, *, strict: bool = False) -> None:
        self.paths, left_out = _find_pictures(spec)
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


_NO_FILES = {
    stat.S_IFDIR: "subfolder",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def _find_pictures(spec: str) -> tuple[list[Path], str]:
    """The pictures, in order, and what else is there in words: nothing for hidden files that are no pictures."""
    path = Path(spec)
    is_folder = path.is_dir()
    is_glob = not is_folder and not path.exists()
    if is_glob:
        found = [Path(match) for match in glob.glob(spec, recursive=True)]  # noqa: PTH207 (Path's refuses absolute ones)
    try:
        if not is_glob:
            found = list(path.iterdir()) if is_folder else [path]
        kinds = [_kind_of(entry) for entry in found]
    except OSError as error:
        raise SourceError(f"{spec}: expected a folder of pictures that can be read: {error.strerror}") from None
    files = [entry for entry, kind in zip(found, kinds, strict=True) if kind == "file"]
    pictures = sorted(filter(is_picture, files), key=_natural_key)
    others = Counter(kinds)
    del others["file"]
    if is_glob and "**" in spec:
        del others["subfolder"]  # it reaches into them
    # macOS leaves a `._1.jpg` beside each picture.
    hidden = [entry for entry in files if entry.suffix.lower() in _PICTURE_SUFFIXES and entry.name.startswith(".")]
    others["hidden picture"] = sum(not entry.name.startswith("._") for entry in hidden)
    more = [counted(number, kind) for kind, number in sorted(others.items()) if number]
    if others["subfolder"]:
        more[-1] += " (a glob with ** reaches into subfolders)"
    if not pictures:
        where = "the glob matches" if is_glob else "the folder holds" if is_folder else "this is"
        if where == "this is" and kinds != ["file"]:
            raise SourceError(f"{spec}: {_EXPECTED}, but this is a {kinds[0]}")
        described = [_describe(files)] if files or not more else []
        raise SourceError(f"{spec}: {_EXPECTED}, but {where} {'; '.join(described + more)}")
    rest = [entry for entry in files if not (is_picture(entry) or entry.name.startswith("."))]
    if rest:
        what = "files that are not pictures" if len(rest) > 1 else "file that is not a picture"
        more.insert(0, f"{len(rest)} {what}: {_suffixes(rest)}")
    return pictures, "; ".join(more)


def _kind_of(path: Path) -> str:
    """`file`, also for a link to nothing, which is said when it is read; or what it is instead."""
    try:
        return _NO_FILES.get(stat.S_IFMT(path.stat().st_mode), "file")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return "file"
        raise


def _as_text(name: str) -> str:
    r"""A file's name with the bytes that are not UTF-8 as `\xNN`, which every reader of a result takes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _suffixes(paths: list[Path]) -> str:
    suffixes = sorted({path.suffix.lower() or "no suffix" for path in paths})
    return ", ".join(suffixes[:5]) + ", …"[: 3 * (len(suffixes) > 5)]


def _natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split("([0-9]+)", str(path))
    return [(1, int(part), "") if index % 2 else (0, 0, part) for index, part in enumerate(parts)], str(path)


def _describe(found: list[Path]) -> str:
    if not found:
        return "no file"
    videos = sum(path.suffix.lower() in _VIDEO_SUFFIXES for path in found)
    if videos:
        return f"{counted(videos, 'video')}; give one video file at a time"
    return f"{counted(len(found), 'other file')} ({_suffixes(found)})"


def read_picture(path: Path) -> tuple[Image, str | None]:
    """Reads a picture, or the first of a file; grey, 16-bit, CMYK and transparent ones are converted.

    Returns:
        uint8 [H, W, 3], BGR, upright; and a complaint about it, or None.

    Raises:
        SourceError: the file can't be read, or not as a picture, or it claims to be of more than 120 million pixels.
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
    most = _MOST_ANIMATED if header.animated else _MOST_PIXELS
    if pixels > most:
        raise SourceError(
            f"{path}: expected a picture of at most {most // 1_000_000} million pixels, but its header claims "
            f"{header.width}x{header.height}; scale it down, or repair it"
        )
    if expected == 1 or (not _ANIMATIONS and not path.suffix.lower().startswith(".tif")):
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

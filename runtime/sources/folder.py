"""What a folder or a glob holds: pictures, videos, and what is left out."""

from __future__ import annotations

import errno
import glob
import re
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sharpose.errors import SourceError, counted

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")
_VIDEO_SUFFIXES = frozenset(
    (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".asf", ".flv")
) | {".3gp", ".ogv", ".gif"}
_EXPECTED = "expected pictures (" + " ".join(suffix[1:] for suffix in PICTURE_SUFFIXES) + ") or videos"


def is_picture(path: Path) -> bool:
    """Whether the name ends like a picture's and isn't hidden (`._1.jpg` is a macOS leftover, no picture)."""
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")


def is_video(path: Path) -> bool:
    """Whether the name ends like a video's and isn't hidden."""
    return path.suffix.lower() in _VIDEO_SUFFIXES and not path.name.startswith(".")


def is_glob(spec: str) -> bool:
    """Whether a path that isn't there is a pattern."""
    return any(character in spec for character in "*?[") and not Path(spec).exists()


@dataclass(frozen=True)
class Listing:
    """The files of a folder (not of its subfolders), of a glob (`**` reaches into subfolders), or one file.

    Attributes:
        pictures: In natural order, 2 before 10.
        videos: Likewise.
        left_out: What else is there, in words; nothing for hidden files that are no pictures.
    """

    pictures: list[Path]
    videos: list[Path]
    left_out: str


def list_files(spec: str) -> Listing:
    """The pictures and videos there. Raises `SourceError` where there are none, or the folder can't be read."""
    path = Path(spec)
    is_folder, of_glob = path.is_dir(), is_glob(spec)
    if of_glob:
        found = [Path(match) for match in glob.glob(spec, recursive=True)]  # noqa: PTH207 (Path's refuses absolute ones)
    try:
        if not of_glob:
            found = list(path.iterdir()) if is_folder else [path]
        kinds = [_kind_of(entry) for entry in found]
    except OSError as error:
        raise SourceError(f"{spec}: expected a folder that can be read: {error.strerror}") from None
    files = [entry for entry, kind in zip(found, kinds, strict=True) if kind == "file"]
    pictures = sorted(filter(is_picture, files), key=_natural_key)
    videos = sorted(filter(is_video, files), key=_natural_key)
    others = Counter(kinds)
    del others["file"]
    if of_glob and "**" in spec:
        del others["subfolder"]  # it reaches into them
    # macOS leaves a `._1.jpg` beside each picture.
    hidden = [entry for entry in files if entry.suffix.lower() in PICTURE_SUFFIXES and entry.name.startswith(".")]
    others["hidden picture"] = sum(not entry.name.startswith("._") for entry in hidden)
    more = [counted(number, kind) for kind, number in sorted(others.items()) if number]
    if others["subfolder"]:
        more[-1] += " (a glob with ** reaches into subfolders)"
    if not pictures and not videos:
        where = "the glob matches" if of_glob else "the folder holds" if is_folder else "this is"
        if where == "this is" and kinds != ["file"]:
            raise SourceError(f"{spec}: {_EXPECTED}, but this is a {kinds[0]}")
        described = [_describe(files)] if files or not more else []
        raise SourceError(f"{spec}: {_EXPECTED}, but {where} {'; '.join(described + more)}")
    rest = [entry for entry in files if not (is_picture(entry) or is_video(entry) or entry.name.startswith("."))]
    if rest:
        what = "files that are neither pictures nor videos"
        what = what if len(rest) > 1 else "file that is neither a picture nor a video"
        more.insert(0, f"{len(rest)} {what}: {_suffixes(rest)}")
    return Listing(pictures, videos, "; ".join(more))


_NO_FILES = {
    stat.S_IFDIR: "subfolder",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def _kind_of(path: Path) -> str:
    """`file`, also for a link to nothing, which is said when it is read; or what it is instead."""
    try:
        return _NO_FILES.get(stat.S_IFMT(path.stat().st_mode), "file")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return "file"
        raise


def _natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split("([0-9]+)", str(path))
    return [(1, int(part), "") if index % 2 else (0, 0, part) for index, part in enumerate(parts)], str(path)


def _describe(found: list[Path]) -> str:
    return f"{counted(len(found), 'other file')} ({_suffixes(found)})" if found else "no file"


def _suffixes(paths: list[Path]) -> str:
    suffixes = sorted({path.suffix.lower() or "no suffix" for path in paths})
    return ", ".join(suffixes[:5]) + ", …"[: 3 * (len(suffixes) > 5)]

"""Which files of a folder or glob are pictures, in which order, and under which ids."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from sharpose.errors import SourceError

__all__ = ["PICTURE_SUFFIXES", "find_pictures", "image_ids_of", "is_picture"]

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".ts", ".mts", ".mpg", ".mpeg", ".wmv"))
_EXPECTED = "expected pictures (" + " ".join(suffix[1:] for suffix in PICTURE_SUFFIXES) + ")"


def is_picture(path: Path) -> bool:
    """Whether the name ends like a picture's and isn't hidden (`._1.jpg` is a macOS leftover, no picture)."""
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")


def find_pictures(spec: str) -> list[Path]:
    """The pictures that `spec`, a picture file, a folder or a glob, stands for, in natural order (2 before 10).

    Raises:
        SourceError: there are none.
    """
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


def image_ids_of(pictures: list[Path]) -> list[int]:
    """For each picture its stem where that is all digits, else its index.

    Raises:
        SourceError: two pictures have the same id.
    """
    owners: dict[int, Path] = {}
    for index, path in enumerate(pictures):
        image_id = int(path.stem) if re.fullmatch("[0-9]+", path.stem) else index
        other = owners.setdefault(image_id, path)
        if other is not path:
            raise SourceError(
                f"{other} and {path} would both have the image id {image_id} "
                "(the name where it is a number, else the position); rename one of them"
            )
    return list(owners)


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

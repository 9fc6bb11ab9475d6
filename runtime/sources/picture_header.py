"""What the header of a picture file says before anything is decoded: its size, and the pictures that it holds."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_PNG = b"\x89PNG\r\n\x1a\n"
_STILL = 1.0  # seconds that a picture which doesn't say it is shown for
_SHORTEST = 0.01  # seconds; what is shorter counts as `_DEFAULT`, as in browsers
_DEFAULT = 0.1
_MAX_PAGES = 100_000
_MAX_ENTRIES = 2_000_000  # of all pages together, which may overlap
_MAX_CHUNKS = 1_000_000
_MAX_SEGMENTS = 100_000
_JPEG_MARKER = re.compile(rb"\xff[^\xff\0]")


@dataclass(frozen=True)
class PictureHeader:
    """What a picture file claims to hold.

    Attributes:
        width: Of the largest picture in it, in pixels; 0 where the header isn't understood, or of another format.
        height: Likewise.
        durations: Seconds that each of its pictures is shown: one for a still picture, several for animated PNG and
            WebP and for TIFF with pages.
        animated: Whether it is an animated PNG or WebP, of however many pictures.
        previews: Pages of a TIFF that are no pictures of their own (thumbnails, masks), by their number in the file.
    """

    width: int = 0
    height: int = 0
    durations: tuple[float, ...] = (_STILL,)
    previews: frozenset[int] = frozenset()
    animated: bool = False


def read_header(file: BinaryIO) -> PictureHeader:
    """Reads the header of a PNG, WebP, TIFF, JPEG or BMP, by its content; damaged and other ones say nothing.

    Args:
        file: Open for reading; only some bytes of it are read.
    """
    start = file.read(16)
    try:
        if start.startswith(_PNG):
            return _png(file)
        if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
            return _webp(file)
        if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(file, "<" if start[:2] == b"II" else ">", big=b"+" in start[:4])
        if start.startswith(b"\xff\xd8"):
            return _jpeg(file)
        if start.startswith(b"BM"):
            file.seek(14)
            of_os2 = struct.unpack("<I", file.read(4)) == (12,)
            width, height = struct.unpack("<HH", file.read(4)) if of_os2 else struct.unpack("<ii", file.read(8))
            return PictureHeader(abs(width), abs(height))
    except struct.error:  # the file is shorter than it should be
        pass
    return PictureHeader()


def _png(file: BinaryIO) -> PictureHeader:
    width = height = 0
    durations: list[float] = []
    animated = False
    for kind, length in _chunks(file, 8, ">", extra=4):
        if kind == b"IHDR":
            width, height = struct.unpack(">II", file.read(8))
        elif kind == b"fcTL" and length >= 26:
            numerator, denominator = struct.unpack(">20xHH", file.read(24))
            durations.append(_seconds(numerator / (denominator or 100)))
        elif kind == b"acTL":
            animated = True
        elif kind == b"IDAT" and not animated:
            break
    return PictureHeader(width, height, tuple(durations) if animated and durations else (_STILL,), animated=animated)


def png_is_whole(data: bytes) -> bool:
    """Whether all chunks of a PNG are as long as they claim; True for other files."""
    if not data.startswith(_PNG):
        return True
    end = 8
    for kind, length in _chunks(io.BytesIO(data), end, ">", extra=4):
        end += 12 + length
        if kind == b"IEND" or end > len(data):
            break
    return end <= len(data)


def _webp(file: BinaryIO) -> PictureHeader:
    width = height = 0
    durations: list[float] = []
    for kind, length in _chunks(file, 12, "<"):
        data = file.read(min(length, 16))
        if kind == b"VP8X":
            width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (4, 7))
        elif kind == b"ANMF":
            durations.append(_seconds(int.from_bytes(data[12:15], "little") / 1000))
        elif kind == b"VP8 " and not width:
            width, height = (size & 0x3FFF for size in struct.unpack("<6xHH", data[:10]))
        elif kind == b"VP8L" and not width:
            bits = int.from_bytes(data[1:5], "little")
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        if kind in (b"VP8 ", b"VP8L"):
            break
    return PictureHeader(width, height, tuple(durations) or (_STILL,), animated=bool(durations))


def _chunks(file: BinaryIO, position: int, order: str, extra: int = 0) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk of a PNG (big endian, a sum of 4 bytes after each) or RIFF file."""
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head) if order == ">" else struct.unpack("<4sI", head)[::-1]
        yield kind, length
        position += 8 + length + (extra or length % 2)


# Kinds of whole numbers in a TIFF, as struct has them; libtiff takes any of them for a size.
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}


def _tiff(file: BinaryIO, order: str, *, big: bool) -> PictureHeader:
    count_kind, entry_kind, offset_kind = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    entry = struct.Struct(order + entry_kind)
    size = 0, 0
    previews: set[int] = set()
    seen: set[int] = set()
    entries = 0
    file.seek(8 if big else 4)
    offset = _unpack(file, order + offset_kind)
    while offset and offset not in seen and len(seen) < _MAX_PAGES and entries < _MAX_ENTRIES:
        seen.add(offset)
        file.seek(offset)
        values: dict[int, int] = {}
        try:
            count = min(_unpack(file, order + count_kind), 0xFFFF)
            entries += count
            for tag, kind, _, value in entry.iter_unpack(file.read(count * entry.size)):
                number = _TIFF_NUMBERS.get(kind) if tag in (254, 256, 257) else None
                if number is not None and (big or number not in "Qq"):
                    values.setdefault(tag, struct.unpack_from(order + number, value)[0])  # libtiff takes the first too
        except struct.error:  # cut off; the page counts, for it should be there
            break
        following = file.read(struct.calcsize(offset_kind))
        if values.get(254, 0) & 0b101:  # a reduced picture, or a mask
            previews.add(len(seen) - 1)
        size = max(size, (values.get(256, 0), values.get(257, 0)), key=lambda one: one[0] * one[1])
        # libtiff takes an offset that is cut off for none.
        offset = (
            struct.unpack(order + offset_kind, following)[0] if len(following) == struct.calcsize(offset_kind) else 0
        )
    pages = len(seen) - len(previews)
    if not pages:
        return PictureHeader(*size)
    return PictureHeader(*size, (_STILL,) * pages, frozenset(previews))


def _unpack(file: BinaryIO, layout: str) -> int:
    return int(struct.unpack(layout, file.read(struct.calcsize(layout)))[0])


def _jpeg(file: BinaryIO) -> PictureHeader:
    """As libjpeg reads it: what lies between two segments is passed over up to the next marker."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        file.seek(position)
        piece = file.read(4096)
        marker = _JPEG_MARKER.search(piece)
        if marker is None:
            if len(piece) < 4096:
                break
            position += 4095  # the last byte may begin one
            continue
        kind = piece[marker.start() + 1]
        position += marker.end()
        if kind == 0xDA:  # the picture's data
            break
        if 0xD0 <= kind <= 0xD8 or kind == 0x01:  # markers without a segment
            continue
        file.seek(position)
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">3xHH", file.read(7))
            return PictureHeader(width, height)
        position += _unpack(file, ">H")
    return PictureHeader()


def _seconds(duration: float) -> float:
    return duration if duration >= _SHORTEST else _DEFAULT

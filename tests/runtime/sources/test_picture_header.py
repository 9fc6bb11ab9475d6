from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest

from sharpose.errors import SourceError
from sharpose.runtime.sources import picture_header
from sharpose.runtime.sources.picture_header import read_header
from sharpose.runtime.sources.pictures import PictureSource, read_picture

PICTURE = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)


def claiming(suffix: str, size: int) -> bytes:
    """A small picture whose header says that it is `size` wide and high."""
    data = bytearray(cv2.imencode(suffix, PICTURE)[1].tobytes())
    if suffix == ".png":
        data[16:24] = 2 * size.to_bytes(4, "big")
    elif suffix == ".bmp":
        data[18:26] = 2 * size.to_bytes(4, "little")
    elif suffix == ".jpg":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = 2 * size.to_bytes(2, "big")
    elif suffix == ".tif":
        offset = int.from_bytes(data[4:8], "little")
        for entry in range(offset + 2, offset + 200, 12):
            if int.from_bytes(data[entry : entry + 2], "little") in (256, 257):
                data[entry + 2 : entry + 12] = b"\x04\0\x01\0\0\0" + size.to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".tif"])
def test_a_size_that_is_only_claimed_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(claiming(suffix, 60000))
    with pytest.raises(SourceError, match=r"at most 120 million pixels, but its header claims 60000x60000"):
        list(PictureSource(str(path)))


def test_a_claimed_size_is_found_where_a_jpeg_has_a_byte_too_many(tmp_path):
    data = claiming(".jpg", 60000)
    (tmp_path / "a.jpg").write_bytes(data[:20] + b"\0" + data[20:])  # which libjpeg passes over
    with pytest.raises(SourceError, match=r"at most 120 million pixels, but its header claims 60000x60000"):
        read_picture(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".tif", ".webp"])
def test_sizes_in_headers(suffix):
    header = read_header(io.BytesIO(cv2.imencode(suffix, PICTURE)[1].tobytes()))
    assert (header.width, header.height, header.durations) == (40, 24, (1.0,))


def test_pages_that_overlap_are_counted_up_to_a_number_of_entries(monkeypatch):
    monkeypatch.setattr(picture_header, "_MAX_ENTRIES", 1000)
    data = bytearray(struct.pack("<4sI", b"II*\0", 8) + bytes(8000))
    for at in range(8, 8 + 12 * 20, 12):  # each has 400 entries of 12 bytes, most of them those of the one before
        struct.pack_into("<H", data, at, 400)
        struct.pack_into("<I", data, at + 2 + 12 * 400, at + 12)
    assert len(read_header(io.BytesIO(data)).durations) == 3


def test_a_bitmap_of_os2(tmp_path):
    width, height = 20, 10
    rows = bytes([10, 200, 30] * width) * height  # 60 bytes a row: no padding
    sizes = struct.pack("<IHHHH", 12, width, height, 1, 24)
    (tmp_path / "a.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + sizes + rows)
    image, complaint = read_picture(tmp_path / "a.bmp")
    assert (image.shape, image[5, 5].tolist(), complaint) == ((10, 20, 3), [10, 200, 30], None)


@pytest.mark.parametrize(
    "data",
    [
        b"GIF89a" + struct.pack("<HHBBB", 8000, 8000, 0x80, 0, 0) + bytes.fromhex("010203c86432"),
        cv2.imencode(".ppm", PICTURE)[1].tobytes(),
    ],
    ids=["gif", "ppm"],
)
def test_a_format_whose_size_is_not_known_is_refused(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(SourceError, match=r"its content isn't that of a JPEG, PNG, WebP, TIFF or BMP; is it damaged"):
        read_picture(tmp_path / "a.png")

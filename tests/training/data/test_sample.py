"""Reading pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sharpose.errors import SourceError
from sharpose.training.data.sample import UndecodableImageError, read_image


def test_a_picture_comes_as_its_pixels_lie(tmp_path: Path) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, :15] = (255, 0, 0)
    content = cv2.imencode(".jpg", image)[1].tobytes()
    # An Exif block that asks for a turn by 90 degrees: labels are in unturned pixels.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    path = tmp_path / "turned ä.jpg"
    path.write_bytes(content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:])
    read = read_image(path)
    assert read.shape == (20, 30, 3)
    assert read[10, 5, 0] > 240
    assert read[10, 25, 0] < 15


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 cut", b"words"])
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(UndecodableImageError, match=r"bad\.jpg: can't be decoded"):
        read_image(tmp_path / "bad.jpg")
    with pytest.raises(SourceError, match="can't be read"):
        read_image(tmp_path)

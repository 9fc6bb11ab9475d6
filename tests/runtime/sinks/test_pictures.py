from __future__ import annotations

import cv2
import numpy as np
import pytest

from sharpose.errors import InputError, SinkError
from sharpose.runtime.sinks.folders import PicturesSink


@pytest.mark.parametrize(("kind", "tolerance"), [("jpg", 8), ("png", 0)])
def test_the_annotated_picture_is_written(tmp_path, record, kind, tolerance):
    rows, columns = np.mgrid[:48, :64]
    image = np.stack([rows * 5, columns * 3, rows + columns], axis=2).astype(np.uint8)
    sink = PicturesSink(tmp_path / "out", stem="walk", kind=kind)
    for index in range(2):
        given = record(index, image=image)
        object.__setattr__(given, "draw", lambda image, poses: 255 - image)
        sink.write(given)
    sink.close()
    assert sorted(path.name for path in sink.path.iterdir()) == [
        f"walk_000000000000.{kind}",
        f"walk_000000000001.{kind}",
    ]
    found = cv2.imread(str(sink.path / f"walk_000000000001.{kind}"))
    assert np.abs(found.astype(int) - (255 - image)).max() <= tolerance


def test_other_kinds(tmp_path):
    with pytest.raises(InputError, match="expected pictures of the kind jpg or png, got 'gif'"):
        PicturesSink(tmp_path, stem="a", kind="gif")


def test_a_picture_too_large_for_its_kind(tmp_path, record):
    sink = PicturesSink(tmp_path / "out", stem="a")
    with pytest.raises(SinkError, match="a picture of 70000x1 can't be made a jpg"):
        sink.write(record(image=np.zeros((1, 70000, 3), np.uint8)))
    assert sink.abandon() is None

"""The line in the corner."""

from __future__ import annotations

import numpy as np
import pytest

from sharpose.runtime.drawing.draw import StatusLine, draw_poses
from sharpose.runtime.drawing.labels import plain_text
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.skeleton import COCO17


def poses(people: int, refined: int = 0, wanted: int = 0) -> PoseResult:
    rows = np.arange(people)
    return PoseResult(
        Boxes.from_xyxy(np.tile([150, 150, 152, 152], (people, 1))),
        np.zeros((people, 17, 3), np.float32),
        np.full(people, 0.5, np.float32),
        rows < refined,
        wanted=rows < wanted,
    )


def test_what_it_says() -> None:
    line = StatusLine(lambda: 24.84)
    assert line(poses(0)) == "24.8 fps  0 people"
    assert line(poses(1, 1, 1)) == "24.8 fps  1 person  1 refined"
    assert line(poses(5, 1, 3)) == "24.8 fps  5 people  1 refined  2 deferred"


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (240, 320), (720, 1280), (2160, 3840)])
@pytest.mark.parametrize("text", ["x", "24.8 fps  5 people  1 refined  2 deferred", "x" * 500])
def test_it_is_in_the_upper_left_corner(size: tuple[int, int], text: str) -> None:
    image = np.full((*size, 3), 110, np.uint8)
    marks = (draw_poses(image, poses(0), COCO17, status=lambda _: text) != image).any(axis=2)
    assert marks[0, 0]
    if size[0] >= 240:
        assert not marks[size[0] // 4 :].any()


def test_it_grows_with_the_picture() -> None:
    heights = []
    for height, width in ((240, 320), (720, 1280), (2160, 3840)):
        image = np.full((height, width, 3), 110, np.uint8)
        drawn = draw_poses(image, poses(0), COCO17, status=lambda _: "24.8 fps")
        heights.append(int((drawn != image).any(axis=2)[:, 0].sum()))
    assert 10 <= heights[0] < heights[1] < heights[2]
    assert heights[2] > 50


@pytest.mark.parametrize("text", ["Kamera Süd", "カメラ 🎥", "lone \udce4", "tab\tnull\0line\n", ""])
def test_any_text_can_be_given(text: str) -> None:
    image = np.full((240, 320, 3), 110, np.uint8)
    drawn = draw_poses(image, poses(1), COCO17, status=lambda _: text)
    assert (drawn != image).any()
    assert plain_text(text).isascii()
    assert len(plain_text(text)) == len(text)


def test_labels_make_room_for_it() -> None:
    image = np.full((240, 320, 3), 110, np.uint8)
    people = PoseResult(
        Boxes.from_xyxy([[0, 16, 40, 120]]),
        np.zeros((1, 17, 3), np.float32),
        np.array([0.5], np.float32),
        np.array([False]),
    )
    line = draw_poses(image, poses(0), COCO17, status=lambda _: "24.8 fps  1 person")
    both = draw_poses(image, people, COCO17, status=lambda _: "24.8 fps  1 person")
    written = (line != image).any(axis=2)
    np.testing.assert_array_equal(both[:16][written[:16]], line[:16][written[:16]])


def test_off_by_default() -> None:
    image = np.full((240, 320, 3), 110, np.uint8)
    np.testing.assert_array_equal(draw_poses(image, poses(0), COCO17), image)

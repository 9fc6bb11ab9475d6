"""The tint over the regions that the fine stage looked at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from sharpose.errors import InputError
from sharpose.runtime.drawing.draw import draw_poses, draw_regions
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.skeleton import COCO17


def canvas(height: int = 240, width: int = 320) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(60, 190, (height, width, 3), np.uint8)


def regions(*boxes: tuple[float, ...]) -> npt.NDArray[np.float32]:
    return np.array(boxes, np.float32).reshape(-1, 4)


def test_tiles_are_tinted_and_nothing_else() -> None:
    picture, before = canvas(), canvas()
    draw_regions(picture, regions((10, 20, 42, 52), (42, 20, 74, 52), (200, 100, 232, 132)), (0, 255, 0))
    marks = (picture != before).any(axis=2)
    assert marks[21:50, 11:40].all()
    assert not marks[20:52, 41].any()  # a line between neighbours
    assert marks[30, 43]
    assert marks[110, 210]
    outside = marks.copy()
    outside[20:52, 10:74] = outside[100:132, 200:232] = False
    assert not outside.any()
    expected = 0.65 * before[30, 20] + 0.35 * np.array([0, 255, 0])
    assert np.abs(picture[30, 20] - expected).max() <= 1  # the picture shows through


@pytest.mark.parametrize(
    "box",
    [
        (np.nan,) * 4,
        (np.nan, 0, 10, 10),
        (-50, -50, -10, -10),
        (400, 300, 500, 400),
        (10, 10, 10, 10),
        (20, 20, 10, 10),
        (3e38, 3e38, 3.1e38, 3.1e38),
    ],
)
def test_regions_that_are_not_there(box: tuple[float, ...]) -> None:
    picture = canvas()
    draw_regions(picture, regions(box), (0, 255, 0))
    np.testing.assert_array_equal(picture, canvas())
    draw_regions(picture, regions(), (0, 255, 0))


def test_regions_that_reach_outside_are_cut() -> None:
    picture = canvas()
    draw_regions(picture, regions((-1e30, -5, 10, 1e30)), (0, 255, 0))
    marks = (picture != canvas()).any(axis=2)
    assert marks[:238, :8].all()
    assert not marks[:, 10:].any()


def person(refined: bool, box: npt.NDArray[np.float32] | None) -> PoseResult:
    return PoseResult(
        Boxes.from_xyxy([[10, 10, 90, 200]]),
        np.zeros((1, 17, 3), np.float32),
        np.array([0.5], np.float32),
        np.array([refined]),
        regions_xyxy=None if box is None else box[None],
    )


def test_only_where_they_are_asked_for_and_only_of_the_refined() -> None:
    image, tile = canvas(), regions((40, 60, 72, 92))
    with_tint = draw_poses(image, person(True, tile), COCO17, regions=True, show_boxes=False)
    assert (with_tint[70, 50] != image[70, 50]).any()
    for poses, asked in ((person(True, tile), False), (person(False, tile), True)):
        drawn = draw_poses(image, poses, COCO17, regions=asked, show_boxes=False)
        np.testing.assert_array_equal(drawn, image)


def test_asking_for_regions_that_nobody_kept() -> None:
    with pytest.raises(InputError, match="expected poses with regions_xyxy"):
        draw_poses(canvas(), person(True, None), COCO17, regions=True)
    nobody = PoseResult(Boxes.empty(), np.zeros((0, 17, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, np.bool_))
    np.testing.assert_array_equal(draw_poses(canvas(), nobody, COCO17, regions=True), canvas())

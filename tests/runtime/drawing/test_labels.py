"""What labels and the status line say, and where they lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from sharpose.runtime.drawing.draw import draw_poses
from sharpose.runtime.drawing.labels import LabelPlacer, StatusLine, faces_of, legend_of, mark_of, plain_text
from sharpose.runtime.drawing.style import COLOURS, DEFERRED, PLAIN, REFINED, UNSURE, track_colour
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.skeleton import COCO17, MPII16

CANVAS = np.zeros((240, 320, 3), np.uint8)
NOBODY = np.zeros((0, 4))


def poses(track_ids: npt.ArrayLike | None = None) -> PoseResult:
    """Three people: refined, deferred, neither."""
    return PoseResult(
        Boxes.from_xyxy(np.tile([10, 10, 50, 90], (3, 1))),
        np.zeros((3, 17, 3), np.float32),
        np.array([0.5, 0.25, 0.875], np.float32),
        np.array([True, False, False]),
        wanted=np.array([True, True, False]),
        track_ids=None if track_ids is None else np.asarray(track_ids, np.int64),
    )


def test_without_ids_the_colour_tells_how_a_pose_was_made() -> None:
    people = poses()
    refined, deferred, plain = (mark_of(people, index) for index in range(3))
    assert (refined.colour, deferred.colour, plain.colour) == (REFINED, DEFERRED, PLAIN)
    assert refined.texts == ("q 0.50 refined", "q 0.50")
    assert deferred.texts == ("q 0.25 deferred", "q 0.25")
    assert plain.texts == ("q 0.88",)
    assert refined.chip is deferred.chip is plain.chip is None


def test_with_ids_the_colour_tells_who_it_is() -> None:
    people = poses([7, 12, 0])
    refined, deferred, unsure = (mark_of(people, index) for index in range(3))
    assert (refined.colour, deferred.colour, unsure.colour) == (track_colour(7), track_colour(12), UNSURE)
    assert refined.texts == ("#7 q 0.50 refined", "#7 q 0.50", "#7")
    assert deferred.texts == ("#12 q 0.25 deferred", "#12 q 0.25", "#12")
    assert unsure.texts == ("q 0.88",)  # no id yet
    assert (refined.chip, deferred.chip, unsure.chip) == (REFINED, DEFERRED, None)


def test_faces() -> None:
    keypoints = np.zeros((3, 17, 3))
    keypoints[0, :5] = [[100, 50, 0.9], [110, 40, 0.9], [90, 40, 0.9], [120, 45, 0.9], [999, 45, 0.1]]
    keypoints[1, 0] = [np.nan, 5, 0.9]
    keypoints[2, 5:] = [60, 60, 0.9]  # a body without a face
    (face,) = faces_of(keypoints, COCO17, 0.3).tolist()
    assert face == pytest.approx([90 - 10.5, 40 - 10.5, 120 + 10.5, 50 + 10.5])
    assert faces_of(np.zeros((0, 17, 3)), COCO17, 0.3).shape == (0, 4)
    assert len(faces_of(np.ones((2, 16, 3)), MPII16, 0.3)) == 2


def test_a_label_lies_above_its_box_where_there_is_room() -> None:
    assert LabelPlacer(CANVAS, NOBODY).place((60, 12), (100, 100, 160, 200)) == (100, 88, 160, 100)


@pytest.mark.parametrize("box", [(0, 0, 40, 100), (300, 0, 319, 239), (0, 0, 319, 239), (310, 230, 319, 239)])
def test_labels_are_whole_inside_the_picture(box: tuple[int, int, int, int]) -> None:
    placer = LabelPlacer(CANVAS, NOBODY)
    places = [placer.place((60, 12), box) for _ in range(6)]
    for left, top, right, bottom in places:
        assert 0 <= left < right <= 320
        assert 0 <= top < bottom <= 240
        assert (right - left, bottom - top) == (60, 12)
    assert len(set(places)) >= 3  # they spread as far as there are places


def test_labels_avoid_faces_and_each_other() -> None:
    face = np.array([[110, 70, 140, 99]])  # somebody behind, above the box
    placer = LabelPlacer(CANVAS, face)
    first = placer.place((60, 12), (100, 100, 160, 200))
    second = placer.place((60, 12), (100, 100, 160, 200))
    for left, top, right, bottom in (first, second):
        assert right <= 110 or left >= 140 or bottom <= 70 or top >= 99
    assert first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]


def test_a_label_wider_than_the_picture_begins_at_its_edge() -> None:
    assert LabelPlacer(CANVAS, NOBODY).place((500, 12), (100, 100, 160, 200))[:2] == (0, 88)


def test_where_all_is_taken_a_face_is_hidden_rather_than_a_label() -> None:
    everywhere = np.array([[0, 0, 320, 240]])
    placer = LabelPlacer(CANVAS, everywhere)
    first, second = (placer.place((60, 12), (100, 100, 160, 200)) for _ in range(2))
    assert first != second


def some_people(people: int, refined: int = 0, wanted: int = 0) -> PoseResult:
    rows = np.arange(people)
    return PoseResult(
        Boxes.from_xyxy(np.tile([150, 150, 152, 152], (people, 1))),
        np.zeros((people, 17, 3), np.float32),
        np.full(people, 0.5, np.float32),
        rows < refined,
        wanted=rows < wanted,
    )


def test_what_the_status_line_says() -> None:
    line = StatusLine(lambda: 24.84)
    assert line(some_people(0)) == "24.8 fps  0 people"
    assert StatusLine(lambda: 0.0)(some_people(1)) == "1 person"
    assert line(some_people(1, 1, 1)) == "24.8 fps  1 person  1 refined"
    assert line(some_people(5, 1, 3)) == "24.8 fps  5 people  1 refined  2 deferred"


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (240, 320), (720, 1280), (2160, 3840)])
@pytest.mark.parametrize("text", ["x", "24.8 fps  5 people  1 refined  2 deferred", "x" * 500])
def test_the_status_line_is_in_the_upper_left_corner(size: tuple[int, int], text: str) -> None:
    image = np.full((*size, 3), 110, np.uint8)
    marks = (draw_poses(image, some_people(0), COCO17, status=lambda _: text) != image).any(axis=2)
    assert marks[0, 0]
    if size[0] >= 240:
        assert not marks[size[0] // 4 :].any()


def test_the_status_line_grows_with_the_picture() -> None:
    heights = []
    for height, width in ((240, 320), (720, 1280), (2160, 3840)):
        image = np.full((height, width, 3), 110, np.uint8)
        drawn = draw_poses(image, some_people(0), COCO17, status=lambda _: "24.8 fps")
        heights.append(int((drawn != image).any(axis=2)[:, 0].sum()))
    assert 10 <= heights[0] < heights[1] < heights[2]
    assert heights[2] > 50


@pytest.mark.parametrize("text", ["Kamera Süd", "カメラ 🎥", "lone \udce4", "tab\tnull\0line\n", ""])
def test_the_status_line_may_be_any_text(text: str) -> None:
    image = np.full((240, 320, 3), 110, np.uint8)
    drawn = draw_poses(image, some_people(1), COCO17, status=lambda _: text)
    assert (drawn != image).any()
    assert plain_text(text).isascii()
    assert len(plain_text(text)) == len(text)


def test_labels_make_room_for_the_status_line() -> None:
    image = np.full((240, 320, 3), 110, np.uint8)
    people = PoseResult(
        Boxes.from_xyxy([[0, 16, 40, 120]]),
        np.zeros((1, 17, 3), np.float32),
        np.array([0.5], np.float32),
        np.array([False]),
    )
    line = draw_poses(image, some_people(0), COCO17, status=lambda _: "24.8 fps  1 person")
    both = draw_poses(image, people, COCO17, status=lambda _: "24.8 fps  1 person")
    written = (line != image).any(axis=2)
    np.testing.assert_array_equal(both[:16][written[:16]], line[:16][written[:16]])


def test_the_status_line_is_off_by_default() -> None:
    image = np.full((240, 320, 3), 110, np.uint8)
    np.testing.assert_array_equal(draw_poses(image, some_people(0), COCO17), image)


def test_the_legend_says_what_colours_and_signs_mean() -> None:
    def texts(*, tracked: bool, refining: bool, deadline: bool) -> list[str]:
        return [entry.text for entry in legend_of(tracked=tracked, refining=refining, deadline=deadline)]

    sides = ["left side of the body", "right side of the body"]
    quality = "q: predicted quality, 1 is best"
    assert texts(tracked=False, refining=False, deadline=False) == [quality, "coarse pose", *sides]
    assert texts(tracked=True, refining=True, deadline=True) == [
        quality,
        "#: id, a colour each",
        "refined pose",
        "no time to refine",
        *sides,
    ]
    colours = {entry.text: entry.colour for entry in legend_of(tracked=False, refining=True, deadline=True)}
    assert (colours["refined pose"], colours["no time to refine"], colours["coarse pose"]) == (REFINED, DEFERRED, PLAIN)
    assert [colours[side] for side in sides] == [COLOURS["left"], COLOURS["right"]]
    lefts = ["#0000ff" if COCO17.side(index) == "left" else f"#0000{index:02x}" for index in range(17)]
    own = replace(COCO17, keypoint_colours=tuple(lefts))
    entries = legend_of(tracked=False, refining=False, deadline=False, skeleton=own)
    assert [(entry.text, entry.colour) for entry in entries[2:]] == [(sides[0], (255, 0, 0))]  # the right has many


@pytest.mark.parametrize("size", [(720, 1280), (240, 320), (1280, 300), (64, 48)])
def test_the_legend_lies_in_the_lower_left_corner(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 110, np.uint8)
    entries = legend_of(tracked=False, refining=True, deadline=True)
    drawn = draw_poses(image, some_people(0), COCO17, legend=entries)
    marks = (drawn != image).any(axis=2)
    assert marks[-1, 0]
    assert marks[:, 0].sum() < size[0] * (0.2 if size[0] > 64 else 0.9)
    for entry in entries:
        assert entry.colour is None or (drawn == entry.colour).all(axis=2).any(), entry
    person = PoseResult(
        Boxes.from_xyxy([[0, 0, size[1] - 1, size[0] - 1]]),
        np.zeros((1, 17, 3), np.float32),
        np.array([0.5], np.float32),
        np.array([False]),
    )
    both = draw_poses(image, person, COCO17, legend=entries)
    if size[0] > 64:
        np.testing.assert_array_equal(both[marks], drawn[marks])

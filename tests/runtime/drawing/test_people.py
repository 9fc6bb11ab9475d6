"""Ids, deferred people and crowds in whole pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from sharpose.runtime.drawing.draw import draw_poses
from sharpose.runtime.drawing.style import DEFERRED, REFINED, track_colour
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.skeleton import COCO17


def people(
    boxes: npt.ArrayLike,
    track_ids: list[int] | None,
    *,
    refined: bool = False,
    wanted: bool = False,
    keypoints: npt.NDArray[np.float32] | None = None,
) -> PoseResult:
    xyxy = np.asarray(boxes, np.float32)
    count = len(xyxy)
    return PoseResult(
        Boxes.from_xyxy(xyxy),
        np.zeros((count, 17, 3), np.float32) if keypoints is None else keypoints,
        np.full(count, 0.5, np.float32),
        np.full(count, refined),
        wanted=np.full(count, wanted),
        track_ids=None if track_ids is None else np.array(track_ids, np.int64),
    )


def grey(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), 110, np.uint8)


def has(picture: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=2).sum())


@pytest.mark.parametrize(("height", "width"), [(240, 320), (720, 1280), (2160, 3840)])
def test_boxes_and_labels_have_their_tracks_colour(height: int, width: int) -> None:
    boxes = np.array([[0.1, 0.2, 0.3, 0.9], [0.5, 0.2, 0.7, 0.9]]) * [width, height, width, height]
    drawn = draw_poses(grey(height, width), people(boxes, [3, 8]), COCO17)
    edge = round(0.5 * height)
    assert (drawn[edge, round(0.1 * width)] == track_colour(3)).all()
    assert (drawn[edge, round(0.5 * width)] == track_colour(8)).all()
    swapped = draw_poses(grey(height, width), people(boxes[::-1], [8, 3]), COCO17)
    assert (swapped[edge, round(0.1 * width)] == track_colour(3)).all()  # by id, not by order


def test_refined_and_deferred_people_are_marked_with_and_without_ids() -> None:
    box = [[40, 60, 200, 220]]
    for ids in (None, [1]):
        plain = draw_poses(grey(240, 320), people(box, ids), COCO17)
        refined = draw_poses(grey(240, 320), people(box, ids, refined=True, wanted=True), COCO17)
        deferred = draw_poses(grey(240, 320), people(box, ids, wanted=True), COCO17)
        assert has(plain, REFINED) == has(plain, DEFERRED) == 0
        assert has(refined, REFINED) >= 9
        assert has(refined, DEFERRED) == 0
        assert has(deferred, DEFERRED) >= 9
        assert has(deferred, REFINED) == 0


def test_a_person_is_drawn_alike_alone_and_in_a_crowd() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([[x, y, x + 60, y + 120] for y in (30, 200, 400) for x in range(20, 1200, 200)], np.float32)
    keypoints = rng.uniform(0, 1, (len(boxes), 17, 3)).astype(np.float32)
    keypoints[:, :, :2] = boxes[:, None, :2] + keypoints[:, :, :2] * [60, 120]
    together = draw_poses(grey(720, 1280), people(boxes, None, keypoints=keypoints), COCO17, show_boxes=False)
    apart = grey(720, 1280)
    for index in range(len(boxes)):
        one = people(boxes[index : index + 1], None, keypoints=keypoints[index : index + 1])
        drawn = draw_poses(grey(720, 1280), one, COCO17, show_boxes=False)
        marks = (drawn != 110).any(axis=2)
        apart[marks] = drawn[marks]
    np.testing.assert_array_equal(together, apart)


def test_odd_people() -> None:
    """All at once: nowhere, everywhere, a pixel, upside down in number, not a number."""
    boxes = np.array(
        [[5, 5, 5, 5], [6, 6, 7, 7], [-1e12, -1e12, 1e12, 1e12], [-300, -300, -200, -200], [310, 230, 400, 300]]
    )
    keypoints = np.full((5, 17, 3), 0.9, np.float32)
    keypoints[0, ::2] = np.nan
    keypoints[1, :, :2] = 3e38
    keypoints[2, :, 0] = np.inf
    keypoints[3, :, 2] = -np.inf
    keypoints[4, :, :2] = [-3e38, 3e38]
    poses = people(boxes, [0, -5, 2**62, 1, 2], refined=True, wanted=True, keypoints=keypoints)
    with np.errstate(all="raise", under="ignore"):
        for size in ((240, 320), (1, 1), (2, 500), (0, 0)):
            assert draw_poses(grey(*size), poses, COCO17, status=lambda _: "status").shape == (*size, 3)

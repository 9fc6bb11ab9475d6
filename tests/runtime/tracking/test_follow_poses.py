"""Boxes that follow poses between detections."""

from __future__ import annotations

import numpy as np
import pytest
from track_metrics import people

from sharpose.errors import InputError
from sharpose.runtime.frames import Frame
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.runtime.tracking import FollowPoses


class Told:
    """A detector that says what it is told, and counts how often it is asked."""

    def __init__(self, *boxes: list[float]) -> None:
        self.boxes = Boxes.from_xyxy(np.array(boxes, np.float32).reshape(-1, 4), [0.9] * len(boxes))
        self.asked: list[int] = []
        self.observed: list[int] = []

    def boxes_for(self, frame: Frame) -> Boxes:
        self.asked.append(frame.index)
        return self.boxes

    def observe(self, frame: Frame, poses: PoseResult) -> None:
        self.observed.append(frame.index)


def frame(index: int, size: tuple[int, int] = (400, 600)) -> Frame:
    return Frame(np.zeros((*size, 3), np.uint8), index, index / 25, index)


def poses_in(
    boxes: Boxes, x: float = 0, y: float = 0, score: float | list[float] = 0.9, size: float = 0.5
) -> PoseResult:
    """A pose in the middle of each box, `size` times its size, then moved."""
    keypoints = np.empty((len(boxes), 17, 3), np.float32)
    for row, (x1, y1, x2, y2) in enumerate(boxes.xyxy):
        middle, reach = np.array([x1 + x2, y1 + y2]) / 2, np.array([x2 - x1, y2 - y1]) * size / 2
        keypoints[row, :, :2] = middle + reach * np.linspace(-1, 1, 17)[:, None] + (x, y)
        keypoints[row, :, 2] = np.broadcast_to(score, len(boxes))[row]
    return people(boxes.xyxy, keypoints, boxes.scores)


def test_the_detector_is_asked_every_nth_frame() -> None:
    detector = Told([100, 100, 180, 300])
    source = FollowPoses(detector, 4)
    for index in range(10):
        source.observe(frame(index), poses_in(source.boxes_for(frame(index))))
    assert detector.asked == [0, 4, 8]
    assert detector.observed == list(range(10))


def test_a_box_follows_its_pose_with_the_padding_of_the_detection() -> None:
    source = FollowPoses(Told([100, 100, 180, 300]), 10)
    source.observe(frame(0), poses_in(source.boxes_for(frame(0))))
    for index in range(1, 6):
        boxes = source.boxes_for(frame(index))
        source.observe(frame(index), poses_in(boxes, x=7, y=-3))
    np.testing.assert_allclose(source.boxes_for(frame(6)).xyxy, [[135, 85, 215, 285]], atol=0.01)
    np.testing.assert_allclose(source.boxes_for(frame(7)).scores, [0.9])


def test_a_box_grows_with_its_pose_but_not_with_one_that_jumps() -> None:
    source = FollowPoses(Told([100, 100, 180, 300]), 10)
    source.observe(frame(0), poses_in(source.boxes_for(frame(0))))
    source.observe(frame(1), poses_in(source.boxes_for(frame(1)), size=0.55))
    np.testing.assert_allclose(source.boxes_for(frame(2)).xywh[:, 2:], [[88, 220]], atol=0.1)
    source.observe(frame(2), poses_in(source.boxes_for(frame(2)), size=3))
    np.testing.assert_allclose(source.boxes_for(frame(3)).xywh[:, 2:], [[110, 275]], atol=0.1)


def test_a_box_stays_around_a_person_whose_legs_are_unsure_for_a_while() -> None:
    detector = Told([100, 100, 180, 300])
    source = FollowPoses(detector, 100)
    source.observe(frame(0), poses_in(source.boxes_for(frame(0))))
    at = Boxes.from_xyxy([[100, 100, 180, 300]])

    def seen(index: int, sure: slice, **moved: float) -> list[float]:
        pose = poses_in(at, **moved)
        unsure = np.ones(17, np.bool_)
        unsure[sure] = False
        pose.keypoints[0, unsure, 2] = 0.25
        source.observe(frame(index), people(source.boxes_for(frame(index)).xyxy, pose.keypoints))
        return source.boxes_for(frame(index + 1)).xyxy[0].round(2).tolist()

    for index in (1, 2, 3):
        assert seen(index, slice(0, 11)) == [100, 100, 180, 300]
    assert seen(4, slice(0, 11), x=9, y=-4) == [109, 96, 189, 296]
    assert seen(5, slice(0, 11), size=0.55) == [96, 90, 184, 310]  # they tell how it grows, too
    assert seen(6, slice(0, 17)) == [100, 100, 180, 300]
    # A head that is turned or nods says where the person is, and not how large.
    assert seen(7, slice(0, 5)) == [100, 100, 180, 300]
    x1, y1, x2, y2 = seen(8, slice(0, 5), size=0.6)
    assert (x2 - x1, y2 - y1) == pytest.approx((80, 200), abs=0.02)
    assert detector.asked == [0]


def test_who_becomes_sure_after_the_detection_is_followed_from_there() -> None:
    source = FollowPoses(Told([100, 100, 180, 300]), 10)
    unsure = poses_in(source.boxes_for(frame(0)), score=0.4)
    unsure.keypoints[:, 3:, 2] = 0.1
    source.observe(frame(0), unsure)
    source.observe(frame(1), poses_in(source.boxes_for(frame(1)), size=0.4))
    np.testing.assert_allclose(source.boxes_for(frame(2)).xyxy, [[100, 100, 180, 300]])
    source.observe(frame(2), poses_in(source.boxes_for(frame(2)), x=6, size=0.44))
    np.testing.assert_allclose(source.boxes_for(frame(3)).xyxy, [[102, 90, 190, 310]], atol=0.01)


def test_who_collapses_leaves_or_slides_onto_another_is_dropped() -> None:
    detector = Told([100, 100, 180, 300], [300, 100, 380, 300], [500, 100, 580, 300])
    source = FollowPoses(detector, 10)
    source.observe(frame(0), poses_in(source.boxes_for(frame(0))))
    source.observe(frame(1), poses_in(source.boxes_for(frame(1)), score=[0.9, 0.31, 0.9]))  # a third of what it was
    assert source.boxes_for(frame(2)).xyxy[:, 0].tolist() == [100, 500]
    moved = poses_in(source.boxes_for(frame(2)))
    moved.keypoints[1, :, 0] += 400  # out of the picture
    source.observe(frame(2), moved)
    assert source.boxes_for(frame(3)).xyxy[:, 0].tolist() == [100]

    source = FollowPoses(Told([100, 100, 180, 300], [200, 100, 280, 300]), 10)
    source.observe(frame(0), poses_in(source.boxes_for(frame(0))))
    both = poses_in(source.boxes_for(frame(1)))
    both.keypoints[1, :, 0] -= 100
    source.observe(frame(1), both)
    assert len(source.boxes_for(frame(2))) == 1


def test_new_people_and_an_empty_picture_wait_for_nobody() -> None:
    detector = Told()
    source = FollowPoses(detector, 5)
    for index in range(3):
        source.observe(frame(index), poses_in(source.boxes_for(frame(index))))
    assert detector.asked == [0, 1, 2]  # nobody to follow: looked for in every frame
    detector.boxes = Boxes.from_xyxy([[100, 100, 180, 300]])
    for index in range(3, 9):
        source.observe(frame(index), poses_in(source.boxes_for(frame(index))))
    assert detector.asked == [0, 1, 2, 3, 8]


def test_another_frame_size_is_detected_at_once() -> None:
    detector = Told([10, 10, 50, 90])
    source = FollowPoses(detector, 100)
    source.observe(frame(0), poses_in(source.boxes_for(frame(0))))
    source.boxes_for(frame(1, (200, 300)))
    assert detector.asked == [0, 1]


def test_a_detection_whose_frame_was_dropped_is_made_again() -> None:
    """A server that is busy leaves the frame without poses: nothing is observed."""
    detector = Told([100, 100, 180, 300])
    source = FollowPoses(detector, 100)
    source.observe(frame(0), poses_in(source.boxes_for(frame(0))))
    detector.boxes = Boxes.from_xyxy([[50, 50, 90, 150]])
    source.boxes_for(frame(1, (200, 300)))
    np.testing.assert_array_equal(source.boxes_for(frame(2, (200, 300))).xyxy, [[50, 50, 90, 150]])
    source.observe(frame(2, (200, 300)), poses_in(detector.boxes, x=3))
    assert detector.asked == [0, 1, 2]
    source.boxes_for(frame(3, (200, 300)))  # dropped where nothing was detected: people are followed on
    source.boxes_for(frame(4, (200, 300)))
    assert detector.asked == [0, 1, 2]


def test_only_the_best_were_looked_at() -> None:
    """--max-people takes some away between boxes_for and observe."""
    source = FollowPoses(Told([100, 100, 180, 300], [300, 100, 380, 300]), 5)
    source.observe(frame(0), poses_in(source.boxes_for(frame(0)).best(1)))
    assert len(source.boxes_for(frame(1))) == 1


@pytest.mark.parametrize(
    "boxes",
    [[[50, 50, 51, 51]], [[50, 50, 50, 50]], [[-10, -10, 5, 5]], [[3.0 * i, 10, 3.0 * i + 2, 30] for i in range(200)]],
    ids=["one pixel", "no area", "half outside", "200"],
)
def test_odd_people(boxes: list[list[float]]) -> None:
    source = FollowPoses(Told(*boxes), 4)
    for index in range(6):
        found = source.boxes_for(frame(index))
        source.observe(frame(index), poses_in(found))
        assert np.isfinite(found.xyxy).all()
        assert len(found) == len(boxes)


def test_a_pose_of_no_numbers_is_dropped() -> None:
    source = FollowPoses(Told([100, 100, 180, 300]), 4)
    source.observe(frame(0), poses_in(source.boxes_for(frame(0))))
    broken = poses_in(source.boxes_for(frame(1)))
    broken.keypoints[:, :, :2] = np.nan
    source.observe(frame(1), broken)
    assert len(source.boxes_for(frame(2))) == 1  # nobody left: detected anew


def test_every_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="expected 1 or more frames, got 0"):
        FollowPoses(Told(), 0)

"""Who is remembered from frame to frame, who has been still, and what they keep."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharpose.runtime.refinement.history import PersonHistory, StreamHistory, carry_over
from sharpose.similarity import keypoint_similarity
from sharpose.skeleton import COCO17


def boxes(*lefts: float) -> npt.NDArray[np.float32]:
    return np.array([[left, 0, left + 50, 100] for left in lefts], np.float32).reshape(-1, 4)


def somebody(box: npt.NDArray[np.float32], time: float) -> PersonHistory:
    return PersonHistory(box, time, box, np.zeros((17, 3), np.float32))


def remembering(*lefts: float, time: float = 0.0) -> tuple[StreamHistory, list[PersonHistory]]:
    history = StreamHistory()
    people = [somebody(box, time) for box in boxes(*lefts)]
    history.update(people)
    return history, people


def test_people_are_met_again_in_any_order() -> None:
    history, (left, right) = remembering(0, 200)
    found = history.match(boxes(205, 400, 3), 0.04)
    assert found[0] is right
    assert found[1] is None
    assert found[2] is left


def test_the_nearest_box_is_theirs_and_nobody_is_two() -> None:
    history, (person,) = remembering(0)
    found = history.match(boxes(20, 2), 0.04)
    assert found[0] is None
    assert found[1] is person


def test_little_overlap_is_somebody_else() -> None:
    history, _ = remembering(0)
    assert history.match(boxes(30), 0.04) == [None]


def test_who_was_missed_is_remembered_for_ten_frames() -> None:
    history, (person,) = remembering(0)
    for _ in range(10):
        assert history.match(boxes(), 0.0) == []
        history.update([])
    assert history.match(boxes(0), 0.0) == [person]
    history.update([])
    assert history.people == []


def test_time_that_jumps_makes_strangers() -> None:
    for time in (6.1, 4.9):  # forward by more than a second, or back
        history, _ = remembering(0, time=5.0)
        assert history.match(boxes(0), time) == [None]
    history, (person,) = remembering(0, time=5.0)
    assert history.match(boxes(0), 5.9) == [person]


def test_history_does_not_grow() -> None:
    history = StreamHistory()
    for frame in range(500):
        found = history.match(boxes(frame * 1000.0, 7.0), frame * 0.04)
        history.update(
            [somebody(box, frame * 0.04) for box, one in zip(boxes(frame * 1000.0, 7.0), found, strict=True)]
        )
        assert len(history.people) <= 2 + 2 * 10


POSE = np.dstack([*np.random.default_rng(0).uniform(0, 200, (2, 1, 17)), np.full((1, 17), 0.8)]).astype(np.float32)
AREA = np.array([100.0 * 200])


def moved(x: float, joints: slice = slice(None)) -> np.ndarray:
    pose = POSE.copy()
    pose[:, joints, 0] += np.float32(x)
    return pose


def carried(now: np.ndarray) -> np.ndarray:
    """What is kept of a refinement that moved everything by 4 pixels."""
    fine = moved(4)
    fine[..., 2] = 0.9
    before = fine.copy()
    found = carry_over(POSE[0], fine[0], now[0], keypoint_similarity(POSE, now, AREA, COCO17.sigmas)[0])
    np.testing.assert_array_equal(fine, before)
    return found


def test_what_was_found_moves_along() -> None:
    found = carried(moved(3))
    np.testing.assert_allclose(found[:, 0], POSE[0, :, 0] + 7, atol=1e-4)
    np.testing.assert_allclose(found[:, 1], POSE[0, :, 1], atol=1e-4)
    np.testing.assert_array_equal(found[:, 2], np.float32(0.9))


def test_the_noise_of_keypoints_does_not_come_along() -> None:
    now = POSE.copy()
    now[0, ::2, 0] += 2
    now[0, 1:16:2, 0] -= 2  # nine one way, eight the other
    np.testing.assert_allclose(carried(now)[:, 0], POSE[0, :, 0] + 4 + 2 / 17, atol=1e-4)


def test_a_hand_that_went_its_own_way_is_where_it_is_now() -> None:
    found = carried(moved(80, slice(9, 10)))
    assert found[9].tolist() == moved(80)[0, 9].tolist()
    np.testing.assert_allclose(np.delete(found[:, 0], 9), np.delete(POSE[0, :, 0], 9) + 4, atol=1e-4)


def test_nothing_is_kept_where_all_went_far() -> None:
    np.testing.assert_array_equal(carried(moved(300)), moved(300)[0])

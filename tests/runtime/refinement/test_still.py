"""Who hasn't moved, and what they keep."""

from __future__ import annotations

import numpy as np
import pytest

from sharpose.runtime.deadline.history import carry_over, iou_matrix, keypoint_likeness, pose_similarity
from sharpose.skeleton import COCO17

SIGMAS = np.array(COCO17.sigmas, np.float32)
POSE = np.dstack([*np.random.default_rng(0).uniform(0, 200, (2, 1, 17)), np.full((1, 17), 0.8)]).astype(np.float32)
AREA = np.array([100 * 200], np.float32)


def similarity(second: np.ndarray, first: np.ndarray = POSE) -> float:
    return float(pose_similarity(first, second, keypoint_likeness(first, second, AREA, SIGMAS))[0])


def moved(x: float, joints: slice = slice(None)) -> np.ndarray:
    pose = POSE.copy()
    pose[:, joints, 0] += np.float32(x)
    return pose


def test_equal_poses_are_alike() -> None:
    assert similarity(POSE) == 1.0


def test_the_further_the_less_alike() -> None:
    found = [similarity(moved(x)) for x in (1, 3, 10, 1000)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.98
    assert found[3] == pytest.approx(0, abs=1e-9)


def test_it_is_oks() -> None:
    expected = np.exp(-(5.0**2) / (2 * AREA[0] * np.square(2 * SIGMAS.astype(float)))).mean()
    assert similarity(moved(5)) == pytest.approx(expected, rel=1e-5)


def test_one_arm_that_moves_is_seen() -> None:
    assert similarity(moved(80, slice(9, 10))) == pytest.approx(16 / 17, abs=1e-4)


def test_keypoints_count_by_their_scores() -> None:
    unsure, gone = moved(80, slice(9, 10)), moved(80, slice(9, 10))
    unsure[:, 9, 2] = 0.0
    before = POSE.copy()
    before[:, 9, 2] = 0.0
    assert similarity(unsure, before) == pytest.approx(1.0)  # never there
    assert similarity(gone, before) < 0.95  # has come up
    nobody = np.zeros_like(POSE)
    assert similarity(nobody, nobody) == 0.0


def test_no_people_and_no_area() -> None:
    assert keypoint_likeness(POSE[:0], POSE[:0], AREA[:0], SIGMAS).shape == (0, 17)
    assert pose_similarity(POSE[:0], POSE[:0], np.zeros((0, 17))).shape == (0,)
    assert np.isfinite(keypoint_likeness(POSE, moved(3), np.array([0], np.float32), SIGMAS)).all()


def carried(now: np.ndarray) -> np.ndarray:
    """What is kept of a refinement that moved everything by 4 pixels."""
    fine = moved(4)
    fine[..., 2] = 0.9
    before = fine.copy()
    found = carry_over(POSE[0], fine[0], now[0], keypoint_likeness(POSE, now, AREA, SIGMAS)[0])
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


def test_overlap_of_boxes() -> None:
    first = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    second = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    expected = np.array([[1, 1 / 3, 0], [0, 0, 0]], np.float64)
    np.testing.assert_allclose(iou_matrix(first, second), expected)
    assert iou_matrix(first[:0], second).shape == (0, 3)

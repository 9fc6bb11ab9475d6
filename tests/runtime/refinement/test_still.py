"""What people who haven't moved keep of their last refinement."""

from __future__ import annotations

import numpy as np

from sharpose.runtime.deadline.history import carry_over
from sharpose.similarity import keypoint_similarity
from sharpose.skeleton import COCO17

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

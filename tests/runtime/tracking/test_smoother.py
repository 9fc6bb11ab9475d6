"""Smoothing: how much steadier at rest, how late in motion, and what is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from track_metrics import people

from sharpose.errors import InputError
from sharpose.runtime.result import PoseResult
from sharpose.runtime.tracking import Smoother
from sharpose.scene import Scene, SceneConfig

BOX = [100.0, 100.0, 180.0, 300.0]  # a person of 200 pixels


def person(points: np.ndarray, who: int = 1, score: float | np.ndarray = 0.9, box: list[float] = BOX) -> PoseResult:
    keypoints = np.concatenate([points, np.broadcast_to(score, (17,))[:, None]], axis=1)[None]
    return replace(people([box], keypoints), track_ids=np.array([who]))


def still(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform((100, 100), (180, 300), (17, 2))


def test_jitter_of_people_who_stand_falls_to_a_fourth() -> None:
    """The trembling is drawn on a frozen moment of a scene: 0.5 % of the height, about what a pose model has."""
    frame = Scene(SceneConfig(seed=3, people=3, frames=1, height=360, width=640)).frame(0)
    rng = np.random.default_rng(0)
    height = frame.boxes_xyxy[:, 3] - frame.boxes_xyxy[:, 1]
    smoother, raw, smooth = Smoother(), [], []
    for index in range(100):
        keypoints = frame.keypoints.copy()
        keypoints[:, :, :2] += rng.normal(size=keypoints[:, :, :2].shape) * (0.005 * height[:, None, None])
        keypoints[:, :, 2] = 0.9
        poses = replace(people(frame.boxes_xyxy, keypoints), track_ids=frame.ids + 1)
        raw.append(keypoints[:, :, :2])
        smooth.append(smoother.update(poses, index / 25).keypoints[:, :, :2])
    jitter = [np.abs(np.diff(np.stack(moves[25:]), axis=0)).mean() for moves in (raw, smooth)]
    print(f"jitter between frames: {jitter[0]:.3f} px raw, {jitter[1]:.3f} px smoothed")
    assert jitter[1] < jitter[0] / 4


@pytest.mark.parametrize("rate", [10, 25, 50])
def test_a_walker_is_less_than_a_frame_and_a_half_late(rate: int) -> None:
    smoother, speed = Smoother(), 200.0  # one height a second
    for index in range(2 * rate):
        moved = still() + np.array([speed * index / rate, 0])
        box = [BOX[0] + speed * index / rate, BOX[1], BOX[2] + speed * index / rate, BOX[3]]
        smoothed = smoother.update(person(moved, box=box), index / rate).keypoints[0, :, :2]
    late = float((moved - smoothed)[:, 0].mean()) / (speed / rate)
    print(f"{rate} frames a second: {late:.2f} frames late")
    assert 0 <= late < 1.5


def test_near_and_far_people_are_treated_alike() -> None:
    near, far = Smoother(), Smoother()
    for index in range(20):
        points = still(index)
        a = near.update(person(points), index / 25).keypoints[0, :, :2]
        b = far.update(person(points / 10, box=[value / 10 for value in BOX]), index / 25).keypoints[0, :, :2]
    np.testing.assert_allclose(a / 10, b, atol=0.02)


def test_a_keypoint_that_becomes_sure_elsewhere_is_taken_at_once() -> None:
    smoother = Smoother()
    for index in range(10):
        smoother.update(person(still(), score=np.where(np.arange(17) < 5, 0.1, 0.9)), index / 25)
    moved = still() + 40
    result = smoother.update(person(moved), 10 / 25).keypoints[0, :, :2]
    np.testing.assert_allclose(result[:5], moved[:5], atol=1e-4)
    assert (np.abs(result[5:] - moved[5:]) > 1).all()  # these were sure all along, and are smoothed


def test_scores_boxes_and_people_without_ids_are_left_alone() -> None:
    smoother = Smoother()
    smoother.update(person(still()), 0)
    for who in (0, 1):
        poses = person(still(1), who)
        result = smoother.update(poses, 0.04)
        np.testing.assert_array_equal(result.keypoints[:, :, 2], poses.keypoints[:, :, 2])
        np.testing.assert_array_equal(result.boxes_xyxy, poses.boxes_xyxy)
        assert np.array_equal(result.keypoints, poses.keypoints) == (who == 0)
    untracked = replace(person(still(2)), track_ids=None)
    assert smoother.update(untracked, 0.08) is untracked


def test_the_input_is_not_changed() -> None:
    smoother = Smoother()
    smoother.update(person(still()), 0)
    poses = person(still(1))
    before = poses.keypoints.copy()
    smoother.update(poses, 0.04)
    np.testing.assert_array_equal(poses.keypoints, before)


def test_who_is_new_lost_or_seen_at_another_size_starts_afresh() -> None:
    smoother = Smoother()
    smoother.update(person(still()), 0, (720, 1280))
    assert not np.array_equal(
        smoother.update(person(still(1)), 0.04, (720, 1280)).keypoints, person(still(1)).keypoints
    )
    new = person(still(2), who=2)
    np.testing.assert_array_equal(smoother.update(new, 0.08, (720, 1280)).keypoints, new.keypoints)
    back = person(still(3))
    np.testing.assert_array_equal(smoother.update(back, 0.04 + 2, (720, 1280)).keypoints, back.keypoints)
    resized = person(still(4))
    np.testing.assert_array_equal(smoother.update(resized, 2.08, (360, 640)).keypoints, resized.keypoints)


def test_somebody_missed_for_a_frame_is_remembered() -> None:
    smoother, nobody = Smoother(), replace(people([]), track_ids=np.zeros(0, np.int64))
    smoother.update(person(still()), 0)
    assert len(smoother.update(nobody, 0.04)) == 0
    assert not np.array_equal(smoother.update(person(still(1)), 0.08).keypoints, person(still(1)).keypoints)


def test_a_keypoint_that_once_was_nan_comes_back() -> None:
    smoother = Smoother()
    right, wrong = person(still()), person(np.where(np.arange(17)[:, None] == 3, np.nan, still()))
    results = [smoother.update(wrong if index == 3 else right, index / 25).keypoints[0] for index in range(8)]
    assert np.isnan(results[3][3, :2]).all()
    for result in results[4:]:
        np.testing.assert_allclose(result, right.keypoints[0], rtol=1e-6)


def test_twice_the_same_moment_and_a_person_of_no_size() -> None:
    smoother = Smoother()
    for time in (1.0, 1.0, 0.5):
        result = smoother.update(person(still(), box=[5, 5, 5, 5]), time)
        assert np.isfinite(result.keypoints).all()


def test_two_hundred_people() -> None:
    smoother = Smoother()
    for index in range(3):
        keypoints = np.random.default_rng(index).random((200, 17, 3)).astype(np.float32)
        poses = replace(people(np.tile(BOX, (200, 1)), keypoints), track_ids=np.arange(1, 201))
        assert np.isfinite(smoother.update(poses, index / 25).keypoints).all()


@pytest.mark.parametrize(("min_cutoff", "beta"), [(0, 1), (-1, 1), (float("inf"), 1), (1, -0.1), (1, float("nan"))])
def test_settings_out_of_range(min_cutoff: float, beta: float) -> None:
    with pytest.raises(InputError, match="smoother: expected min_cutoff > 0"):
        Smoother(min_cutoff, beta)

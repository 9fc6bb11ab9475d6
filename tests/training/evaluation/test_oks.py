"""OKS against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sharpose.similarity import object_keypoint_similarity, pairwise_oks, true_oks


def test_values_by_hand() -> None:
    labels = np.array([[[0, 0, 2], [10, 0, 1], [99, 99, 0]]], np.float32)
    poses = np.array([[[3, 4, 0.9], [10, 0, 0.9], [0, 0, 0.9]]], np.float32)
    oks = object_keypoint_similarity(poses, labels, np.array([100.0]), (0.1, 0.2, 0.3))
    # Distance 5 at sigma 0.1: 25 / (2 * 100 * (2 * 0.1)^2) = 3.125; the second is exact, the third isn't labelled.
    assert oks[0] == pytest.approx((math.exp(-3.125) + 1) / 2)


def test_nobody_labelled_is_nan_and_perfect_is_one() -> None:
    points = np.random.default_rng(0).uniform(0, 50, (2, 17, 2)).astype(np.float32)
    labels = np.concatenate([points, np.array([2.0, 0.0], np.float32).reshape(2, 1, 1).repeat(17, 1)], axis=2)
    oks = object_keypoint_similarity(points, labels, np.array([50.0, 50.0]), (0.05,) * 17)
    assert oks[0] == 1.0
    assert math.isnan(oks[1])


def test_between_poses_the_area_is_the_mean_and_all_keypoints_count() -> None:
    pose = np.array([[0, 0, 0.0], [0, 0, 0.0]], np.float32)
    other = np.array([[[3, 4, 0.0], [0, 0, 0.0]]], np.float32)
    oks = pairwise_oks(pose, other, 50.0, np.array([150.0]), (0.1, 0.1))
    assert oks[0] == pytest.approx((math.exp(-3.125) + 1) / 2)


def test_detections_take_the_best_label_of_their_picture() -> None:
    labels = np.array([[[0, 0, 2]], [[50, 0, 2]], [[9, 9, 2]]], np.float32)
    poses = np.array([[[50, 0, 1]], [[9, 9, 1]], [[0, 0, 1]]], np.float32)
    oks = true_oks(poses, np.array([1, 1, 3]), labels, np.array([1, 1, 2]), np.array([100.0, 100.0, 100.0]), (0.1,))
    assert oks[0] == 1.0
    assert oks[1] == pytest.approx(math.exp(-162 / (2 * 100 * 0.04)))
    assert math.isnan(oks[2])

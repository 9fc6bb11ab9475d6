"""Predicted quality against true OKS."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sharpose.training.evaluation.metrics import best_oks, calibrate, rank_correlation


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 100, 1000])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
    assert rank_correlation(np.array([0.0, 5, 5, 9]), np.arange(4.0)) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert math.isnan(rank_correlation(np.ones(3), np.arange(3.0)))


def test_bins_hold_as_many_people_each_and_nan_is_left_out() -> None:
    rng = np.random.default_rng(0)
    oks = rng.uniform(0, 1, 203)
    quality = (oks + 0.1).astype(np.float32)
    quality[5], oks[6], oks[7] = np.nan, np.nan, np.nan
    found = calibrate(quality, oks)
    assert found.people == 200
    assert [item.people for item in found.bins] == [20] * 10
    assert found.bias == pytest.approx(0.1, abs=1e-6)
    assert found.mean_error == pytest.approx(0.1, abs=1e-6)
    assert found.rank_correlation == pytest.approx(1)
    assert all(item.predicted == pytest.approx(item.true + 0.1, abs=1e-6) for item in found.bins)
    assert all(one.high <= other.low for one, other in zip(found.bins, found.bins[1:], strict=False))


def test_nobody_is_no_error() -> None:
    found = calibrate(np.zeros(0, np.float32), np.zeros(0))
    assert (found.bins, found.people) == ((), 0)


def test_detections_take_the_best_label_of_their_picture() -> None:
    labels = np.array([[[0, 0, 2]], [[50, 0, 2]], [[9, 9, 2]]], np.float32)
    poses = np.array([[[50, 0, 1]], [[9, 9, 1]], [[0, 0, 1]]], np.float32)
    oks = best_oks(poses, np.array([1, 1, 3]), labels, np.array([1, 1, 2]), np.array([100.0, 100.0, 100.0]), (0.1,))
    assert oks[0] == 1.0
    assert oks[1] == pytest.approx(math.exp(-162 / (2 * 100 * 0.04)))
    assert math.isnan(oks[2])

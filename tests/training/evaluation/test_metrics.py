"""PCK and PCKh by hand, calibration of quality, and the gain of refining."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sharpose.skeleton import COCO17, MPII16
from sharpose.training.evaluation.data import EvaluationData, People
from sharpose.training.evaluation.metrics import (
    best_oks,
    calibrate,
    calibrate_scores,
    keypoint_diagonals,
    measure_gain,
    pck,
    pckh_by_joint,
    rank_correlation,
)
from sharpose.training.evaluation.predict import GatedPoses


def people(labels: list[list[list[float]]], head_sizes: list[float]) -> People:
    count = len(labels)
    return People(
        image_ids=np.arange(count),
        boxes_xyxy=np.tile(np.array([[0, 0, 30, 40]], np.float32), (count, 1)),
        box_scores=np.ones(count, np.float32),
        keypoints=np.array(labels, np.float32),
        areas=np.ones(count),
        head_sizes=np.array(head_sizes),
        labelled=True,
    )


def test_units_and_shares() -> None:
    table = people([[[0, 0, 2], [6, 8, 1], [90, 90, 0]], [[5, 5, 2], [0, 0, 0], [0, 0, 0]]], [2.0, math.nan])
    diagonals = keypoint_diagonals(table.keypoints)
    assert diagonals.tolist() == pytest.approx([10, math.nan], nan_ok=True)
    poses = table.keypoints.copy()
    poses[0, 0, 0] += 1  # exactly a tenth of the diagonal: counts
    poses[0, 1, 1] += 1.5
    poses[1, 0, 0] += 100
    assert pck(poses, table.keypoints, diagonals, 0.1) == 0.5  # the person of one keypoint has no diagonal
    assert pck(poses, table.keypoints, np.full(2, 40.0), 0.1) == pytest.approx(2 / 3)
    assert pck(poses, table.keypoints, table.head_sizes, 0.5) == 0.5


def test_nothing_labelled_is_nan() -> None:
    labels = np.zeros((1, 2, 3), np.float32)
    assert math.isnan(pck(labels, labels, np.ones(1), 0.1))
    assert math.isnan(pck(labels, labels, keypoint_diagonals(labels), 0.1))


def test_pckh_leaves_pelvis_and_thorax_out_of_its_mean_and_weighs_by_count() -> None:
    labels = np.zeros((2, 16, 3), np.float32)
    labels[..., 2] = 2
    labels[1, 10, 2] = 0  # the second person's right wrist isn't labelled
    table = people(labels.tolist(), [10.0, 10.0])
    poses = labels.copy()
    poses[:, 6:8, 0] = 99  # pelvis and thorax
    poses[0, 10, 0] = 99  # the only right wrist
    poses[0, 15, 0] = 5.0  # half of the head size: correct
    table_of_parts = pckh_by_joint(poses, table, MPII16)
    assert table_of_parts["wrist"] == 0.5
    assert table_of_parts["elbow"] == 1.0
    assert list(table_of_parts) == ["ankle", "knee", "hip", "head_top", "wrist", "elbow", "shoulder", "mean"]
    assert table_of_parts["mean"] == pytest.approx(26 / 27)


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
    assert found.count == 200
    assert [item.count for item in found.bins] == [20] * 10
    assert found.bias == pytest.approx(0.1, abs=1e-6)
    assert found.mean_error == pytest.approx(0.1, abs=1e-6)
    assert found.reliability_error == pytest.approx(0.1, abs=1e-6)
    assert found.rank_correlation == pytest.approx(1)
    assert all(item.predicted == pytest.approx(item.true + 0.1, abs=1e-6) for item in found.bins)
    assert all(one.high <= other.low for one, other in zip(found.bins, found.bins[1:], strict=False))


def test_scores_are_compared_with_being_right(labelled: Callable[..., EvaluationData]) -> None:
    data = labelled(2)
    keypoints = data.people.keypoints.copy()
    keypoints[1, 16, 2] = 0  # not labelled: doesn't count
    reach = np.sqrt(2 * 13000 * (2 * COCO17.sigmas[5]) ** 2 * math.log(2))  # the similarity of 0.5 ends here
    poses = keypoints.copy()
    poses[..., 2] = 0.25
    poses[:, 5] += (0.99 * reach, 0, 1)  # left shoulders: right, and sure by more than 1
    poses[:, 6] += (1.01 * reach, 0, 0)  # right shoulders: wrong
    gated = GatedPoses(poses, np.ones(2, np.float32), np.zeros(2))
    people = replace(data.people, keypoints=keypoints)
    found = calibrate_scores(replace(data, people=people), gated)
    assert found.count == 33
    assert sum(item.count * item.true for item in found.bins) == pytest.approx(31)
    assert found.bias == pytest.approx((31 * 0.25 + 2 * 1 - 31) / 33)
    assert (found.bins[-1].high, found.bins[0].low) == (1.0, 0.25)
    unknown = replace(data, people=replace(people, labelled=False))
    assert calibrate_scores(unknown, gated).count == 0


def test_nobody_is_no_error() -> None:
    found = calibrate(np.zeros(0, np.float32), np.zeros(0))
    assert (found.bins, found.count) == ((), 0)
    assert math.isnan(found.reliability_error)


def test_detections_take_the_best_label_of_their_picture() -> None:
    labels = np.array([[[0, 0, 2]], [[50, 0, 2]], [[9, 9, 2]]], np.float32)
    poses = np.array([[[50, 0, 1]], [[9, 9, 1]], [[0, 0, 1]]], np.float32)
    oks = best_oks(poses, np.array([1, 1, 3]), labels, np.array([1, 1, 2]), np.array([100.0, 100.0, 100.0]), (0.1,))
    assert oks[0] == 1.0
    assert oks[1] == pytest.approx(math.exp(-162 / (2 * 100 * 0.04)))
    assert math.isnan(oks[2])


def test_a_hump_is_found() -> None:
    rng = np.random.default_rng(0)
    quality = rng.uniform(0, 1, 2000).astype(np.float32)
    gain = np.where((quality > 0.4) & (quality < 0.6), 0.2, 0.0)
    coarse = rng.uniform(0, 0.5, 2000)
    found = measure_gain(quality, coarse, coarse + gain + rng.normal(0, 0.1, 2000), "these")
    assert found is not None
    assert found.measured_on == "these"
    assert len(found.quality) == 10
    assert found.quality == pytest.approx(np.arange(0.05, 1, 0.1), abs=0.02)
    assert found.gain[4:6] == pytest.approx([0.2, 0.2], abs=0.03)
    assert max(*found.gain[:4], *found.gain[6:]) < 0.03


def test_chance_makes_a_level_line() -> None:
    spreads = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        gain = 0.05 + rng.normal(0, 0.2, 400)
        found = measure_gain(rng.uniform(0, 1, 400).astype(np.float32), np.zeros(400), gain, "noise")
        assert found is not None
        spreads.append(np.ptp(found.gain))
        plain = [gain.mean()] * len(found.gain)
        assert found.gain == pytest.approx(plain, abs=0.06)
    assert np.median(spreads) < 0.02  # of the bins' own means it is 0.1


def test_who_is_unknown_is_left_out_and_few_people_say_nothing() -> None:
    quality = np.linspace(0, 1, 60).astype(np.float32)
    coarse, fine = np.full(60, 0.25), np.full(60, 0.5)
    quality[0], coarse[1], fine[2] = np.nan, np.nan, np.nan
    found = measure_gain(quality, coarse, fine, "")
    assert found is not None
    assert found.gain == (0.25, 0.25)
    assert measure_gain(quality[:42], coarse[:42], fine[:42], "") is None
    assert measure_gain(quality[:0], coarse[:0], fine[:0], "") is None


def test_equal_qualities_are_one_place() -> None:
    found = measure_gain(np.full(80, 0.5, np.float32), np.zeros(80), np.arange(80) / 79, "")
    assert found is not None
    assert found.quality == (0.5,)
    assert found.gain[0] == pytest.approx(0.5, abs=0.001)

"""Fitting score tables to labelled people, and where they are kept."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from score_tables import score_tables

from sharpose.bundle import open_bundle
from sharpose.errors import InputError, SinkError
from sharpose.scores.tables import ScoreCalibration, ScoreTable
from sharpose.skeleton import COCO17, MPII16
from sharpose.training.evaluation.data import EvaluationData
from sharpose.training.evaluation.metrics import calibrate_people
from sharpose.training.evaluation.predict import Predictions
from sharpose.training.evaluation.scores import (
    fit_scores,
    fit_table,
    fit_tables,
    mirrored_groups,
    rising_means,
    save_in_bundle,
)
from tests.training.evaluation.conftest import make_data, make_predictions

REACH = np.sqrt(2 * 13000 * (2 * np.array(COCO17.sigmas)) ** 2 * np.log(2))  # where the similarity of 0.5 ends


def predicted(data: EvaluationData, worth: tuple[float, float] = (1.0, 0.5), seed: int = 0) -> Predictions:
    """Keypoints that are right with the probability `score ** worth`, by stage; some people are worse than others."""
    rng = np.random.default_rng(seed)
    predictions = make_predictions(data)
    poses = predictions.poses
    poses[..., 2] = rng.uniform(0.05, 0.95, (len(data.people), 2, 1)) + rng.uniform(-0.05, 0.05, poses.shape[:3])
    for stage, power in enumerate(worth):
        right = rng.uniform(0, 1, (len(data.people), 17)) < poses[:, stage, :, 2] ** power
        poses[:, stage, :, :2] = data.people.keypoints[..., :2]
        poses[:, stage, :, 0] += np.where(right, 0.1, 2.0) * REACH
    return predictions


def test_tables_find_what_scores_are_worth_on_pictures_they_never_saw() -> None:
    data = make_data(240)
    fit = fit_scores(data, predicted(data, (2.0, 3.0)), threshold=0.4)
    assert fit.people == (120, 120)
    assert fit.stood_in == ()
    at = np.array([0.2, 0.5, 0.8])
    for stage, power in ((fit.tables.coarse, 2.0), (fit.tables.fine, 3.0)):
        assert len(stage) == 9
        found = np.mean([table(at) for table in stage], axis=0)
        np.testing.assert_allclose(found, at**power, atol=0.05)
    assert fit.better
    assert fit.before.keypoints > 0.1
    assert fit.after.keypoints < 0.03
    assert fit.after.people < 0.08 < 0.2 < fit.before.people
    assert fit.before.ap is not None
    assert fit.after.ap is not None
    assert fit.after.ap > fit.before.ap - 0.005
    assert fit.tables.fitted_on == "made up, 120 people"
    (line,) = fit.lines()
    assert line.startswith("score tables fitted to 120 people; on 120 people of other pictures, error of scores (ECE)")
    assert fit_scores(data, predicted(data, (2.0, 3.0)), threshold=0.4) == fit


def test_tables_that_are_there_already_change_nothing() -> None:
    data = make_data(100)
    predictions = predicted(data)
    before = dataclasses.replace(predictions, calibration=ScoreCalibration(score_tables(), COCO17))
    assert fit_scores(data, before, 0.4) == fit_scores(data, predictions, 0.4)


def test_scores_that_are_right_gain_nothing() -> None:
    data = make_data(120)
    fit = fit_scores(data, predicted(data, (1.0, 1.0)), threshold=0.4)
    assert fit.before.keypoints < 0.06
    assert not fit.better


def test_keypoints_without_labels_are_judged_by_the_distances_of_the_others() -> None:
    """No wrist is labelled; half of all keypoints are off by what is right for a hip, but not for a wrist."""
    data = make_data(120)
    labels = data.people.keypoints.copy()
    labels[:, 9:11, 2] = 0
    data = dataclasses.replace(data, people=dataclasses.replace(data.people, keypoints=labels))
    predictions = predicted(data)
    poses = predictions.poses
    poses[..., :2] = labels[:, None, :, :2]
    poses[..., 2] = 0.5
    poses[::2, ..., 0] += (REACH[9] + REACH[11]) / 2
    tables, stood_in = fit_tables(data, poses, np.ones(120, np.bool_), "here")
    assert stood_in == ("left_wrist", "right_wrist")
    at_half = {name: float(table(np.array(0.5))) for table in tables.fine for name in table.keypoints}
    assert at_half["left_wrist"] == at_half["right_wrist"] == pytest.approx(0.5, abs=0.01)
    assert at_half["left_hip"] > 0.99
    assert at_half["nose"] == pytest.approx(0.5, abs=0.01)


def test_left_and_right_share_a_table() -> None:
    assert mirrored_groups(COCO17) == [[0], [1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12], [13, 14], [15, 16]]
    assert [6] in mirrored_groups(MPII16)
    assert [0, 5] in mirrored_groups(MPII16)


def test_few_people_and_detections_are_refused() -> None:
    few = make_data(90)
    with pytest.raises(InputError, match=r"at least 50 labelled people in each half of the pictures, got 45 and 45"):
        fit_scores(few, make_predictions(few), 0.5)
    unknown = dataclasses.replace(few, people=dataclasses.replace(few.people, labelled=False))
    with pytest.raises(InputError, match="expected labelled boxes"):
        fit_scores(unknown, make_predictions(unknown), 0.5)


def test_people_are_compared_by_their_score_and_oks() -> None:
    data = make_data(4)
    predictions = make_predictions(data, fine=0.0)
    poses = predictions.gated("always", 0.5)
    moved: npt.NDArray[np.float32] = poses.keypoints.copy()
    moved[0, :9, :2] += 1000  # 8 of 17 are right
    moved[1, :8, :2] += 1000  # 9 of 17
    scores = np.array([0.25, 0.5, 0.75, 1.0], np.float32)
    found = calibrate_people(data, dataclasses.replace(poses, keypoints=moved, scores=scores))
    assert [(item.predicted, item.true) for item in found.bins] == [(0.25, 0), (0.5, 1), (0.75, 1), (1.0, 1)]
    assert found.reliability_error == pytest.approx((0.25 + 0.5 + 0.25 + 0) / 4)


def test_a_bundle_gets_tables_in_place_or_in_a_copy(nano_bundle: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(nano_bundle, tmp_path / "mine"))
    (mine / "notes.txt").write_text("not the bundle's")
    save_in_bundle(tmp_path / "new" / "copy", open_bundle(mine), score_tables())
    copy = open_bundle(tmp_path / "new" / "copy")
    assert copy.manifest.scores == score_tables()
    assert copy.manifest.model_copy(update={"scores": None}) == open_bundle(nano_bundle).manifest
    assert sorted(path.name for path in copy.path.iterdir()) == sorted([*copy.manifest.files, "bundle.json"])
    assert [path.name for path in copy.path.parent.iterdir()] == ["copy"]
    assert (mine / "bundle.json").read_bytes() == (nano_bundle / "bundle.json").read_bytes()
    save_in_bundle(mine, open_bundle(mine), score_tables())
    assert open_bundle(mine).manifest.scores == score_tables()
    assert (mine / "weights.bin").read_bytes() == (nano_bundle / "weights.bin").read_bytes()
    with pytest.raises(SinkError, match=r"--calibrate-scores .*mine: can't be written"):
        save_in_bundle(mine, copy, score_tables())


def test_neighbours_that_fall_become_their_weighted_mean() -> None:
    found = rising_means(np.array([0.1, 0.6, 0.3, 0.3, 0.9]), np.array([1.0, 1.0, 2.0, 1.0, 1.0]))
    np.testing.assert_allclose(found, [0.1, 0.375, 0.375, 0.375, 0.9])
    np.testing.assert_allclose(rising_means(np.array([3.0, 2.0, 1.0]), np.ones(3)), [2.0, 2.0, 2.0])
    np.testing.assert_allclose(rising_means(np.array([1.0, 2.0]), np.ones(2)), [1.0, 2.0])
    assert rising_means(np.zeros(0), np.zeros(0)).shape == (0,)


def test_no_rising_sequence_is_nearer() -> None:
    """Against all sequences on a grid."""
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 1, 6)
    for _ in range(20):
        values, weights = rng.choice(grid, 4), rng.integers(1, 4, 4).astype(float)
        best = (weights * (rising_means(values, weights) - values) ** 2).sum()
        for other in itertools.combinations_with_replacement(grid, 4):
            assert best <= (weights * (np.array(other) - values) ** 2).sum() + 1e-12


def test_a_table_finds_what_scores_are_worth() -> None:
    """Scores that say x where the truth is x²."""
    rng = np.random.default_rng(1)
    raw = rng.uniform(0, 1, 20_000)
    right = rng.uniform(0, 1, 20_000) < raw**2
    points = fit_table(raw, right)
    table = ScoreTable(raw=points[0], probability=points[1])
    assert len(table.raw) == 14
    at = np.linspace(0.1, 0.95, 18)
    np.testing.assert_allclose(table(at), at**2, atol=0.03)


@pytest.mark.parametrize(("right", "probability"), [(False, 0.5 / 11), (True, 10.5 / 11)])
def test_few_scores_are_never_certain(right: bool, probability: float) -> None:
    points = fit_table(np.linspace(0.4, 0.6, 10), np.full(10, right))
    assert points[0] == (0.0, 0.5, 1.0)
    assert points[1] == (0.0, round(probability, 5), round(probability, 5))


def test_what_does_not_rise_is_one_point() -> None:
    raw, probability = fit_table(np.linspace(0, 1, 401), np.linspace(0, 1, 401) < 0.5)
    assert raw == (0.0, 0.5, 1.0)
    np.testing.assert_allclose(probability, [0, 0.5, 0.5], atol=0.005)


def test_equal_scores_have_one_probability() -> None:
    """300 of 0.7, of which a third is right, and 100 of 1, all of them right."""
    scores, right = np.repeat([0.7, 1.0], [300, 100]), np.arange(400) % 3 == 0
    right[300:] = True
    raw, probability = fit_table(np.roll(scores, 55), np.roll(right, 55))
    assert raw == (0.0, 0.7, 1.0)
    np.testing.assert_allclose(probability, [0, 1 / 3, 100.5 / 101], atol=0.001)

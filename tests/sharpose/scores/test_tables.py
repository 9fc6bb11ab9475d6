"""Score tables: what they must say, and what they make of scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sharpose.errors import ConfigError
from sharpose.scores.tables import KeypointTable, ScoreCalibration, ScoreTable, ScoreTables, person_score
from sharpose.skeleton import Skeleton

THREE = Skeleton("three", ("nose", "left_hand", "right_hand"), ((0, 1),), ((1, 2),), (0.03, 0.06, 0.06))
NOSE = KeypointTable(raw=(0.2, 0.6), probability=(0.1, 0.9), keypoints=("nose",))
HANDS = KeypointTable(raw=(0.0, 1.0), probability=(0.0, 0.5), keypoints=("right_hand", "left_hand"))
ALL = KeypointTable(raw=(0.5,), probability=(0.25,), keypoints=THREE.keypoints)
PERSON = ScoreTable(raw=(0.25, 0.75), probability=(0.0, 1.0))
TABLES = ScoreTables(coarse=(NOSE, HANDS), fine=(ALL,), person=PERSON, fitted_on="nothing")


def test_a_table_is_linear_between_its_points_and_constant_beyond_them() -> None:
    found = NOSE(np.array([0.0, 0.2, 0.4, 0.6, 1.0, np.nan]))
    np.testing.assert_allclose(found, [0.1, 0.1, 0.5, 0.9, 0.9, np.nan])


def test_each_keypoint_goes_by_its_own_table_and_its_stage() -> None:
    keypoints = np.zeros((3, 3, 3), np.float32)
    keypoints[:, :, :2] = 7.0
    keypoints[:, :, 2] = [[0.4, 0.0, 1.0], [0.4, 0.2, 0.9], [0.1, np.nan, 0.5]]
    refined = np.array([False, True, False])
    calibration = ScoreCalibration(TABLES, THREE)
    people = calibration.apply(keypoints, refined)
    np.testing.assert_allclose(keypoints[:, :, 2], [[0.5, 0.0, 0.5], [0.25] * 3, [0.1, np.nan, 0.25]], rtol=1e-6)
    assert (keypoints[:, :, :2] == 7.0).all()
    assert people.dtype == np.float32
    # Of the raw scores, weighted by themselves: 1.16 / 1.4 and 1.01 / 1.5.
    np.testing.assert_allclose(people, [1.0, (1.01 / 1.5 - 0.25) / 0.5, np.nan], rtol=1e-5)


def test_nobody_is_no_error() -> None:
    keypoints = np.zeros((0, 3, 3), np.float32)
    assert ScoreCalibration(TABLES, THREE).apply(keypoints, np.zeros(0, np.bool_)).shape == (0,)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"raw": [0.1, 0.2], "probability": [0.5]}, "as many probabilities as raw scores, got 1 and 2"),
        ({"raw": [0.2, 0.2], "probability": [0.5, 0.6]}, "ascending raw scores"),
        ({"raw": [0.1, 0.2], "probability": [0.5, 0.4]}, "probabilities that never fall"),
        ({"raw": [0.1, 1.2], "probability": [0.5, 0.6]}, "numbers from 0 to 1"),
        ({"raw": [0.1, 0.2], "probability": [0.5, float("nan")]}, "numbers from 0 to 1"),
        ({"raw": [], "probability": []}, "at least 1"),
        ({"raw": [0.1], "probability": [0.5], "more": 1}, "more"),
    ],
)
def test_a_table_that_is_none_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ScoreTable.model_validate(values)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ((HANDS,), "once, but not so: nose"),
        ((HANDS, NOSE, NOSE), "once, but not so: nose"),
        ((HANDS, NOSE, NOSE.model_copy(update={"keypoints": ("tail",)})), "once, but not so: tail"),
    ],
)
def test_tables_of_another_skeleton_are_refused(tables: tuple[KeypointTable, ...], says: str) -> None:
    other = TABLES.model_copy(update={"fine": tables})
    with pytest.raises(ConfigError, match=rf"scores\.fine: expected each keypoint of three {says}"):
        ScoreCalibration(other, THREE)


def test_tables_read_back_as_they_were() -> None:
    assert ScoreTables.model_validate_json(TABLES.model_dump_json()) == TABLES


def test_scores_of_a_person() -> None:
    scores = np.array([[0.9, 0.6, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.3, 0.3, 0.2, 0.3]], np.float32)
    np.testing.assert_allclose(person_score(scores), [1.17 / 1.5, 0, 0.31 / 1.1], rtol=1e-6)
    assert person_score(scores).dtype == np.float32

"""Scores of results: the heatmaps' peaks, or, by a bundle's score tables, probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from score_tables import score_tables
from stand_in_stages import PICTURE, Ticks, TimedStages, some_boxes, stub_estimator

from sharpose.bundle import Bundle, open_bundle
from sharpose.runtime import Boxes, Picture, PoseEstimator
from sharpose.runtime.refinement import DeadlineScheduler

COARSE = [0.25] * 17  # of a peak of 0.5
FINE = [0.25] + [0.85] * 16  # of a peak of 0.9


@pytest.fixture(scope="module")
def raw(nano_bundle: Path) -> Bundle:
    return open_bundle(nano_bundle)


@pytest.fixture(scope="module")
def calibrated(raw: Bundle) -> Bundle:
    return Bundle(raw.path, raw.manifest.model_copy(update={"scores": score_tables()}))


def test_each_pose_goes_by_the_table_of_its_stage(raw: Bundle, calibrated: Bundle) -> None:
    boxes = Boxes.from_xyxy(some_boxes(6), [1.0, 1.0, 0.5, 1.0, 1.0, 0.5])  # two chunks
    qualities = [0.2, 0.9, 0.2, 0.9, 0.2, 0.9]
    estimator, _ = stub_estimator(calibrated, qualities, quality_threshold=0.5)
    found = estimator(PICTURE, boxes)
    assert found.refined.tolist() == [True, False] * 3
    np.testing.assert_allclose(found.keypoints[:, :, 2], [FINE, COARSE] * 3, rtol=1e-6)
    assert found.confidence is not None
    fine, coarse = 0.8 * 0.9, 0.8 * 0.5  # of the peaks, all alike
    np.testing.assert_allclose(found.confidence, [fine, coarse] * 3, rtol=1e-6)
    np.testing.assert_allclose(found.scores, [fine, coarse, fine / 2, coarse, fine, coarse / 2], rtol=1e-6)
    assert estimator.score_tables == score_tables()

    without, _ = stub_estimator(raw, qualities, quality_threshold=0.5)
    peaks = without(PICTURE, boxes)
    assert (peaks.confidence, without.score_tables) == (None, None)
    np.testing.assert_allclose(peaks.keypoints[:, :, 2], np.repeat([[0.9], [0.5]] * 3, 17, axis=1), rtol=1e-6)
    np.testing.assert_allclose(peaks.scores, [0.9, 0.5, 0.45, 0.5, 0.9, 0.25], rtol=1e-6)
    np.testing.assert_array_equal(peaks.keypoints[:, :, :2], found.keypoints[:, :, :2])


def test_pictures_and_nobody(calibrated: Bundle) -> None:
    estimator, _ = stub_estimator(calibrated, refine="never")
    boxes = [Boxes.from_xyxy(some_boxes(2)), Boxes.empty(), Boxes.from_xyxy(some_boxes(1))]
    results = estimator.estimate([Picture(PICTURE, item) for item in boxes])
    confidences = [result.confidence for result in results]
    assert [len(item) for item in confidences if item is not None] == [2, 0, 1]


def test_a_pose_that_carries_over_is_as_sure_as_it_was(calibrated: Bundle) -> None:
    """Refined in the first frame; there is no time to do so in the second, and nobody has moved."""
    clock = Ticks()
    scheduler = DeadlineScheduler(clock=clock, carry=True)
    stages = TimedStages(calibrated, clock)
    estimator = PoseEstimator.from_stages(calibrated, stages, scheduler=scheduler)
    estimator.warm_up()
    box = Boxes.from_xyxy([[0, 0, 154, 205]])
    results = []
    for time, milliseconds in ((0.0, 1000), (0.1, 2)):
        stages.qualities = [0.5]
        (result,) = estimator.estimate([Picture(PICTURE, box, 0, time, clock.now + milliseconds / 1000)])
        results.append(result)
    first, second = results
    assert first.refined.tolist() == [True]
    assert second.carried is not None
    assert (second.refined.tolist(), second.carried.tolist()) == ([False], [True])
    for result in results:
        np.testing.assert_allclose(result.keypoints[0, :, 2], FINE, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(first.confidence), np.asarray(second.confidence))

"""Curves: their thresholds, rates and ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sharpose.skeleton import COCO17
from sharpose.training.evaluation.coco_ap import coco_results, coco_scores
from sharpose.training.evaluation.data import EvaluationData
from sharpose.training.evaluation.gate import candidate_thresholds, measure_curve
from sharpose.training.evaluation.predict import Predictions


def test_thresholds_refine_even_shares_from_nobody_to_everybody() -> None:
    quality = np.random.default_rng(0).uniform(0, 1, 40).astype(np.float32)
    thresholds = candidate_thresholds(quality, 5)
    assert [int((quality < np.float32(value)).sum()) for value in thresholds] == [0, 10, 20, 30, 40]
    equal = candidate_thresholds(np.full(10, 0.5, np.float32), 5)
    assert [int(np.float32(0.5) < np.float32(value)) for value in equal] == [0, 1]
    assert len(candidate_thresholds(np.array([np.nan], np.float32))) == 1


def test_the_ends_of_a_curve_are_never_and_always(
    labelled: Callable[..., EvaluationData], predicted: Callable[..., Predictions]
) -> None:
    data = labelled(20, 2)
    predictions = predicted(data)
    curve = measure_curve(data, predictions)
    points = curve.points(data.image_ids)
    assert (points[0].refine_rate, points[-1].refine_rate) == (0.0, 1.0)
    assert [point.refine_rate for point in points] == pytest.approx(np.linspace(0, 1, 21))
    for mode, point in (("never", points[0]), ("always", points[-1])):
        poses = predictions.gated(mode, 0.0)  # type: ignore[arg-type]
        scores = coco_scores(data.document or {}, coco_results(data, predictions, poses), COCO17, data.image_ids)
        assert point.ap == pytest.approx(scores.ap, abs=1e-12)
    assert points[-1].ap > points[0].ap + 0.05


def test_rates_count_pictures_as_often_as_they_are_named(
    labelled: Callable[..., EvaluationData], predicted: Callable[..., Predictions]
) -> None:
    data = labelled(3, 1)
    predictions = predicted(data)
    predictions.quality[:, 0] = (0.1, 0.5, 0.9)
    curve = measure_curve(data, predictions, [0.3])
    assert curve.refine_rate(0, [0, 1, 2]) == pytest.approx(1 / 3)
    assert curve.refine_rate(0, [0, 0, 2]) == pytest.approx(2 / 3)
    assert np.isnan(curve.refine_rate(0, []))


def test_a_flip_test_counts_passes(
    labelled: Callable[..., EvaluationData], predicted: Callable[..., Predictions]
) -> None:
    data = labelled(2)
    plain = predicted(data)
    poses = np.stack([plain.poses, plain.poses + np.float32(1)], axis=2)  # the mirrored pass last
    both = Predictions(
        plain.boxes_xyxy, plain.box_scores, plain.frame_areas, np.array([[0.1, 0.9], [0.1, 0.2]], np.float32), poses
    )
    gated = both.gated("auto", 0.5)
    assert gated.refined.tolist() == [0.5, 1.0]
    assert np.array_equal(gated.keypoints[0], poses[0, 1, 0])
    assert np.array_equal(gated.keypoints[1], poses[1, 1, 1])
    assert both.gated("never", 0.5).refined.tolist() == [0, 0]

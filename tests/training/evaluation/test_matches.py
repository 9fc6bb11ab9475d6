"""The AP that is bootstrapped is pycocotools' AP."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from sharpose.skeleton import COCO17
from sharpose.training.evaluation.coco_ap import average_precision, coco_results, coco_scores, match_pictures
from sharpose.training.evaluation.data import EvaluationData
from sharpose.training.evaluation.predict import Predictions


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_on_any_set_of_pictures(
    labelled: Callable[..., EvaluationData], predicted: Callable[..., Predictions], seed: int
) -> None:
    data = labelled(15, 3, seed)
    predictions = predicted(data, seed)
    document = data.document or {}
    document["annotations"][4]["num_keypoints"] = 0  # doesn't count, and neither does the pose that matches it
    results = coco_results(data, predictions, predictions.gated("auto", 0.5))
    del results[7]  # somebody is missed
    matches = match_pictures(document, results, COCO17, data.image_ids)
    for pictures in (range(15), range(3, 9), [11]):
        own = average_precision([matches[picture] for picture in pictures])
        assert own == pytest.approx(coco_scores(document, results, COCO17, pictures).ap, abs=1e-12)


def test_without_labels_there_is_no_ap_and_without_poses_it_is_zero(
    labelled: Callable[..., EvaluationData], predicted: Callable[..., Predictions]
) -> None:
    data = labelled(2)
    document = data.document or {}
    assert math.isnan(average_precision([]))
    matches = match_pictures(document, [], COCO17, data.image_ids)
    assert average_precision(list(matches.values())) == 0.0

"""AP: pycocotools' own number for the same file and for any set of pictures."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sharpose.coco.ap import average_precision, change_interval, coco_scores, match_pictures
from sharpose.errors import InputError
from sharpose.skeleton import COCO17
from sharpose.training.evaluation.data import EvaluationData
from sharpose.training.evaluation.predict import Predictions, coco_results

Data = Callable[..., EvaluationData]
Poses = Callable[..., Predictions]


def test_it_is_what_pycocotools_says_of_the_file(labelled: Data, predicted: Poses, tmp_path: Path) -> None:
    data = labelled(12, 3)
    predictions = predicted(data)
    results = coco_results(data, predictions, predictions.gated("auto", 0.5))
    scores = coco_scores(data.document or {}, results, COCO17, data.image_ids)
    (tmp_path / "labels.json").write_text(json.dumps(data.document))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "labels.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert list(vars(scores).values()) == evaluation.stats.tolist()
    assert 0.2 < scores.ap < 0.99


def test_perfect_poses_have_ap_one(labelled: Data, predicted: Poses) -> None:
    data = labelled(5, 2)
    perfect = predicted(data, coarse=0.0, fine=0.0)
    scores = coco_scores(data.document or {}, coco_results(data, perfect, perfect.gated("never", 0)), COCO17, range(5))
    assert (scores.ap, scores.ap50, scores.ap75, scores.ar) == (1.0, 1.0, 1.0, 1.0)


def test_results_hold_what_coco_asks_for_and_copies_are_suppressed(labelled: Data, predicted: Poses) -> None:
    data = labelled(1, 2)
    predictions = predicted(data, coarse=0.0)
    predictions.poses[1] = predictions.poses[0]
    (result,) = coco_results(data, predictions, predictions.gated("never", 0))
    assert set(result) == {"image_id", "category_id", "keypoints", "score"}
    assert len(result["keypoints"]) == 51
    assert result["score"] == pytest.approx(float(predictions.poses[0, 0, :, 2].mean()))


def test_areas_are_those_around_keypoints(labelled: Data, predicted: Poses) -> None:
    """As in COCO's results: a false pose in a large box, with a small extent, is none of the large people's."""
    data = labelled(1, 2)
    document = data.document or {}
    document["annotations"].pop()  # nobody is where the second pose is found
    perfect = predicted(data, coarse=0.0, fine=0.0)
    perfect.poses[1, :, :, :2] = 200 + perfect.poses[1, :, :, :2] / 10
    perfect.poses[:, :, :, 2] = np.array([0.5, 0.9])[:, None, None]  # the false one is surer
    results = coco_results(data, perfect, perfect.gated("never", 0))
    assert len(results) == 2
    for item in results:
        item["bbox"] = [10.0, 20.0, 100.0, 260.0]  # as other programs' results have it
    scores = coco_scores(document, results, COCO17, data.image_ids)
    assert scores.ap == pytest.approx(0.5, abs=0.01)
    assert scores.ap_large == pytest.approx(1)


def test_scores_are_rescored_with_the_keypoints_above_a_fifth(labelled: Data, predicted: Poses) -> None:
    data = labelled(1)
    predictions = predicted(data)
    predictions.box_scores[:] = 0.5
    predictions.poses[0, 0, :, 2] = 0.1
    predictions.poses[0, 0, :2, 2] = (0.6, 1.0)
    assert predictions.gated("never", 0).scores.tolist() == pytest.approx([0.4])
    predictions.poses[0, 0, :, 2] = 0.2
    assert predictions.gated("never", 0).scores.tolist() == [0.0]


def test_no_results_are_ap_zero_and_foreign_ones_are_refused(labelled: Data) -> None:
    data = labelled(2)
    assert coco_scores(data.document or {}, [], COCO17, data.image_ids).ap == 0.0
    with pytest.raises(InputError, match=r"pictures of the labels, got others too: \[9\]"):
        coco_scores(data.document or {}, [{"image_id": 9}], COCO17, data.image_ids)


def test_other_skeletons_use_their_own_constants(labelled: Data, predicted: Poses) -> None:
    data = labelled(6)
    predictions = predicted(data)
    results = coco_results(data, predictions, predictions.gated("never", 0))
    strict = type(COCO17)("strict", COCO17.keypoints, (), (), tuple(np.array(COCO17.sigmas) / 4))
    normal = coco_scores(data.document or {}, results, COCO17, data.image_ids)
    assert coco_scores(data.document or {}, results, strict, data.image_ids).ap < normal.ap


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


def test_the_interval_of_a_change_holds_it_and_narrows_with_pictures(
    labelled: Callable[..., EvaluationData], predicted: Callable[..., Predictions]
) -> None:
    widths = []
    for count in (8, 80):
        data = labelled(count, 3, 5)
        document = data.document or {}
        before, after = (
            match_pictures(document, coco_results(data, poses, poses.gated("auto", 0.5)), COCO17, data.image_ids)
            for poses in (predicted(data, 1), predicted(data, 2))
        )
        low, high = change_interval(before, after)
        assert low < average_precision(list(after.values())) - average_precision(list(before.values())) < high
        assert change_interval(after, before) == pytest.approx((-high, -low))  # the same draws for both
        assert change_interval(before, before) == (0.0, 0.0)
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]
    assert all(map(math.isnan, change_interval({}, {})))

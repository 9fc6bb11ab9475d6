"""Reports and plots: what isn't known is a dash or null, and files are what they claim to be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from sharpose.errors import SinkError
from sharpose.training.evaluation.data import EvaluationData
from sharpose.training.evaluation.gate import Promise, choose_threshold, judge, measure_curve, measure_ideal_gates
from sharpose.training.evaluation.metrics import evaluate, poses_oks
from sharpose.training.evaluation.predict import Predictions
from sharpose.training.evaluation.report import (
    Subject,
    as_markdown,
    as_numbers,
    choice_lines,
    plot_curve,
    plot_quality,
    print_evaluation,
)

Data = Callable[..., EvaluationData]
Poses = Callable[..., Predictions]
SUBJECT = Subject("a model", "cpu", "fp32", "made up", "labelled", False, "raw", 20, 40)


def test_everything_that_was_found_is_in_the_report(labelled: Data, predicted: Poses) -> None:
    data = labelled(20, 2)
    predictions = predicted(data)
    evaluation = evaluate(data, predictions, 0.5)
    curve = measure_curve(data, predictions)
    choice = choose_threshold(curve, data.image_ids, Promise("refine-rate", 0.5))
    ideal = measure_ideal_gates(data, predictions)
    text = as_markdown(SUBJECT, evaluation, curve.points(data.image_ids), choice, ideal, plots=True)
    never, auto, always = evaluation.modes
    assert never.coco is not None
    assert always.coco is not None
    assert f"| never | 0.0% | {100 * never.coco.ap:.1f} |" in text
    assert f"| auto (below 0.5) | {auto.refine_rate:.1%} |" in text
    assert f"| always | 100.0% | {100 * always.coco.ap:.1f} |" in text
    assert never.coco.ap < always.coco.ap
    assert never.pck[0.05] < always.pck[0.05] <= always.pck[0.1]
    assert "Promise refine-rate<=0.5: threshold" in text
    assert f"({choice.chosen_value:.1%} of the people refined). On the other " in text
    assert f"95% bootstrap interval {choice.interval[0]:.1%} to {choice.interval[1]:.1%}: {choice.verdict}" in text
    assert f"{choice.held_out_value:.1%} (95% interval {choice.interval[0]:.1%} to " in choice.describe("x")
    assert text.count("\n| ") > 35
    numbers = json.loads(json.dumps(as_numbers(SUBJECT, evaluation, [], choice, ideal), allow_nan=False))
    assert numbers["modes"]["always"]["coco"]["ap"] == always.coco.ap
    assert numbers["choice"]["verdict"] == choice.verdict
    half = ideal[-1]
    aps = half.predicted, half.true_quality, half.true_gain
    assert "| 50.0% | " + " | ".join(f"{100 * ap:.1f}" for ap in aps) + " |" in text
    assert numbers["ideal_gates"][-1] == dict(
        zip(("spared", "predicted", "true_quality", "true_gain"), (0.5, *aps), strict=True)
    )
    assert evaluation.gain is not None
    assert numbers["gain"]["gain"] == list(evaluation.gain.gain)
    assert f"{evaluation.gain.gain[0]:+.3f} at {evaluation.gain.quality[0]:.2f}" in text
    assert evaluation.calibration.rank_correlation > 0.5
    scores = evaluation.score_calibration
    assert scores.count == 40 * 17
    assert "Scores of 680 labelled keypoints against the share that is right" in text
    assert f"as in OKS): bias {scores.bias:+.3f}, reliability error (ECE) {scores.reliability_error:.3f}." in text
    assert "* scores: raw\n" in text
    people = evaluation.person_calibration
    assert people.count == 40
    assert f"Scores of 40 people against the share that is right (OKS of 0.5): bias {people.bias:+.3f}" in text
    assert numbers["person_calibration"]["reliability_error"] == people.reliability_error
    assert f"| {scores.bins[0].low:.3f} to {scores.bins[0].high:.3f} | 68 |" in text
    assert numbers["score_calibration"]["bins"][9]["true"] == scores.bins[9].true


def test_without_ap_there_are_dashes(labelled: Data, predicted: Poses) -> None:
    data = replace(labelled(2), document=None)
    evaluation = evaluate(data, predicted(data), 0.5)
    assert "| never | 0.0% | – | – | – | – |" in as_markdown(SUBJECT, evaluation, [], None, plots=False)
    console = Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    print_evaluation(evaluation, console)
    assert "│ always" in console.export_text()


def test_pckh_has_its_own_table(labelled: Data, predicted: Poses) -> None:
    data = labelled(3)
    data = replace(data, people=replace(data.people, head_sizes=np.full(3, 20.0)))
    text = as_markdown(SUBJECT, evaluate(data, predicted(data), 0.5), [], None, plots=False)
    assert "## PCKh@0.5" in text
    assert "| PCKh@0.5 |" in text


def test_detections_are_compared_with_the_best_label_and_have_no_pck(labelled: Data, predicted: Poses) -> None:
    data = labelled(4, 2)
    predictions = predicted(data)
    detected = replace(data, people=replace(data.people, labelled=False, keypoints=data.people.keypoints * 0))
    coarse = predictions.gated("never", 0.0)
    np.testing.assert_allclose(poses_oks(detected, coarse), poses_oks(data, coarse), rtol=1e-5)
    assert evaluate(detected, predictions, 0.5).modes[0].pck == {}


def test_boxes_on_nothing_are_no_people_whose_quality_is_judged(labelled: Data, predicted: Poses) -> None:
    data = labelled(20, 2)
    perfect = predicted(data, coarse=0.0, fine=0.0)
    boxes = perfect.boxes_xyxy.copy()
    boxes[20:, :2] = boxes[20:, 2:] - [100, 129]  # an overlap just below a half
    boxes[:20, :2] = boxes[:20, 2:] - [100, 131]  # and just above
    perfect.quality[:] = 0.75
    people = replace(data.people, labelled=False, keypoints=data.people.keypoints * 0, boxes_xyxy=boxes)
    perfect.poses[20:, :, :, :2] = 0
    found = evaluate(replace(data, people=people), perfect, 0.5)
    assert found.calibration.count == 20
    assert found.calibration.bias == pytest.approx(-0.25)
    assert np.isnan(found.oks).tolist() == [False] * 20 + [True] * 20
    assert found.person_calibration.count == 40  # their scores are to say that these are no people
    text = as_markdown(SUBJECT, found, [], None, plots=False)
    assert "of the coarse pose, 20 boxes on labelled people (IoU of 0.5 and more): rank correlation undefined" in text
    assert "Scores of 40 boxes against the share that is right (OKS of 0.5)" in text
    perfect.quality[:, 0] = np.linspace(0.5, 1, 40)
    people = replace(people, boxes_xyxy=perfect.boxes_xyxy)
    gain = evaluate(replace(data, people=people), perfect, 0.5).gain
    assert gain is not None
    assert gain.measured_on == "made up, 40 boxes on labelled people"


def test_a_promise_has_three_verdicts(labelled: Data, predicted: Poses) -> None:
    data = labelled(20, 2)
    curve = measure_curve(data, predicted(data))
    choice = choose_threshold(curve, data.image_ids, Promise("refine-rate", 0.5))
    for value, low, verdict, words in (
        (0.5, 0.4, "kept", ": kept."),
        (0.6, 0.5, "within chance", ": within chance (not kept there, but the interval reaches the limit)."),
        (0.6, 0.55, "not kept", ": not kept."),
    ):
        assert judge(choice.promise, value, low) == verdict
        changed = replace(choice, verdict=judge(choice.promise, value, low))
        assert choice_lines(changed).endswith(words)
        assert changed.describe("x").endswith(f": {verdict}")


def test_the_closing_line_counts_who_was_used() -> None:
    assert SUBJECT.closing_lines()[-1].startswith(f"{SUBJECT.data}: {SUBJECT.people} people used")
    detected = replace(SUBJECT, boxes="detections.json", people=1, left_out={"crowd": 2})
    assert detected.closing_lines()[-1] == f"{SUBJECT.data}: 1 box used, 2 left out (2 crowd)"


def test_plots_are_pictures(labelled: Data, predicted: Poses, tmp_path: Path) -> None:
    data = labelled(6, 2)
    predictions = predicted(data)
    evaluation = evaluate(data, predictions, 0.5)
    points = measure_curve(data, predictions).points(data.image_ids)
    plot_curve(points, points[3], tmp_path / "a.png")
    plot_quality(predictions.quality[:, 0], evaluation.oks, evaluation.calibration, 0.5, tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None
        assert picture.shape[1] > 500
        assert picture.std() > 5
    with pytest.raises(SinkError, match="can't be written"):
        plot_curve(points, None, tmp_path / "no folder" / "a.png")

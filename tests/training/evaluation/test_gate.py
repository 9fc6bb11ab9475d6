"""The gate: its curve, the choice of a threshold, and writing it into a bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sharpose.bundle import GainCurve, open_bundle
from sharpose.coco.ap import coco_scores
from sharpose.errors import BundleError, InputError
from sharpose.skeleton import COCO17
from sharpose.training.evaluation.data import EvaluationData
from sharpose.training.evaluation.gate import (
    GateCurve,
    Promise,
    candidate_thresholds,
    choose_point,
    choose_threshold,
    measure_curve,
    measure_ideal_gates,
    parse_promise,
    write_gate,
)
from sharpose.training.evaluation.predict import Predictions, coco_results


@pytest.fixture
def bundle(nano_bundle: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    shutil.copytree(nano_bundle, folder)
    return folder


def test_only_the_gate_changes(bundle: Path) -> None:
    before = json.loads((bundle / "bundle.json").read_text())
    files = {path.name: path.read_bytes() for path in bundle.iterdir() if path.name != "bundle.json"}
    gain = GainCurve(quality=(0.25, 0.5), gain=(0.125, -0.5), measured_on="people")
    write_gate(bundle, 0.8125, "a test", gain)
    after = json.loads((bundle / "bundle.json").read_text())
    written = {"quality": [0.25, 0.5], "gain": [0.125, -0.5], "measured_on": "people"}
    assert after.pop("gate") == {"quality_threshold": 0.8125, "chosen_by": "a test", "gain": written}
    before.pop("gate")
    assert after == before
    assert {path.name: path.read_bytes() for path in bundle.iterdir() if path.name != "bundle.json"} == files
    gate = open_bundle(bundle).manifest.gate
    assert (gate.quality_threshold, gate.gain) == (0.8125, gain)


def test_a_bundle_without_a_gain_is_read(bundle: Path) -> None:
    path = bundle / "bundle.json"
    text = json.loads(path.read_text())
    text["gate"].pop("gain", None)
    path.write_text(json.dumps(text))
    assert open_bundle(bundle).manifest.gate.gain is None


@pytest.mark.parametrize(
    ("quality", "gain", "says"),
    [
        ((0.5, 0.25), (0.0, 0.0), "ascending"),
        ((0.25, 0.5), (0.0,), "as many gains as qualities"),
        ((0.25,), (float("nan"),), "finite"),
    ],
)
def test_a_gain_that_is_no_line_is_refused(quality: tuple[float, ...], gain: tuple[float, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GainCurve(quality=quality, gain=gain, measured_on="")


def test_a_failed_write_leaves_the_old_one(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (bundle / "bundle.json").read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BundleError, match="No space left"):
        write_gate(bundle, 0.5, "a test")
    assert (bundle / "bundle.json").read_bytes() == before
    assert not [path for path in bundle.iterdir() if path.name.startswith(".")]


def test_a_damaged_bundle_is_refused(bundle: Path) -> None:
    (bundle / "weights.bin").write_bytes(b"")
    with pytest.raises(BundleError, match="damaged"):
        write_gate(bundle, 0.5, "a test")


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


def test_what_a_better_gate_could_reach(
    labelled: Callable[..., EvaluationData], predicted: Callable[..., Predictions]
) -> None:
    """A person whose refined pose is worse is spared by the true gain first, one who can't be better by the truth."""
    data = labelled(10, 1)
    predictions = predicted(data)
    poses = predictions.poses
    poses[:, 0, :, :2] = data.people.keypoints[:, :, :2] + 12  # coarse: the same small error for all
    poses[:, 1, :, :2] = data.people.keypoints[:, :, :2]
    poses[3, 0], poses[3, 1] = poses[3, 0] - [8, 8, 0], poses[3, 1] + [40, 40, 0]  # refining ruins this one,
    poses[6, :, :, :2] = data.people.keypoints[6, :, :2] + 1  # does nothing for this one,
    poses[8, 0] += [60, 60, 0]  # and helps this one most, whose quality is predicted to be the highest
    predictions.quality[:, 0] = 0.5
    predictions.quality[8, 0] = 0.9
    first, *_, last = measure_ideal_gates(data, predictions)
    assert (first.spared, last.spared) == (0.1, 0.5)

    def ap_sparing(person: int) -> float:
        poses = predictions.refined_where(np.arange(10) != person)
        return coco_scores(data.document or {}, coco_results(data, predictions, poses), COCO17, data.image_ids).ap

    expected = ap_sparing(8), ap_sparing(6), ap_sparing(3)
    assert (first.predicted, first.true_quality, first.true_gain) == pytest.approx(expected, abs=1e-12)
    assert expected[0] < expected[1] < expected[2]
    assert [point.spared for point in measure_ideal_gates(labelled(3, 1), predicted(labelled(3, 1)))] == [1 / 3, 2 / 3]


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


Data = Callable[..., EvaluationData]
Poses = Callable[..., Predictions]


def test_promises_are_read() -> None:
    assert parse_promise("ap-loss<=0.2") == Promise("ap-loss", 0.2)
    assert parse_promise(" refine-rate <= .4 ") == Promise("refine-rate", 0.4)
    assert str(parse_promise("ap-loss<=2")) == "ap-loss<=2"
    for text in ("ap-loss<0.2", "loss<=1", "refine-rate<=1.5", "refine-rate<=40%", "ap-loss<=-1", ""):
        with pytest.raises(InputError, match="--choose-threshold: expected"):
            parse_promise(text)


@pytest.mark.parametrize(
    ("promise", "aps", "chosen"),
    [
        ("ap-loss<=1", (0.60, 0.69, 0.695, 0.70), 1),
        ("ap-loss<=0.4", (0.60, 0.69, 0.695, 0.70), 3),
        ("ap-loss<=1", (0.70, 0.60, 0.695, 0.70), 2),  # a lucky start isn't taken
        ("ap-loss<=0", (0.80, 0.75, 0.70, 0.70), 0),  # the fine stage only harms
        ("refine-rate<=0.4", (0.60, 0.69, 0.695, 0.70), 1),
        ("refine-rate<=1", (0.60, 0.69, 0.695, 0.70), 3),
        ("refine-rate<=0", (0.60, 0.69, 0.695, 0.70), 0),
    ],
)
def test_the_rule(promise: str, aps: tuple[float, ...], chosen: int) -> None:
    asked = parse_promise(promise)

    def value(index: int) -> float:
        return 100 * (aps[-1] - aps[index]) if asked.kind == "ap-loss" else index / (len(aps) - 1)

    assert choose_point(value, len(aps), asked) == chosen


def curve_of(data: EvaluationData, predictions: Predictions) -> GateCurve:
    return measure_curve(data, predictions, candidate_thresholds(predictions.quality, 11))


@pytest.mark.parametrize("promise", [Promise("ap-loss", 3.0), Promise("refine-rate", 0.4)], ids=str)
def test_promises_are_kept_on_held_out_pictures(
    labelled: Data, predicted: Poses, promise: Promise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharpose.training.evaluation.gate._CHOOSING_RESAMPLES", 50)
    monkeypatch.setattr("sharpose.training.evaluation.gate._CHECKING_RESAMPLES", 100)
    kept, rates = 0, []
    for seed in range(5):
        data = labelled(80, 1, seed)
        choice = choose_threshold(curve_of(data, predicted(data, seed)), data.image_ids, promise, seed + 50)
        assert choice.pictures == (40, 40)
        assert choice.chosen_value <= promise.limit + 1e-9
        assert choice.interval[0] <= choice.held_out_value <= choice.interval[1]
        assert (choice.verdict == "kept") == (choice.held_out_value <= promise.limit)
        assert (choice.verdict == "not kept") == (choice.interval[0] > promise.limit)
        assert f"{promise} on some labels" in choice.describe("some labels")
        kept += choice.verdict != "not kept"
        rates.append(choice.checked_on.refine_rate)
    assert kept >= 4  # an interval of 95 % leaves room for bad luck
    if promise.kind == "refine-rate":
        assert 0.2 < np.mean(rates) < 0.4  # the budget is used, but for some caution
    else:
        assert np.mean(rates) < 0.9  # something is saved


def test_the_same_seed_chooses_the_same(labelled: Data, predicted: Poses) -> None:
    data = labelled(30)
    curve = curve_of(data, predicted(data))
    first, again = (choose_threshold(curve, data.image_ids, Promise("ap-loss", 2.0), 3) for _ in range(2))
    assert first == again


def test_a_promise_that_breaks_is_seen(labelled: Data, predicted: Poses) -> None:
    """On the half it is chosen on, coarse poses are as good as fine ones; on the other, quality hides bad ones."""
    data = labelled(60)
    predictions = predicted(data, coarse=60.0, fine=1.0)
    chosen = set(np.random.default_rng(5).permutation(np.arange(60))[:30].tolist())
    for row, image_id in enumerate(data.people.image_ids.tolist()):
        if image_id not in chosen:
            predictions.quality[row] = 5.0
        else:
            predictions.poses[row, 0] = predictions.poses[row, 1]
    broken = choose_threshold(curve_of(data, predictions), data.image_ids, Promise("ap-loss", 1.0), seed=5)
    assert broken.chosen_value <= 1.0
    assert broken.interval[0] > 1.0
    assert broken.verdict == "not kept"


def test_too_little_to_choose_on_is_refused(labelled: Data, predicted: Poses) -> None:
    data = labelled(1)
    with pytest.raises(InputError, match="both halves"):
        choose_threshold(curve_of(data, predicted(data)), data.image_ids, Promise("refine-rate", 0.4))
    data = labelled(6)
    useless = predicted(data, coarse=900.0, fine=900.0)
    with pytest.raises(InputError, match="no loss can be measured"):
        choose_threshold(curve_of(data, useless), data.image_ids, Promise("ap-loss", 0.2))

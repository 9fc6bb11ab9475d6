"""The choice of a threshold: promises, the rule, and what held-out pictures say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sharpose.errors import InputError
from sharpose.training.evaluation.data import EvaluationData
from sharpose.training.evaluation.gate import (
    GateCurve,
    Promise,
    choose_point,
    choose_threshold,
    measure_curve,
    parse_promise,
)
from sharpose.training.evaluation.predict import Predictions

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
    return measure_curve(data, predictions)


@pytest.mark.parametrize("promise", [Promise("ap-loss", 3.0), Promise("refine-rate", 0.4)], ids=str)
def test_promises_are_kept_on_held_out_pictures(labelled: Data, predicted: Poses, promise: Promise) -> None:
    kept, rates = 0, []
    for seed in range(5):
        data = labelled(80, 1, seed)
        choice = choose_threshold(curve_of(data, predicted(data, seed)), data.image_ids, promise, seed + 50)
        assert choice.pictures == (40, 40)
        assert choice.chosen_value <= promise.limit + 1e-9
        assert choice.interval[0] <= choice.held_out_value <= choice.interval[1]
        assert choice.kept == (choice.interval[0] <= promise.limit)
        assert f"{promise} on some labels" in choice.describe("some labels")
        kept += choice.kept
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
    assert not broken.kept


def test_too_little_to_choose_on_is_refused(labelled: Data, predicted: Poses) -> None:
    data = labelled(1)
    with pytest.raises(InputError, match="both halves"):
        choose_threshold(curve_of(data, predicted(data)), data.image_ids, Promise("refine-rate", 0.4))
    data = labelled(6)
    useless = predicted(data, coarse=900.0, fine=900.0)
    with pytest.raises(InputError, match="no loss can be measured"):
        choose_threshold(curve_of(data, useless), data.image_ids, Promise("ap-loss", 0.2))

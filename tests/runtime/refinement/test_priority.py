"""Who gains most from a closer look."""

from __future__ import annotations

import numpy as np
import pytest

from sharpose.bundle import GainCurve
from sharpose.runtime.refinement.priority import TURN_EVERY, Candidates, expected_gain, priority, with_turns


def gains(quality: list[float], pixels: list[float], threshold: float = 0.99) -> list[float]:
    return expected_gain(np.array(quality, np.float32), threshold, np.array(pixels, np.float32)).tolist()


def test_the_worse_gain_more() -> None:
    assert gains([0.2, 0.6, 0.8], [1, 1, 1]) == pytest.approx([0.79, 0.39, 0.19])


def test_nobody_gains_nothing_or_more_than_all() -> None:
    low, high = gains([0.99, -3.0], [1, 1])
    assert low == pytest.approx(0.1)
    assert high == 1.0
    assert gains([0.5], [1], threshold=float("inf")) == pytest.approx([0.5])


def test_the_larger_gain_more_as_long_as_there_is_detail_to_see() -> None:
    found = gains([0.49] * 5, [0.1, 0.5, 0.8, 1.0, 4.0])
    assert found == pytest.approx([0.2, 0.2, 0.3, 0.5, 0.5])


def test_what_was_measured_counts_before_what_lacks() -> None:
    measured = GainCurve(quality=(0.2, 0.5, 0.9), gain=(0.02, 0.08, -0.01), measured_on="")
    quality = np.array([0.1, 0.2, 0.35, 0.5, 0.9, 1.2], np.float32)
    found = expected_gain(quality, 0.99, np.ones(6, np.float32), measured)
    assert found == pytest.approx([0.25, 0.25, 0.625, 1.0, 0.1, 0.1])
    small = expected_gain(quality, 0.99, np.full(6, 0.1, np.float32), measured)
    assert small == pytest.approx(found * 0.4)
    harmful = GainCurve(quality=(0.2,), gain=(-0.1,), measured_on="")
    assert expected_gain(quality[:1], 0.99, np.ones(1, np.float32), harmful) == pytest.approx([0.89])


def candidates(gain: list[float], **given: list[int]) -> Candidates:
    columns = {name: np.array(given.get(name, [0] * len(gain))) for name in ("waited", "still", "carried")}
    return Candidates(np.array(gain), columns["waited"], columns["still"], columns["carried"].astype(bool))


def test_among_equals_who_waits_longer_goes_first() -> None:
    assert np.argmax(priority(candidates([0.5] * 3, waited=[3, 4, 1]))) == 1
    assert np.argmax(priority(candidates([0.3, 0.5], waited=[9, 0]))) == 1  # but not before those who gain more


def test_who_keeps_something_goes_last() -> None:
    assert priority(candidates([0.5, 0.5], carried=[1, 0])) == pytest.approx([0.05, 0.5])


def test_what_lasts_counts_for_as_long() -> None:
    assert priority(candidates([0.5] * 3, still=[0, 3, 99])) == pytest.approx([0.5, 2.0, 5.5])


def test_everybody_gets_a_turn() -> None:
    waited = np.arange(20)
    order = np.arange(20)[::2]  # the longer they wait, the later they come
    turns = with_turns(order, waited, 2)
    assert turns.tolist() == [0, 2, 18, 4, 6, 8, 10, 12, 14, 16]
    assert with_turns(order, waited, 0).tolist()[0] == 18
    assert with_turns(order, waited, TURN_EVERY - 1).tolist()[:9] == [0, 2, 4, 6, 8, 10, 12, 18, 14]
    assert with_turns(order[:0], waited, 0).tolist() == []

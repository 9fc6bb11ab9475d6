"""Who gains most from a closer look."""

from __future__ import annotations

import numpy as np
import pytest

from sharpose.runtime.refinement.priority import expected_gain, priority


def gains(quality: list[float], pixels: list[float], threshold: float = 0.99) -> list[float]:
    return expected_gain(np.float32(quality), threshold, np.float32(pixels)).tolist()


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


def test_waiting_raises_and_carrying_lowers() -> None:
    ranked = priority(np.full(4, 0.5), np.array([0, 10, 30, 10]), np.array([False, False, False, True]))
    assert ranked == pytest.approx([0.5, 1.0, 2.0, 0.1])

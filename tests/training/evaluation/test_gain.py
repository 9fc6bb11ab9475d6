"""What refining gains by predicted quality: what is there is found, chance is not taken for it."""

from __future__ import annotations

import numpy as np
import pytest

from sharpose.training.evaluation.metrics import measure_gain


def test_a_hump_is_found() -> None:
    rng = np.random.default_rng(0)
    quality = rng.uniform(0, 1, 2000).astype(np.float32)
    gain = np.where((quality > 0.4) & (quality < 0.6), 0.2, 0.0)
    coarse = rng.uniform(0, 0.5, 2000)
    found = measure_gain(quality, coarse, coarse + gain + rng.normal(0, 0.1, 2000), "these")
    assert found is not None
    assert found.measured_on == "these"
    assert len(found.quality) == 10
    assert found.quality == pytest.approx(np.arange(0.05, 1, 0.1), abs=0.02)
    assert found.gain[4:6] == pytest.approx([0.2, 0.2], abs=0.03)
    assert max(*found.gain[:4], *found.gain[6:]) < 0.03


def test_chance_makes_a_level_line() -> None:
    spreads = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        gain = 0.05 + rng.normal(0, 0.2, 400)
        found = measure_gain(rng.uniform(0, 1, 400).astype(np.float32), np.zeros(400), gain, "noise")
        assert found is not None
        spreads.append(np.ptp(found.gain))
        plain = [gain.mean()] * len(found.gain)
        assert found.gain == pytest.approx(plain, abs=0.06)
    assert np.median(spreads) < 0.02  # of the bins' own means it is 0.1


def test_who_is_unknown_is_left_out_and_few_people_say_nothing() -> None:
    quality = np.linspace(0, 1, 60).astype(np.float32)
    coarse, fine = np.full(60, 0.25), np.full(60, 0.5)
    quality[0], coarse[1], fine[2] = np.nan, np.nan, np.nan
    found = measure_gain(quality, coarse, fine, "")
    assert found is not None
    assert found.gain == (0.25, 0.25)
    assert measure_gain(quality[:42], coarse[:42], fine[:42], "") is None
    assert measure_gain(quality[:0], coarse[:0], fine[:0], "") is None


def test_equal_qualities_are_one_place() -> None:
    found = measure_gain(np.full(80, 0.5, np.float32), np.zeros(80), np.arange(80) / 79, "")
    assert found is not None
    assert found.quality == (0.5,)
    assert found.gain[0] == pytest.approx(0.5, abs=0.001)

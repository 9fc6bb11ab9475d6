"""What batches are believed to cost."""

from __future__ import annotations

import numpy as np
import pytest

from sharpose.engines.two_stage import BatchBuckets
from sharpose.runtime.deadline.costs import BatchCost


def exact(largest: int = 16) -> BatchCost:
    return BatchCost(BatchBuckets(1, largest, exact=True))


def test_nothing_is_known_at_first() -> None:
    cost = exact()
    assert [cost.typical(count) for count in (0, 1, 16)] == [0, 0, 0]
    assert cost.likely(3) == 0
    assert cost.largest == 16


def test_sizes_between_are_interpolated_and_larger_ones_cost_in_proportion() -> None:
    cost = exact()
    cost.calibrate(1, [0.010])
    cost.calibrate(4, [0.9, 0.022, 0.020])  # the median: a run that was interrupted says nothing
    assert cost.typical(1) == pytest.approx(0.010)
    assert cost.typical(2) == pytest.approx(0.014)
    assert cost.typical(4) == pytest.approx(0.022)
    assert cost.typical(16) == pytest.approx(0.088)
    assert cost.typical(0) == 0


def test_smaller_ones_than_were_seen_cost_as_much() -> None:
    cost = exact()
    cost.calibrate(4, [0.02])
    assert cost.typical(1) == pytest.approx(0.02)


def test_padded_batches_cost_what_their_bucket_does() -> None:
    cost = BatchCost(BatchBuckets(1, 16))
    for size in (1, 4, 6, 16):
        cost.calibrate(size, [size * 0.001])
    assert [cost.typical(count) for count in (4, 5, 6)] == pytest.approx([0.004, 0.006, 0.006])
    cost.observe(5, 0.012)  # teaches what 6 cost
    assert cost.typical(5) == cost.typical(6) > 0.006


def test_a_margin_is_kept_for_the_batches_that_take_longer() -> None:
    rng = np.random.default_rng(0)
    cost = exact()
    cost.calibrate(2, [0.010])
    assert cost.likely(2) == pytest.approx(0.0125)  # while few were seen
    taken = 0.010 * np.exp(rng.normal(0, 0.1, 400))
    for seconds in taken:
        cost.observe(2, seconds)
    assert cost.typical(2) == pytest.approx(0.010, rel=0.08)
    assert np.mean(taken <= cost.likely(2)) == pytest.approx(0.95, abs=0.04)


def test_a_steady_machine_needs_hardly_a_margin() -> None:
    cost = exact()
    cost.calibrate(1, [0.010])
    for _ in range(30):
        cost.observe(1, 0.010)
    assert cost.likely(1) == pytest.approx(0.010)


def test_all_sizes_follow_when_the_machine_slows_down() -> None:
    cost = exact()
    for size in (1, 2, 4):
        cost.calibrate(size, [size * 0.01])
    for _ in range(30):
        cost.observe(1, 0.020)
    assert cost.typical(1) == pytest.approx(0.020, rel=0.02)
    assert 0.030 < cost.typical(4) / 2 <= 0.0401  # not seen since; most of it is believed


def test_sizes_can_change_by_themselves() -> None:
    cost = exact()
    for size in (1, 8):
        cost.calibrate(size, [size * 0.01])
    for _ in range(200):
        cost.observe(1, 0.010)
        cost.observe(8, 0.040)  # larger batches are cheaper than was believed
    assert cost.typical(1) == pytest.approx(0.010, rel=0.1)
    assert cost.typical(8) == pytest.approx(0.040, rel=0.1)


def test_one_interruption_changes_little() -> None:
    cost = exact()
    cost.calibrate(1, [0.010])
    for _ in range(50):
        cost.observe(1, 0.010)
    cost.observe(1, 5.0)
    assert cost.likely(1) < 0.013


def test_without_calibration_the_first_batch_teaches() -> None:
    cost = exact()
    cost.observe(2, 0.02)
    assert cost.typical(2) == pytest.approx(0.02)
    cost.observe(4, 0.02)  # three times: a clock that stands still makes no zeros
    cost.observe(4, 0.0)
    assert cost.typical(4) > 0

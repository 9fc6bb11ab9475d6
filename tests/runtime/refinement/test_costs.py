"""What batches cost, and how many people a batch takes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sharpose.engines.batches import BatchBuckets
from sharpose.runtime.refinement.costs import BatchCost, next_batch, own_share


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


def in_proportion(count: int) -> float:
    return 0.010 * count


def mostly_fixed(count: int) -> float:
    return 0.010 + 0.001 * count


def padded(count: int) -> float:
    return mostly_fixed(BatchBuckets(1, 16).fit(count))


@pytest.mark.parametrize(
    ("count", "seconds", "batch"),
    [
        (0, 1.0, 0),
        (5, 0.0, 0),
        (5, -1.0, 0),
        (5, 0.009, 0),
        (5, 0.010, 1),  # just fits
        (5, 0.055, 1),  # one after the other, with a look at the clock between
        (5, 0.100, 5),  # twice the time of all: they go together
        (5, math.inf, 5),
        (1, 0.015, 1),
    ],
)
def test_where_people_cost_alike_they_go_one_by_one(count: int, seconds: float, batch: int) -> None:
    assert next_batch(count, seconds, in_proportion) == batch


@pytest.mark.parametrize(("seconds", "batch"), [(0.010, 0), (0.011, 1), (0.0145, 4), (0.023, 11), (0.027, 13)])
def test_where_a_batch_costs_most_of_it_it_is_nearly_as_large_as_fits(seconds: float, batch: int) -> None:
    found = next_batch(16, seconds, mostly_fixed)
    assert found == batch
    assert found == 0 or mostly_fixed(found) <= seconds


def test_padding_is_not_wasted() -> None:
    assert next_batch(16, 0.0175, padded) == 6  # 7 would be computed as 8, which takes 18 ms
    assert next_batch(16, 0.0181, padded) == 8


def test_an_unknown_cost_is_tried_on_one() -> None:
    assert next_batch(5, 0.1, lambda count: 0.0) == 1
    assert next_batch(5, math.inf, lambda count: 0.0) == 5


def test_the_least_that_a_person_costs() -> None:
    cost = BatchCost(BatchBuckets(1, 8, exact=True))
    assert cost.least_per_person() == 0
    cost.calibrate(1, [0.010])
    cost.calibrate(8, [0.040])
    assert cost.least_per_person() == pytest.approx(0.005 * 1.25)


@pytest.mark.parametrize(
    ("own", "later", "capacity", "share"),
    [
        ([0.9, 0.5, 0.1], [], 2, 2),
        ([0.9, 0.5, 0.1], [0.7, 0.6], 0, 0),
        ([0.9, 0.5, 0.1], [0.7, 0.6], 1, 1),
        ([0.9, 0.5, 0.1], [0.7, 0.6], 3.9, 1),
        ([0.9, 0.5, 0.1], [0.7, 0.6], 4, 2),
        ([0.9, 0.5, 0.1], [0.7, 0.6], 5, 3),
        ([0.5, 0.5], [0.5, 0.5], 2, 2),  # of equals, whoever is there
        ([0.1], [0.7, 0.6], math.inf, 1),
        ([], [0.7], 3, 0),
    ],
)
def test_time_is_left_for_those_who_gain_more(
    own: list[float], later: list[float], capacity: float, share: int
) -> None:
    assert own_share(np.array(own, float), np.array(later, float), capacity) == share

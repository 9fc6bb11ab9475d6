"""How many people a batch takes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sharpose.engines.two_stage import BatchBuckets
from sharpose.runtime.deadline.costs import BatchCost, next_batch, own_share, seconds_each


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
    assert seconds_each(cost) == 0
    cost.calibrate(1, [0.010])
    cost.calibrate(8, [0.040])
    assert seconds_each(cost) == pytest.approx(0.005 * 1.25)


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

"""The best pairs: as good as trying everything, for every shape and size."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from sharpose.runtime.tracking.assignment import best_pairs


def by_trying_all(values: np.ndarray, least: float) -> float:
    worth = np.where(values >= least, values, 0.0)
    if len(worth) > worth.shape[1]:
        worth = worth.T
    rows = range(len(worth))
    return max(
        sum(worth[r, c] for r, c in zip(rows, order, strict=True))
        for order in permutations(range(worth.shape[1]), len(worth))
    )


@pytest.mark.parametrize("seed", range(40))
def test_no_other_pairs_are_worth_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(1, 6, 2).tolist()
    values = rng.random((rows, columns))
    if seed % 3 == 0:
        values = values.round(1)  # ties
    least = float(rng.uniform(0.05, 0.9))
    pairs = best_pairs(values, least)
    assert all(values[pair] >= least for pair in pairs)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert sum(values[pair] for pair in pairs) == pytest.approx(by_trying_all(values, least))


def test_greedy_would_be_worse() -> None:
    values = np.array([[0.9, 0.8], [0.8, 0.1]])
    assert best_pairs(values, 0.05) == [(0, 1), (1, 0)]


def test_nobody_and_nothing_possible() -> None:
    assert best_pairs(np.zeros((0, 3)), 0.1) == []
    assert best_pairs(np.zeros((3, 0)), 0.1) == []
    assert best_pairs(np.full((3, 2), 0.09), 0.1) == []


def test_a_crowd_is_paired_whole() -> None:
    shuffled = np.random.default_rng(0).permutation(200)
    values = np.full((200, 200), 0.3)
    values[np.arange(200), shuffled] = 0.9
    assert best_pairs(values, 0.2) == list(enumerate(shuffled.tolist()))

"""Fitting score tables: isotonic regression by hand, and tables that find what scores are worth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sharpose.scores.fit import fit_table, rising_means
from sharpose.scores.tables import ScoreTable


def test_neighbours_that_fall_become_their_weighted_mean() -> None:
    found = rising_means(np.array([0.1, 0.6, 0.3, 0.3, 0.9]), np.array([1.0, 1.0, 2.0, 1.0, 1.0]))
    np.testing.assert_allclose(found, [0.1, 0.375, 0.375, 0.375, 0.9])
    np.testing.assert_allclose(rising_means(np.array([3.0, 2.0, 1.0]), np.ones(3)), [2.0, 2.0, 2.0])
    np.testing.assert_allclose(rising_means(np.array([1.0, 2.0]), np.ones(2)), [1.0, 2.0])
    assert rising_means(np.zeros(0), np.zeros(0)).shape == (0,)


def test_no_rising_sequence_is_nearer() -> None:
    """Against all sequences on a grid."""
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 1, 6)
    for _ in range(20):
        values, weights = rng.choice(grid, 4), rng.integers(1, 4, 4).astype(float)
        best = (weights * (rising_means(values, weights) - values) ** 2).sum()
        for other in itertools.combinations_with_replacement(grid, 4):
            assert best <= (weights * (np.array(other) - values) ** 2).sum() + 1e-12


def test_a_table_finds_what_scores_are_worth() -> None:
    """Scores that say x where the truth is x²."""
    rng = np.random.default_rng(1)
    raw = rng.uniform(0, 1, 20_000)
    right = rng.uniform(0, 1, 20_000) < raw**2
    points = fit_table(raw, right)
    table = ScoreTable(raw=points[0], probability=points[1])
    assert len(table.raw) == 14
    at = np.linspace(0.1, 0.95, 18)
    np.testing.assert_allclose(table(at), at**2, atol=0.03)


@pytest.mark.parametrize(("right", "probability"), [(False, 0.5 / 11), (True, 10.5 / 11)])
def test_few_scores_are_never_certain(right: bool, probability: float) -> None:
    points = fit_table(np.linspace(0.4, 0.6, 10), np.full(10, right))
    assert points[0] == (0.0, 0.5, 1.0)
    assert points[1] == (0.0, round(probability, 5), round(probability, 5))


def test_what_does_not_rise_is_one_point() -> None:
    raw, probability = fit_table(np.linspace(0, 1, 401), np.linspace(0, 1, 401) < 0.5)
    assert raw == (0.0, 0.5, 1.0)
    np.testing.assert_allclose(probability, [0, 0.5, 0.5], atol=0.005)


def test_equal_scores_have_one_probability() -> None:
    """300 of 0.7, of which a third is right, and 100 of 1, all of them right."""
    scores, right = np.repeat([0.7, 1.0], [300, 100]), np.arange(400) % 3 == 0
    right[300:] = True
    raw, probability = fit_table(np.roll(scores, 55), np.roll(right, 55))
    assert raw == (0.0, 0.7, 1.0)
    np.testing.assert_allclose(probability, [0, 1 / 3, 100.5 / 101], atol=0.001)

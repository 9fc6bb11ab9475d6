"""Fitting score tables to poses whose truth is known: bins of equal size, then isotonic regression."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def rising_means(values: Doubles, weights: Doubles) -> Doubles:
    """Isotonic regression: the never falling sequence that is nearest to `values` [n] by weighted squares.

    Pool adjacent violators (Ayer et al. 1955): neighbours that fall are replaced by their mean until none do.
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, length = value, weight, 1
        while blocks and blocks[-1][0] >= mean:
            before, other, more = blocks.pop()
            mean, total, length = (mean * total + before * other) / (total + other), total + other, length + more
        blocks.append((mean, total, length))
    return np.repeat([mean for mean, _, _ in blocks], [length for _, _, length in blocks])


_PER_POINT = 40  # items that a point of a table stands for, at least
_MOST_POINTS = 12  # of a table, its ends aside
_DECIMALS = 5


def fit_table(raw: Doubles, right: npt.NDArray[np.bool_]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The points of a score table: raw scores and probabilities.

    Items are put into bins of about equal size by their raw score; a bin's mean score and its share of right ones make
    a point, and neighbours that fall become one. Between points the table rises, so different scores stay different. A
    raw score of 0 has the probability 0: nothing was found. Towards 1 the last slope goes on. No share is certain: a
    bin counts one item more, which is half right.

    Args:
        raw: float64 [n], raw scores, 0 to 1; n at least 1.
        right: bool [n].

    Returns:
        `ScoreTable.raw` and `.probability`.
    """
    bins = int(np.clip(len(raw) // _PER_POINT, 1, _MOST_POINTS))
    edges = np.unique(np.quantile(raw, np.arange(1, bins) / bins))
    place = np.searchsorted(edges, raw, side="right")  # equal scores share a bin
    counts = np.bincount(place)
    filled = np.flatnonzero(counts)
    weights = counts[filled].astype(np.float64)
    scores = np.bincount(place, raw)[filled] / weights
    shares = rising_means((np.bincount(place, right)[filled] + 0.5) / (weights + 1), weights)
    level = np.flatnonzero(np.diff(shares, prepend=-1.0) > 0)  # where a new share begins
    scores = np.add.reduceat(scores * weights, level) / np.add.reduceat(weights, level)
    shares = shares[level]
    slope = (shares[-1] - shares[-2]) / (scores[-1] - scores[-2]) if len(level) > 1 else 0.0
    most = max(shares[-1], 1 - 0.5 / (weights[-1] + 1))  # as if the last bin were all right
    end = min(shares[-1] + slope * (1 - scores[-1]), most)
    points: dict[float, float] = {0.0: 0.0}
    for score, share in (*zip(scores.tolist(), shares.tolist(), strict=True), (1.0, float(end))):
        points[round(score, _DECIMALS)] = round(share, _DECIMALS)
    return tuple(points), tuple(points.values())

"""How well predicted quality tells the true OKS of a coarse pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Calibration", "QualityBin", "calibrate", "rank_correlation"]

_BINS = 10


@dataclass(frozen=True)
class QualityBin:
    """People whose predicted quality lies in `[low, high]`: how many, and the means of both sides."""

    low: float
    high: float
    people: int
    predicted: float
    true: float


@dataclass(frozen=True)
class Calibration:
    """Predicted quality against true OKS.

    Attributes:
        bins: Up to ten bins of as many people each, lowest quality first.
        rank_correlation: Spearman's, -1 to 1; NaN where one side doesn't vary.
        mean_error: Mean of `|predicted - true|`.
        bias: Mean of `predicted - true`.
        people: How many were compared.
    """

    bins: tuple[QualityBin, ...]
    rank_correlation: float
    mean_error: float
    bias: float
    people: int


def calibrate(quality: npt.NDArray[np.float32], oks: npt.NDArray[np.float64]) -> Calibration:
    """Compare qualities [n] with true OKS [n]; NaN on either side is left out."""
    known = np.isfinite(quality) & np.isfinite(oks)
    predicted, true = quality[known].astype(np.float64), oks[known]
    if not len(true):
        return Calibration((), float("nan"), float("nan"), float("nan"), 0)
    order = np.argsort(predicted, kind="stable")
    bins = []
    for rows in np.array_split(order, min(_BINS, len(order))):
        low, high = predicted[rows].min(), predicted[rows].max()
        bins.append(
            QualityBin(float(low), float(high), len(rows), float(predicted[rows].mean()), float(true[rows].mean()))
        )
    error = predicted - true
    return Calibration(
        tuple(bins), rank_correlation(predicted, true), float(np.abs(error).mean()), float(error.mean()), len(true)
    )


def rank_correlation(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; NaN where a side doesn't vary."""
    a, b = (_ranks(values) for values in (first, second))
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts - 1) / 2
    return np.asarray(mean_rank[inverse], np.float64)

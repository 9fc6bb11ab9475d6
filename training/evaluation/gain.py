"""What refining people gains by the quality that was predicted: who goes first where there isn't time for everybody."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharpose.manifest import GainCurve

__all__ = ["measure_gain"]

_BINS = 10
_LEAST_PEOPLE = 20  # in a bin; with fewer people altogether than two bins hold, nothing is said


def measure_gain(
    quality: npt.NDArray[np.float32],
    coarse_oks: npt.NDArray[np.float64],
    fine_oks: npt.NDArray[np.float64],
    measured_on: str,
) -> GainCurve | None:
    """The mean gain in OKS of people of like quality.

    Means of few people are mostly chance, so each is drawn towards the mean of all as far as the bins differ no more
    than chance lets them (empirical Bayes). Where quality says nothing about the gain, the curve is level.

    Args:
        quality: float32 [n], predicted.
        coarse_oks: float64 [n], true OKS of the coarse poses.
        fine_oks: float64 [n], likewise of the refined ones. NaN anywhere leaves a person out.
        measured_on: For people to read.

    Returns:
        None where there are too few people.
    """
    gain = fine_oks - coarse_oks
    known = np.isfinite(quality) & np.isfinite(gain)
    gain, predicted = gain[known], quality[known].astype(np.float64)
    count = min(_BINS, len(gain) // _LEAST_PEOPLE)
    if count < 2:
        return None
    order = np.argsort(predicted, kind="stable")
    bins = np.array_split(order, count)
    means = np.array([gain[rows].mean() for rows in bins])
    errors = np.array([gain[rows].var(ddof=1) / len(rows) for rows in bins])
    real = max(float(means.var(ddof=1) - errors.mean()), 0.0)
    trust = real / (real + errors) if real > 0 else np.zeros(count)
    drawn = gain.mean() + trust * (means - gain.mean())
    # bins of equal quality are one place of the line
    places = np.array([predicted[rows].mean() for rows in bins])
    qualities, which = np.unique(np.round(places, 5), return_inverse=True)
    gains = np.bincount(which, weights=drawn) / np.bincount(which)
    return GainCurve(
        quality=tuple(qualities.tolist()), gain=tuple(np.round(gains, 5).tolist()), measured_on=measured_on
    )

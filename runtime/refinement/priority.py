"""Who gains most from a closer look. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Prioritise", "expected_gain", "priority"]

Prioritise: TypeAlias = Callable[
    [npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.bool_]], npt.NDArray[np.float64]
]
"""Expected gain, frames waited and who carries over, to priorities; see `priority`."""

_LEAST_SHORTFALL = 0.1  # nobody's priority is zero: all get their turn
_LEAST_DETAIL = 0.4
_CARRIED_SHARE = 0.1  # of the gain, for those who keep what an earlier look found
_PATIENCE = 10.0  # frames after which having waited doubles a priority


def expected_gain(
    quality: npt.NDArray[np.float32], threshold: float, pixels: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """How much better the pose is likely to become, relative to others.

    What the coarse pose lacks in quality can be gained, as far as there is detail that the coarse stage did not see: it
    looks at the crop at half size, so a person whose picture pixels are larger than two crop pixels has nothing more to
    show.

    Args:
        quality: float32 [n], predicted quality (OKS-like).
        threshold: The gate's; above 1 it counts as 1.
        pixels: float32 [n], how many picture pixels a crop pixel's side spans.
    """
    shortfall = np.clip(min(threshold, 1.0) - quality.astype(np.float64), _LEAST_SHORTFALL, 1.0)
    detail = np.clip(2.0 * pixels.astype(np.float64) - 1.0, _LEAST_DETAIL, 1.0)
    gain: npt.NDArray[np.float64] = shortfall * detail
    return gain


def priority(
    gain: npt.NDArray[np.float64], waited: npt.NDArray[np.int64], carried: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Those of the highest priority are refined first.

    Args:
        gain: float [n], see `expected_gain`.
        waited: int [n], in how many frames they were wanted refined since they last were.
        carried: bool [n], who keeps what their last refinement found, as they haven't moved since.
    """
    ranked: npt.NDArray[np.float64] = gain * np.where(carried, _CARRIED_SHARE, 1.0) * (1.0 + waited / _PATIENCE)
    return ranked

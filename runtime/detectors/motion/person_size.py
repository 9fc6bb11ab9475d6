"""How large a person appears where in the picture, learned from those who walk alone."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

__all__ = ["PersonSize"]

_KEPT = 2000  # samples
_ENOUGH = 40
_REFIT_EVERY = 25
_BANDS = 6
_ASPECTS = (1.6, 3.5)  # height to width of somebody who walks alone; two, one behind the other, are slimmer
_SHARE = 0.4  # of the weight lies below: groups are taller than people, and weigh more
_DEFAULT_ASPECT = 2.4
_NARROWEST = 0.5  # of the usual height: what the line may not fall below


class PersonSize:
    """A straight line from the y of the feet to the height in pixels, as a flat floor and a level camera give it.

    Until enough people have been seen nothing is known.
    """

    def __init__(self) -> None:
        self._feet: deque[float] = deque(maxlen=_KEPT)
        self._heights: deque[float] = deque(maxlen=_KEPT)
        self._widths: deque[float] = deque(maxlen=_KEPT)
        self._new = 0
        self._slope = 0.0
        self._at_zero = 0.0
        self._usual = 0.0
        self.aspect = _DEFAULT_ASPECT

    @property
    def known(self) -> bool:
        """Whether enough people were seen."""
        return self._usual > 0

    def height(self, feet: float) -> float:
        """How high, in pixels, somebody is whose feet are at y `feet`; 0 while nothing is known."""
        return max(self._at_zero + self._slope * feet, _NARROWEST * self._usual)

    def feet_below(self, head: float) -> float:
        """Where the feet are of somebody whose head is at y `head`, when they can't be seen."""
        return (head + self._at_zero) / max(1 - self._slope, 0.2)

    def see(self, feet: float, height: float, width: float) -> None:
        """Somebody who seems to walk alone, wholly in sight."""
        if not _ASPECTS[0] <= height / max(width, 1) <= _ASPECTS[1]:
            return
        self._feet.append(feet)
        self._heights.append(height)
        self._widths.append(width)
        self._new += 1
        if self._new >= _REFIT_EVERY and len(self._feet) >= _ENOUGH:
            self._new = 0
            self._fit()

    def _fit(self) -> None:
        """Through the medians of a few bands, by area: specks are many, but small."""
        feet, heights, widths = (np.array(values) for values in (self._feet, self._heights, self._widths))
        areas = heights * widths
        self._usual = _typical(heights, areas)
        self.aspect = _typical(heights / widths, areas)
        bands = np.array_split(np.argsort(feet), _BANDS)
        x = np.array([np.median(feet[band]) for band in bands])
        y = np.array([_typical(heights[band], areas[band]) for band in bands])
        # The median of all slopes between bands, which one odd band doesn't turn (Theil and Sen).
        first, second = np.triu_indices(_BANDS, 1)
        apart = x[second] - x[first] > 0.25 * self._usual
        slopes = (y[second] - y[first])[apart] / (x[second] - x[first])[apart]
        # Who is nearer looks larger, never smaller; and no floor is so steep that people grow faster than they come.
        self._slope = float(np.clip(np.median(slopes), 0.0, 0.8)) if slopes.size else 0.0
        self._at_zero = float(np.median(y - self._slope * x))


def _typical(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    """A little less than the weighted median."""
    order = np.argsort(values)
    passed = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(passed, _SHARE * passed[-1])])

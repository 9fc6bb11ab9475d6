"""Who is refined first: what refining is expected to gain, for how long it lasts, and turns for those who wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sharpose.bundle import GainCurve

TURN_EVERY = 8
"""Every 8th refinement goes to the person who has waited longest."""

_LEAST_SHORTFALL = 0.1  # nobody's priority is zero
_LEAST_GAIN = 0.1  # likewise, of the most that anybody gains
_LEAST_DETAIL = 0.4
_CARRIED_SHARE = 0.1  # of the gain, for those who keep an earlier refinement
_LONGEST_CARRY = 10  # frames that a refinement is expected to last at most
_PATIENCE = 100.0  # frames of waiting that double a priority: among equals, they take turns


@dataclass(frozen=True)
class Candidates:
    """People whom the gate wants refined."""

    gain: npt.NDArray[np.float64]  # float64 [n], see `expected_gain`
    waited: npt.NDArray[np.int64]  # int64 [n], frames in which refinement was wanted since they last were refined
    still: npt.NDArray[np.int64]  # int64 [n], frames since they moved
    carried: npt.NDArray[np.bool_]  # bool [n], who keeps an earlier refinement, as they haven't moved since

    def __len__(self) -> int:
        return len(self.gain)


Prioritise: TypeAlias = Callable[[Candidates], npt.NDArray[np.float64]]
"""People to float64 [n]; see `priority`."""


def expected_gain(
    quality: npt.NDArray[np.float32],
    threshold: float,
    pixels: npt.NDArray[np.float32],
    measured: GainCurve | None = None,
) -> npt.NDArray[np.float64]:
    """How much better the pose is likely to become, relative to others.

    By the bundle's measured gain curve, where there is one. (Gain need not be highest where quality is lowest: who is
    mostly hidden stays so in a closer look.) Otherwise by what the coarse pose lacks in quality. Both are scaled by the
    detail that the coarse stage did not see: it looks at the crop at half size, so a person whose picture pixels are
    larger than two crop pixels has nothing more to show. NaN where the quality is.

    Args:
        quality: float32 [n], predicted quality (OKS-like).
        threshold: The gate's; above 1 it counts as 1.
        pixels: float32 [n], picture pixels per crop pixel, along a side.
        measured: Gain by predicted quality; None where the bundle has none.
    """
    detail = np.clip(2.0 * pixels.astype(np.float64) - 1.0, _LEAST_DETAIL, 1.0)
    gain: npt.NDArray[np.float64]
    most = 0.0 if measured is None else max(measured.gain)
    if measured is None or most <= 0:
        gain = np.clip(min(threshold, 1.0) - quality.astype(np.float64), _LEAST_SHORTFALL, 1.0)
    else:
        gain = np.maximum(np.interp(quality, measured.quality, measured.gain) / most, _LEAST_GAIN)
    return gain * detail


def priority(people: Candidates) -> npt.NDArray[np.float64]:
    """Gain times the frames that it lasts: who has been still is likely to be so for as long again. Highest first."""
    lasting = 1.0 + np.minimum(people.still, _LONGEST_CARRY)
    ranked: npt.NDArray[np.float64] = (
        people.gain * lasting * np.where(people.carried, _CARRIED_SHARE, 1.0) * (1.0 + people.waited / _PATIENCE)
    )
    return ranked


def with_turns(order: npt.NDArray[np.int64], waited: npt.NDArray[np.int64], first: int) -> npt.NDArray[np.int64]:
    """People in `order`, but every `TURN_EVERY`th, after the `first` ones, is who has `waited` (by person) longest."""
    left = order.tolist()
    found: list[int] = []
    while left:
        place = 0
        if len(found) % TURN_EVERY == first % TURN_EVERY:
            place = max(range(len(left)), key=lambda index: int(waited[left[index]]))
        found.append(left.pop(place))
    return np.array(found, np.int64)

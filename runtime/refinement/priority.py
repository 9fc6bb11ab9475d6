"""Who gains most from a closer look. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sharpose.manifest import GainCurve

__all__ = ["TURN", "Candidates", "Prioritise", "expected_gain", "priority", "with_turns"]

TURN = 8
"""Every so many refinements, one goes to whom waits longest."""

_LEAST_SHORTFALL = 0.1  # nobody's priority is zero
_LEAST_GAIN = 0.1  # likewise, of the most that anybody gains
_LEAST_DETAIL = 0.4
_CARRIED_SHARE = 0.1  # of the gain, for those who keep what an earlier look found
_LONGEST_CARRY = 10  # frames that a refinement is expected to last at most
_PATIENCE = 100.0  # frames after which having waited doubles a priority: among equals, they take turns


@dataclass(frozen=True)
class Candidates:
    """People whom the gate wants refined.

    Attributes:
        gain: float [n], see `expected_gain`.
        waited: int [n], in how many frames they were wanted refined since they last were.
        steady: int [n], for how many frames they haven't moved.
        carried: bool [n], who keeps what their last refinement found, as they haven't moved since.
    """

    gain: npt.NDArray[np.float64]
    waited: npt.NDArray[np.int64]
    steady: npt.NDArray[np.int64]
    carried: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.gain)


Prioritise: TypeAlias = Callable[[Candidates], npt.NDArray[np.float64]]
"""People to float [n]; see `priority`."""


def expected_gain(
    quality: npt.NDArray[np.float32],
    threshold: float,
    pixels: npt.NDArray[np.float32],
    measured: GainCurve | None = None,
) -> npt.NDArray[np.float64]:
    """How much better the pose is likely to become, relative to others.

    Where it was measured what refining gains, that is expected again. (It need not be most where the quality is lowest:
    who is hidden for the most part stays so in a closer look.) Otherwise what the coarse pose lacks in quality can be
    gained. Both as far as there is detail that the coarse stage did not see: it looks at the crop at half size, so a
    person whose picture pixels are larger than two crop pixels has nothing more to show.

    Args:
        quality: float32 [n], predicted quality (OKS-like).
        threshold: The gate's; above 1 it counts as 1.
        pixels: float32 [n], how many picture pixels a crop pixel's side spans.
        measured: What refining gains by predicted quality; None where the bundle doesn't know.

    Returns:
        float [n], above 0; NaN where the quality is.
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
    """Those of the highest priority are refined first.

    What is gained is gained for as many frames as it can be kept, and who has been still is likely to be so for as long
    again.
    """
    lasting = 1.0 + np.minimum(people.steady, _LONGEST_CARRY)
    ranked: npt.NDArray[np.float64] = (
        people.gain * lasting * np.where(people.carried, _CARRIED_SHARE, 1.0) * (1.0 + people.waited / _PATIENCE)
    )
    return ranked


def with_turns(order: npt.NDArray[np.int64], waited: npt.NDArray[np.int64], first: int) -> npt.NDArray[np.int64]:
    """The order in which people are refined, now and then whoever waits longest before the others.

    Args:
        order: int [n], indices of people by priority.
        waited: int [any], by index, how long they have waited.
        first: How many go by priority before the first such turn; then it is every `TURN`th.
    """
    left = order.tolist()
    found: list[int] = []
    while left:
        place = 0
        if len(found) % TURN == first % TURN:
            place = max(range(len(left)), key=lambda index: int(waited[left[index]]))
        found.append(left.pop(place))
    return np.array(found, np.int64)

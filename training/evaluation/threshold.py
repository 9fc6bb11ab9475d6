"""Choosing the quality threshold: the cheapest gate that keeps a promise, checked on pictures it was not chosen on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError
from sharpose.training.evaluation.curve import GateCurve, GatePoint

__all__ = ["Promise", "ThresholdChoice", "choose_point", "choose_threshold", "parse_promise"]

_RESAMPLES = 1000
_CONFIDENCE = 0.95
_FORMAT = '"ap-loss<=0.2" (AP points, 0 to 100, below refining everybody) or "refine-rate<=0.4" (a share, 0 to 1)'


@dataclass(frozen=True)
class Promise:
    """What a gate must keep: at most `limit` AP points lost to refining everybody, or at most that refine rate."""

    kind: Literal["ap-loss", "refine-rate"]
    limit: float

    def __str__(self) -> str:
        return f"{self.kind}<={self.limit:g}"


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold and how it was found.

    Attributes:
        promise: What was asked for.
        threshold: Crops of lower predicted quality are refined.
        chosen_on: The chosen point on the pictures it was chosen on; AP 0 to 1.
        chosen_value: What the promise is about there, in the promise's unit.
        checked_on: The same threshold on the held-out pictures.
        held_out_value: What the promise is about there.
        interval: 95 % bootstrap interval of `held_out_value`, resampling pictures.
        pictures: How many pictures it was chosen on, and checked on.
        kept: Whether the held-out pictures allow the promise: the interval reaches down to the limit.
    """

    promise: Promise
    threshold: float
    chosen_on: GatePoint
    chosen_value: float
    checked_on: GatePoint
    held_out_value: float
    interval: tuple[float, float]
    pictures: tuple[int, int]
    kept: bool

    def describe(self, data: str) -> str:
        """One line for `bundle.json`."""
        low, high = self.interval
        return (
            f"sharpose-eval --choose-threshold {self.promise} on {data}: {self.chosen_value:.3g} on "
            f"{self.pictures[0]} pictures; {self.held_out_value:.3g} (95% interval {low:.3g} to {high:.3g}) on "
            f"{self.pictures[1]} held-out ones, refining {self.checked_on.refine_rate:.0%}"
        )


def parse_promise(text: str) -> Promise:
    """A promise from the command line. Raises `InputError` where it isn't one."""
    match = re.fullmatch(r"\s*(ap-loss|refine-rate)\s*<=\s*(\d+(?:\.\d*)?|\.\d+)\s*", text)
    if match is None:
        raise InputError(f"--choose-threshold: expected {_FORMAT}, got {text!r}")
    kind: Literal["ap-loss", "refine-rate"] = "ap-loss" if match[1] == "ap-loss" else "refine-rate"
    limit = float(match[2])
    if limit > (100 if kind == "ap-loss" else 1):
        raise InputError(f"--choose-threshold: expected {_FORMAT}, got a limit of {limit:g}")
    return Promise(kind, limit)


def choose_point(points: list[GatePoint], promise: Promise) -> int:
    """Which point of a curve, by ascending threshold, to gate at.

    For `ap-loss`: the lowest threshold from which on no higher one loses more than the limit, so that a lucky dip in a
    noisy curve isn't taken. For `refine-rate`: the highest that stays within the limit.
    """
    if promise.kind == "refine-rate":
        return max(index for index, point in enumerate(points) if index == 0 or point.refine_rate <= promise.limit)
    chosen = len(points) - 1
    for index in range(len(points) - 1, -1, -1):
        if _loss(points[-1].ap, points[index].ap) > promise.limit + 1e-9:
            break
        chosen = index
    return chosen


def choose_threshold(curve: GateCurve, image_ids: tuple[int, ...], promise: Promise, seed: int = 0) -> ThresholdChoice:
    """Choose on one half of the pictures, check on the other.

    Args:
        curve: Matches at every threshold.
        image_ids: The pictures.
        promise: What to keep.
        seed: Of the split and the bootstrap.

    Raises:
        InputError: there are too few labelled pictures to split, or there is no AP to lose.
    """
    with_people = set(curve.image_ids.tolist())
    pictures = np.array([picture for picture in image_ids if picture in with_people], np.int64)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(pictures)
    first, second = np.sort(shuffled[: len(shuffled) // 2]).tolist(), np.sort(shuffled[len(shuffled) // 2 :]).tolist()
    points = curve.points(first)
    last = len(points) - 1
    if not first or any(np.isnan(curve.ap(last, half)) for half in (first, second)):
        raise InputError(
            f"--choose-threshold: expected labelled people in both halves of the pictures, got {len(pictures)} "
            "pictures; give more"
        )
    if promise.kind == "ap-loss" and min(points[last].ap, curve.ap(last, second)) <= 0:
        raise InputError(
            "--choose-threshold ap-loss: refining everybody reaches AP 0 on half of these pictures, so no loss can be "
            "measured; train the model further, or promise a refine-rate"
        )
    index = choose_point(points, promise)
    checked = GatePoint(curve.thresholds[index], curve.refine_rate(index, second), curve.ap(index, second))

    def value_at(sample: list[int]) -> float:
        if promise.kind == "refine-rate":
            return curve.refine_rate(index, sample)
        return _loss(curve.ap(last, sample), curve.ap(index, sample))

    half = np.array(second)
    values = [value_at(rng.choice(half, len(half)).tolist()) for _ in range(_RESAMPLES)]
    interval = _interval(np.array(values))
    return ThresholdChoice(
        promise=promise,
        threshold=curve.thresholds[index],
        chosen_on=points[index],
        chosen_value=value_at(first),
        checked_on=checked,
        held_out_value=value_at(second),
        interval=interval,
        pictures=(len(first), len(second)),
        kept=interval[0] <= promise.limit + 1e-9,
    )


def _loss(always: float, gated: float) -> float:
    """AP points."""
    return 100.0 * (always - gated)


def _interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    tail = 50.0 * (1 - _CONFIDENCE)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)

"""The gate: AP against refine rate, what a better one could reach, the cheapest threshold that keeps a promise, and
writing it to the bundle.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from sharpose.bundle import GainCurve, Gate, change_manifest
from sharpose.coco.ap import PictureMatches, average_precision, match_pictures
from sharpose.errors import InputError, counted
from sharpose.training.evaluation.data import EvaluationData
from sharpose.training.evaluation.metrics import Doubles, poses_oks
from sharpose.training.evaluation.predict import Predictions, coco_results

CURVE_POINTS = 21
"""Thresholds that a curve is measured at: refine rates 0 to 1 in steps of 5 %."""


@dataclass(frozen=True)
class GatePoint:
    """A threshold, the share of people refined there (0 to 1), and AP (0 to 1)."""

    threshold: float
    refine_rate: float
    ap: float


@dataclass(frozen=True)
class GateCurve:
    """Everything that choosing a threshold needs."""

    thresholds: tuple[float, ...]  # ascending; the first refines nobody, the last everybody
    matches: tuple[dict[int, PictureMatches], ...]  # for each threshold, the matches of every picture by id
    refined: tuple[npt.NDArray[np.float64], ...]  # for each threshold, [n]: share of a person's passes refined
    image_ids: npt.NDArray[np.int64]  # int64 [n], the people's pictures

    def ap(self, index: int, pictures: Sequence[int]) -> float:
        """AP at threshold `index` over pictures, of which any may be named several times."""
        matches = self.matches[index]
        return average_precision([matches[picture] for picture in pictures if picture in matches])

    def refine_rate(self, index: int, pictures: Sequence[int]) -> float:
        """Share of the pictures' people refined at threshold `index`; NaN without people."""
        known, where, people = np.unique(self.image_ids, return_inverse=True, return_counts=True)
        named, times = np.unique(np.asarray(pictures, np.int64), return_counts=True)
        weights = np.zeros(len(known))
        weights[np.isin(known, named)] = times[np.isin(named, known)]
        total = float(weights @ people)
        return float(weights[where] @ self.refined[index]) / total if total else float("nan")

    def points(self, pictures: Sequence[int]) -> list[GatePoint]:
        """The curve over some pictures."""
        return [
            GatePoint(threshold, self.refine_rate(index, pictures), self.ap(index, pictures))
            for index, threshold in enumerate(self.thresholds)
        ]


def candidate_thresholds(quality: npt.NDArray[np.float32], count: int = CURVE_POINTS) -> tuple[float, ...]:
    """Thresholds that refine evenly spaced shares of people, half-way between two qualities, as float32 holds them.

    `quality` is that of all passes, `count` the number of shares, 0 and 1 included; equal qualities make fewer.
    """
    values = np.sort(quality[np.isfinite(quality)].astype(np.float32), axis=None)
    if not len(values):
        return (0.0,)
    between = np.concatenate(
        [values[:1], (values[1:] + values[:-1]) / 2, np.nextafter(values[-1:], np.float32(np.inf))]
    ).astype(np.float32)
    places = np.unique(np.round(np.linspace(0, len(values), count)).astype(np.int64))
    return tuple(float(value) for value in np.unique(between[places]))


def measure_curve(
    data: EvaluationData,
    predictions: Predictions,
    thresholds: Sequence[float] | None = None,
    on_point: Callable[[], None] = lambda: None,
) -> GateCurve:
    """Match poses and COCO-format labels at every threshold; `on_point` is called after each.

    Thresholds ascend; they are `candidate_thresholds` if None.
    """
    assert data.document is not None
    chosen = tuple(candidate_thresholds(predictions.quality) if thresholds is None else thresholds)
    matches, refined = [], []
    for threshold in chosen:
        poses = predictions.gated("auto", threshold)
        results = coco_results(data, predictions, poses)
        matches.append(match_pictures(data.document, results, data.skeleton, data.image_ids))
        refined.append(poses.refined)
        on_point()
    return GateCurve(chosen, tuple(matches), tuple(refined), data.people.image_ids)


SPARED_SHARES = (0.1, 0.2, 0.3, 0.5)
"""Shares of the people who are spared the fine stage."""


@dataclass(frozen=True)
class IdealPoint:
    """AP (0 to 1) where so many people are spared the fine stage, by how they are chosen."""

    spared: float  # share of the people, 0 to 1
    predicted: float  # those of highest predicted quality, as the gate chooses
    true_quality: float  # those whose coarse pose has the highest true OKS: a quality predictor that is never wrong
    true_gain: float  # those whose OKS gains least by the fine stage: a gate that knows both poses


def measure_ideal_gates(data: EvaluationData, predictions: Predictions) -> list[IdealPoint]:
    """AP on COCO-format labels at each of `SPARED_SHARES`; shares that spare nobody are left out.

    People whose true OKS isn't known are refined first. In a flip test both passes of a person are refined or none, by
    the quality of the first.
    """
    assert data.document is not None
    nobody = np.zeros(len(predictions), np.bool_)
    coarse, fine = (poses_oks(data, predictions.refined_where(refined)) for refined in (nobody, ~nobody))
    worth: tuple[Doubles, ...] = (predictions.quality[:, 0].astype(np.float64), coarse, coarse - fine)
    points = []
    for count in sorted({round(share * len(predictions)) for share in SPARED_SHARES} - {0}):
        reached = [_ap_sparing(data, predictions, _highest(values, count)) for values in worth]
        points.append(IdealPoint(count / len(predictions), *reached))
    return points


def _highest(values: Doubles, count: int) -> npt.NDArray[np.bool_]:
    """Which are among the `count` highest, bool [n]; NaN is lowest."""
    spared = np.zeros(len(values), np.bool_)
    spared[np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")[:count]] = True
    return spared


def _ap_sparing(data: EvaluationData, predictions: Predictions, spared: npt.NDArray[np.bool_]) -> float:
    assert data.document is not None
    results = coco_results(data, predictions, predictions.refined_where(~spared))
    matches = match_pictures(data.document, results, data.skeleton, data.image_ids)
    return average_precision([matches[picture] for picture in data.image_ids if picture in matches])


_CHOOSING_RESAMPLES = 200
_CHECKING_RESAMPLES = 1000
# A point is within the limit where this percentile of its resamples is. AP is lost by few people, whom a small half may
# not hold, so resampling is too optimistic there (of simulated promises on 40 pictures, 6 % broke at 95, 13 % at 80;
# refine rates none of 30).
_CAUTION = {"ap-loss": 95.0, "refine-rate": 80.0}
_INTERVAL = (2.5, 97.5)  # percentiles
_ROUNDING = 1e-9
_FORMAT = '"ap-loss<=0.2" (AP points, 0 to 100, below refining everybody) or "refine-rate<=0.4" (a share, 0 to 1)'


@dataclass(frozen=True)
class Promise:
    """Upper limit on the AP points lost to refining everybody, or on the refine rate."""

    kind: Literal["ap-loss", "refine-rate"]
    limit: float

    def __str__(self) -> str:
        return f"{self.kind}<={self.limit:g}"

    def words(self, value: float) -> str:
        """A value of the promised quantity, as people read it: `0.25` AP points, `40.0%` of the people."""
        return f"{value:.3g}" if self.kind == "ap-loss" else f"{value:.1%}"


Verdict = Literal["kept", "within chance", "not kept"]
"""Whether a promise holds on held-out pictures: their value is within the limit; it isn't, but chance explains that, as
the lower end of its 95 % interval is; or neither is.
"""


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold and how it was found."""

    promise: Promise  # the promise to keep
    threshold: float  # crops of lower predicted quality are refined
    chosen_on: GatePoint  # the chosen point on the pictures it was chosen on; AP 0 to 1
    chosen_value: float  # the promised quantity there, in the promise's unit
    checked_on: GatePoint  # the same threshold on the held-out pictures
    held_out_value: float  # the promised quantity there
    interval: tuple[float, float]  # 95 % bootstrap interval of `held_out_value`, resampling pictures
    pictures: tuple[int, int]  # numbers of pictures it was chosen on, and checked on
    verdict: Verdict  # whether the promise holds on the held-out pictures

    def describe(self, data: str) -> str:
        """One line for `bundle.json`."""
        chosen, held_out, low, high = map(self.promise.words, (self.chosen_value, self.held_out_value, *self.interval))
        return (
            f"sharpose-eval --choose-threshold {self.promise} on {data}: {chosen} on "
            f"{counted(self.pictures[0], 'picture')}; {held_out} (95% interval {low} to {high}) "
            f"on {self.pictures[1]} held-out ones, refining {self.checked_on.refine_rate:.0%}: {self.verdict}"
        )


def parse_promise(text: str) -> Promise:
    """A promise from the command line. Raises `InputError` where it isn't one."""
    match = re.fullmatch(r"\s*(ap-loss|refine-rate)\s*<=\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*", text)
    if match is None:
        raise InputError(f"--choose-threshold: expected {_FORMAT}, got {text!r}")
    kind: Literal["ap-loss", "refine-rate"] = "ap-loss" if match[1] == "ap-loss" else "refine-rate"
    limit = float(match[2])
    if limit > (100 if kind == "ap-loss" else 1):
        raise InputError(f"--choose-threshold: expected {_FORMAT}, got a limit of {limit:g}")
    return Promise(kind, limit)


def choose_point(value: Callable[[int], float], count: int, promise: Promise) -> int:
    """Index of the point to gate at, among `count` points of a curve by ascending threshold.

    For `ap-loss`: the lowest threshold from which on no higher one loses more than the limit, so that a lucky dip in a
    noisy curve isn't taken. For `refine-rate`: the highest that stays within the limit. Where no point keeps the
    promise, the one that comes closest: refining everybody, or nobody. `value` gives the promised quantity at a point.
    """
    if promise.kind == "refine-rate":
        within = 0
        while within + 1 < count and value(within + 1) <= promise.limit + _ROUNDING:
            within += 1
        return within
    chosen = count - 1
    while chosen > 0 and value(chosen - 1) <= promise.limit + _ROUNDING:
        chosen -= 1
    return chosen


def choose_threshold(curve: GateCurve, image_ids: tuple[int, ...], promise: Promise, seed: int = 0) -> ThresholdChoice:
    """Choose on one half of the pictures, check on the other; `seed` determines the split and the bootstrap.

    A curve measured on few pictures is noisy, and its cheapest point is cheap by luck. So a point is only taken where
    the promise holds in most bootstrap resamples: with few pictures the choice is careful.

    Raises:
        InputError: there are too few labelled pictures to split, or there is no AP to lose.
    """
    with_people = set(curve.image_ids.tolist())
    pictures = np.array([picture for picture in image_ids if picture in with_people], np.int64)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(pictures)
    first, second = np.sort(shuffled[: len(shuffled) // 2]).tolist(), np.sort(shuffled[len(shuffled) // 2 :]).tolist()
    last = len(curve.thresholds) - 1
    always = [curve.ap(last, half) for half in (first, second)] if first else [float("nan")]
    if np.isnan(always).any():
        raise InputError(
            f"--choose-threshold: expected labelled people in both halves of the pictures, got "
            f"{counted(len(pictures), 'picture')}; give more"
        )
    if promise.kind == "ap-loss" and min(always) <= 0:
        raise InputError(
            "--choose-threshold ap-loss: refining everybody reaches AP 0 on half of these pictures, so no loss can be "
            "measured; train the model further, or promise a refine-rate"
        )

    def resampled(pictures: list[int], count: int) -> list[list[int]]:
        return [pictures, *(rng.choice(pictures, len(pictures)).tolist() for _ in range(count))]

    def promised(samples: list[list[int]]) -> Callable[[int], list[float]]:
        """The promised quantity at a point: one value for each sample of pictures."""
        if promise.kind == "refine-rate":
            return lambda index: [curve.refine_rate(index, sample) for sample in samples]
        best = [curve.ap(last, sample) for sample in samples]
        return lambda index: [100.0 * (ap - curve.ap(index, sample)) for ap, sample in zip(best, samples, strict=True)]

    choosing = promised(resampled(first, _CHOOSING_RESAMPLES))
    checking = promised(resampled(second, _CHECKING_RESAMPLES))
    caution = _CAUTION[promise.kind]
    index = choose_point(lambda point: float(np.nanpercentile(choosing(point)[1:], caution)), last + 1, promise)
    held_out_value, *others = checking(index)
    low, high = (float(bound) for bound in np.nanpercentile(others, _INTERVAL))
    chosen_on, checked_on = (
        GatePoint(curve.thresholds[index], curve.refine_rate(index, half), curve.ap(index, half))
        for half in (first, second)
    )
    return ThresholdChoice(
        promise=promise,
        threshold=curve.thresholds[index],
        chosen_on=chosen_on,
        chosen_value=choosing(index)[0],
        checked_on=checked_on,
        held_out_value=held_out_value,
        interval=(low, high),
        pictures=(len(first), len(second)),
        verdict=judge(promise, held_out_value, low),
    )


def judge(promise: Promise, value: float, low: float) -> Verdict:
    """Whether a promise holds, by the promised quantity on held-out pictures and the lower end of its interval."""
    limit = promise.limit + _ROUNDING
    if value <= limit:
        return "kept"
    return "within chance" if low <= limit else "not kept"


def write_gate(folder: Path, threshold: float, chosen_by: str, gain: GainCurve | None = None) -> None:
    """Replace the gate in a bundle's `bundle.json`, atomically; `chosen_by` describes the choice, for people to read.

    Raises `BundleError` where the bundle isn't valid, or can't be written.
    """
    gate = Gate(quality_threshold=threshold, chosen_by=chosen_by, gain=gain)
    change_manifest(folder, lambda bundle: {"gate": gate})

"""AP and refine rate at every threshold worth trying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpose.training.evaluation.coco_ap import coco_results
from sharpose.training.evaluation.matches import PictureMatches, average_precision, match_pictures
from sharpose.training.evaluation.people import EvaluationData
from sharpose.training.evaluation.predict import Predictions

__all__ = ["CURVE_POINTS", "GateCurve", "GatePoint", "candidate_thresholds", "measure_curve"]

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
    """Everything that choosing a threshold needs.

    Attributes:
        thresholds: Ascending; the first refines nobody, the last everybody.
        matches: Of each threshold, the matches of every picture by id.
        refined: Of each threshold, float64 [n]: the share of a person's passes that were refined.
        image_ids: int64 [n], the people's pictures.
    """

    thresholds: tuple[float, ...]
    matches: tuple[dict[int, PictureMatches], ...]
    refined: tuple[npt.NDArray[np.float64], ...]
    image_ids: npt.NDArray[np.int64]

    def ap(self, index: int, pictures: Sequence[int]) -> float:
        """AP at threshold `index` over pictures, of which any may be named several times."""
        matches = self.matches[index]
        return average_precision([matches[picture] for picture in pictures if picture in matches])

    def refine_rate(self, index: int, pictures: Sequence[int]) -> float:
        """Share of the pictures' people refined at threshold `index`; NaN without people."""
        refined, people = self.refined_and_people(index)
        total = sum(people.get(picture, 0) for picture in pictures)
        return sum(refined.get(picture, 0.0) for picture in pictures) / total if total else float("nan")

    def refined_and_people(self, index: int) -> tuple[dict[int, float], dict[int, int]]:
        """By picture, how many people are refined at threshold `index`, and how many there are."""
        pictures, where = np.unique(self.image_ids, return_inverse=True)
        refined = np.bincount(where, weights=self.refined[index], minlength=len(pictures))
        people = np.bincount(where, minlength=len(pictures))
        return (
            dict(zip(pictures.tolist(), refined.tolist(), strict=True)),
            dict(zip(pictures.tolist(), people.tolist(), strict=True)),
        )

    def points(self, pictures: Sequence[int]) -> list[GatePoint]:
        """The curve over some pictures."""
        return [
            GatePoint(threshold, self.refine_rate(index, pictures), self.ap(index, pictures))
            for index, threshold in enumerate(self.thresholds)
        ]


def candidate_thresholds(quality: npt.NDArray[np.float32], count: int = CURVE_POINTS) -> tuple[float, ...]:
    """Thresholds that refine evenly spaced shares of people, half-way between two qualities, as float32 holds them.

    Args:
        quality: float32, of all passes.
        count: How many shares, 0 and 1 included; equal qualities make fewer thresholds.
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
    """Match poses and labels at every threshold.

    Args:
        data: COCO-format labels.
        predictions: Coarse and fine poses.
        thresholds: Ascending; `candidate_thresholds` if None.
        on_point: Called after each.
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

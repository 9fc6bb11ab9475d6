"""The metrics of an evaluation: PCK, calibration of quality, gain of refining, and all of them with AP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.bundle import GainCurve
from sharpose.coco.ap import CocoScores, coco_scores
from sharpose.errors import counted
from sharpose.runtime.refinement.gate import Refine
from sharpose.scores.tables import RIGHT
from sharpose.similarity import box_iou, keypoint_similarity, pose_oks
from sharpose.skeleton import Skeleton
from sharpose.training.evaluation.data import EvaluationData, People
from sharpose.training.evaluation.predict import GatedPoses, Predictions, coco_results

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PCK_FRACTIONS = (0.05, 0.1)
"""Distances, in diagonals of the box around the labelled keypoints, within which a keypoint is correct."""


def keypoint_diagonals(labels: Floats) -> Doubles:
    """PCK's unit: the diagonal of the box around a person's labelled keypoints.

    Labels are float32 [n, J, 3], `x, y` and visibility; diagonals float64 [n], in their unit, NaN where fewer than
    two places are labelled.
    """
    points = np.where(labels[:, :, 2:] > 0, labels[:, :, :2], np.nan).astype(np.float64)
    points[np.isnan(points).all(axis=(1, 2))] = 0
    extent = np.nanmax(points, axis=1) - np.nanmin(points, axis=1)
    diagonal = np.hypot(extent[:, 0], extent[:, 1])
    return np.where(diagonal > 0, diagonal, np.nan)


def correct_keypoints(keypoints: Floats, labels: Floats, units: Doubles, fraction: float) -> tuple[Bools, Bools]:
    """Masks bool [n, J] of the correct keypoints, and of those that count: labelled, of a person whose unit is known.

    Args:
        keypoints: float32 [n, J, 2 or more], in pixels.
        labels: float32 [n, J, 3], `x, y` in pixels and visibility.
        units: float64 [n], PCK's unit in pixels; NaN where it isn't known.
        fraction: Largest distance in units, itself included.
    """
    distance = np.linalg.norm(keypoints[..., :2].astype(np.float64) - labels[..., :2], axis=-1)
    counted = (labels[..., 2] > 0) & np.isfinite(units)[:, None]
    return counted & (distance <= fraction * np.nan_to_num(units)[:, None]), counted


def pck(keypoints: Floats, labels: Floats, units: Doubles, fraction: float) -> float:
    """The share of counted keypoints that are correct, 0 to 1; NaN where none counts. See `correct_keypoints`."""
    correct, counted = correct_keypoints(keypoints, labels, units, fraction)
    return float(correct.sum() / counted.sum()) if counted.any() else float("nan")


_NOT_IN_PCKH = ("pelvis", "thorax")  # keypoints that MPII's mean leaves out


def pckh_by_joint(keypoints: Floats, people: People, skeleton: Skeleton, fraction: float = 0.5) -> dict[str, float]:
    """MPII's table: PCKh, 0 to 1, by body part, left and right averaged, and `mean` over counted keypoints."""
    correct, counted = correct_keypoints(keypoints, people.keypoints, people.head_sizes, fraction)
    rates = np.where(counted.any(axis=0), correct.sum(axis=0) / np.maximum(counted.sum(axis=0), 1), np.nan)
    table: dict[str, list[float]] = {}
    for name, rate in zip(skeleton.keypoints, rates, strict=True):
        if name not in (*_NOT_IN_PCKH, "upper_neck"):
            table.setdefault(name.removeprefix("left_").removeprefix("right_"), []).append(float(rate))
    in_mean = np.array([name not in _NOT_IN_PCKH for name in skeleton.keypoints])
    total = counted[:, in_mean].sum()
    mean = float(correct[:, in_mean].sum() / total) if total else float("nan")
    return {part: float(np.mean(values)) for part, values in table.items()} | {"mean": mean}


_BINS = 10


@dataclass(frozen=True)
class CalibrationBin:
    """Items whose predicted value lies in `[low, high]`, with the means of predicted and true values."""

    low: float
    high: float
    count: int
    predicted: float
    true: float


@dataclass(frozen=True)
class Calibration:
    """Predicted values against true ones: people's quality against OKS, scores against being right."""

    bins: tuple[CalibrationBin, ...]  # up to ten bins of as many items each, lowest prediction first
    rank_correlation: float  # Spearman's, -1 to 1; NaN where one side doesn't vary
    mean_error: float  # mean of `|predicted - true|`
    bias: float  # mean of `predicted - true`
    count: int  # number of items compared
    reliability_error: float  # mean of a bin's `|predicted - true|`, weighted by its items (ECE)


def calibrate(predictions: Floats, truths: Doubles) -> Calibration:
    """Compare predicted values [n] with true ones [n]; NaN on either side is left out."""
    known = np.isfinite(predictions) & np.isfinite(truths)
    predicted, true = predictions[known].astype(np.float64), truths[known]
    if not len(true):
        return Calibration((), float("nan"), float("nan"), float("nan"), 0, float("nan"))
    order = np.argsort(predicted, kind="stable")
    bins = []
    for rows in np.array_split(order, min(_BINS, len(order))):
        of = predicted[rows]
        means = float(of.mean()), float(true[rows].mean())
        bins.append(CalibrationBin(float(of.min()), float(of.max()), len(rows), *means))
    rank, error = rank_correlation(predicted, true), predicted - true
    off = sum(item.count * abs(item.predicted - item.true) for item in bins) / len(true)
    return Calibration(tuple(bins), rank, float(np.abs(error).mean()), float(error.mean()), len(true), off)


def rank_correlation(first: Doubles, second: Doubles) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; NaN where a side doesn't vary."""

    def ranks(values: Doubles) -> Doubles:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], np.float64)

    a, b = ranks(first), ranks(second)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


_LEAST_PEOPLE = 20  # in a bin; two bins at least


def measure_gain(quality: Floats, coarse_oks: Doubles, fine_oks: Doubles, measured_on: str) -> GainCurve | None:
    """The mean gain in OKS of refining people of similar predicted quality; None where there are too few people.

    Means of few people are mostly chance, so each is drawn towards the mean of all as far as the bins' differences are
    explained by chance (empirical Bayes). Where quality doesn't predict the gain, the curve is level.

    `quality` is float32 [n], predicted; the true OKS of coarse and of refined poses float64 [n]. NaN anywhere leaves a
    person out. `measured_on` is for people to read.
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
    rounded = tuple(np.round(gains, 5).tolist())
    return GainCurve(quality=tuple(qualities.tolist()), gain=rounded, measured_on=measured_on)


MODES: tuple[Refine, ...] = ("never", "auto", "always")


@dataclass(frozen=True)
class ModeScores:
    """One refine mode."""

    mode: Refine  # `never`, `auto` or `always`
    refine_rate: float  # share of people refined, 0 to 1 (of passes, in a flip test)
    coco: CocoScores | None  # AP and AR; None for MPII's labels
    pck: dict[float, float]  # by fraction of the keypoint diagonal, 0 to 1; empty where boxes aren't labelled people
    pckh: dict[str, float]  # PCKh@0.5 by body part, 0 to 1, with `mean`; empty where head sizes aren't known
    results: list[dict[str, Any]]  # COCO keypoint results


@dataclass(frozen=True)
class Evaluation:
    """All modes, and predicted quality against the true OKS of coarse poses."""

    modes: tuple[ModeScores, ...]  # `never`, `auto` and `always`
    threshold: float  # threshold of the gate in `auto`
    oks: Doubles  # float64 [n], true OKS of the coarse poses; NaN where it isn't known, or the box fits nobody
    calibration: Calibration  # predicted quality against `oks`
    score_calibration: Calibration  # see `calibrate_scores`, in `auto`; empty where boxes aren't labelled people
    person_calibration: Calibration  # see `calibrate_people`, in `auto`
    gain: GainCurve | None  # gain of refining by predicted quality; None where too few people are labelled
    labelled: bool  # whether boxes are labelled people; if not, quality and gain are of those that fit one


def evaluate(data: EvaluationData, predictions: Predictions, threshold: float) -> Evaluation:
    """Score predictions at refine never, auto (at `threshold`) and always."""
    fits = fitting_boxes(data)
    coarse, fine = (
        np.where(fits, poses_oks(data, predictions.gated(mode, threshold)), np.nan) for mode in ("never", "always")
    )
    modes = tuple(_mode(data, predictions, mode, threshold) for mode in MODES)
    quality = predictions.quality[:, 0]
    labelled = data.people.labelled
    whom = counted(len(fits), "person") if labelled else f"{counted(int(fits.sum()), 'box')} on labelled people"
    gain = measure_gain(quality, coarse, fine, f"{data.name}, {whom}")
    gated = predictions.gated("auto", threshold)
    scores, people = calibrate_scores(data, gated), calibrate_people(data, gated)
    return Evaluation(modes, threshold, coarse, calibrate(quality, coarse), scores, people, gain, labelled)


def calibrate_scores(data: EvaluationData, poses: GatedPoses) -> Calibration:
    """Scores of labelled keypoints against whether they are right: a similarity to their label, as in OKS, of 0.5.

    Empty where boxes aren't labelled people. Scores are compared as results hold them, clipped to 0 to 1.
    """
    people = data.people
    if not people.labelled:
        return calibrate(np.zeros(0, np.float32), np.zeros(0))
    counted = people.keypoints[..., 2] > 0
    right = keypoint_similarity(poses.keypoints, people.keypoints, people.areas, data.skeleton.sigmas) >= RIGHT
    return calibrate(poses.keypoints[..., 2].clip(0, 1)[counted], right[counted].astype(np.float64))


def calibrate_people(data: EvaluationData, poses: GatedPoses) -> Calibration:
    """Scores of people against whether their pose is right: an OKS of 0.5.

    Who has no label is left out. A detected box on nothing counts as wrong, where its picture has labels.
    """
    oks = poses_oks(data, poses)
    return calibrate(poses.scores, np.where(np.isnan(oks), np.nan, oks >= RIGHT))


FITTING_IOU = 0.5
"""Overlap (IoU) from which on a detected box is that of a labelled person."""


def fitting_boxes(data: EvaluationData) -> Bools:
    """Which boxes are those of labelled people, bool [n]: all where boxes are labelled, else those that overlap one.

    What quality predicts is how good the pose of a person is: a box on nothing has none.
    """
    people = data.people
    if people.labelled:
        return np.ones(len(people), np.bool_)
    fits = np.zeros(len(people), np.bool_)
    for image_id, labels in _labels_by_picture(data).items():
        boxes = np.array([item["bbox"] for item in labels], np.float64)
        boxes[:, 2:] += boxes[:, :2]
        rows = people.image_ids == image_id
        fits[rows] = (box_iou(people.boxes_xyxy[rows], boxes) >= FITTING_IOU).any(axis=1)
    return fits


def _labels_by_picture(data: EvaluationData) -> dict[int, list[dict[str, Any]]]:
    """The labels of people with keypoints, by image id."""
    assert data.document is not None
    by_picture: dict[int, list[dict[str, Any]]] = {}
    for item in data.document["annotations"]:
        if item["num_keypoints"] and not item["iscrowd"]:
            by_picture.setdefault(item["image_id"], []).append(item)
    return by_picture


def poses_oks(data: EvaluationData, poses: GatedPoses) -> Doubles:
    """The true OKS of each pose: with the label in its box, or with the best label of its picture."""
    people, sigmas = data.people, data.skeleton.sigmas
    keypoints = poses.keypoints
    if people.labelled:
        return pose_oks(keypoints, people.keypoints, people.areas, sigmas, people.keypoints[..., 2] > 0)
    labels = [item for of_picture in _labels_by_picture(data).values() for item in of_picture]
    return best_oks(
        keypoints,
        people.image_ids,
        np.array([item["keypoints"] for item in labels], np.float32).reshape(len(labels), -1, 3),
        np.array([item["image_id"] for item in labels], np.int64),
        np.array([item["area"] for item in labels], np.float64),
        sigmas,
    )


def best_oks(
    keypoints: Floats,
    image_ids: npt.NDArray[np.int64],
    labels: Floats,
    label_image_ids: npt.NDArray[np.int64],
    label_areas: Doubles,
    sigmas: Sequence[float],
) -> Doubles:
    """The OKS of every pose [n, J, 2 or more] with the labelled person [m, J, 3] of its picture that it fits best.

    For poses in detected boxes, which belong to no label. NaN where a picture has no labels.
    """
    best = np.full(len(keypoints), np.nan)
    for row, image_id in enumerate(image_ids):
        of = np.flatnonzero(label_image_ids == image_id)
        oks = pose_oks(keypoints[row : row + 1], labels[of], label_areas[of], sigmas, labels[of, :, 2] > 0)
        best[row] = np.fmax.reduce(oks, initial=np.nan)
    return best


def _mode(data: EvaluationData, predictions: Predictions, mode: Refine, threshold: float) -> ModeScores:
    poses = predictions.gated(mode, threshold)
    people = data.people
    results = coco_results(data, predictions, poses)
    by_fraction: dict[float, float] = {}
    by_part: dict[str, float] = {}
    if people.labelled:
        units = keypoint_diagonals(people.keypoints)
        by_fraction = {fraction: pck(poses.keypoints, people.keypoints, units, fraction) for fraction in PCK_FRACTIONS}
        if np.isfinite(people.head_sizes).any():
            by_part = pckh_by_joint(poses.keypoints, people, data.skeleton)
    scores = None if data.document is None else coco_scores(data.document, results, data.skeleton, data.image_ids)
    return ModeScores(mode, float(poses.refined.mean()), scores, by_fraction, by_part, results)

"""The whole of an evaluation: every mode's numbers, and how good the predicted quality is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.manifest import GainCurve
from sharpose.runtime.gate import Refine
from sharpose.training.evaluation.calibration import Calibration, calibrate
from sharpose.training.evaluation.coco_ap import CocoScores, coco_results, coco_scores
from sharpose.training.evaluation.gain import measure_gain
from sharpose.training.evaluation.oks import object_keypoint_similarity, true_oks
from sharpose.training.evaluation.pck import pck, pckh_by_joint
from sharpose.training.evaluation.people import EvaluationData
from sharpose.training.evaluation.predict import GatedPoses, Predictions

__all__ = ["MODES", "PCK_FRACTIONS", "Evaluation", "ModeScores", "evaluate", "poses_oks"]

MODES: tuple[Refine, ...] = ("never", "auto", "always")
PCK_FRACTIONS = (0.05, 0.1)
"""Of the diagonal of the box around the labelled keypoints."""


@dataclass(frozen=True)
class ModeScores:
    """One refine mode.

    Attributes:
        mode: `never`, `auto` or `always`.
        refine_rate: Share of people refined, 0 to 1 (of passes, in a flip test).
        coco: AP and AR; None where the labels have none (MPII).
        pck: By fraction of the keypoint diagonal, 0 to 1; empty where boxes aren't labelled people.
        pckh: PCKh@0.5 by body part, 0 to 1, with `mean`; empty where head sizes aren't known.
        results: COCO keypoint results.
    """

    mode: Refine
    refine_rate: float
    coco: CocoScores | None
    pck: dict[float, float]
    pckh: dict[str, float]
    results: list[dict[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """All modes, and predicted quality against the true OKS of coarse poses.

    Attributes:
        modes: `never`, `auto` and `always`.
        threshold: The gate's in `auto`.
        oks: float64 [n], true OKS of the coarse poses; NaN where it isn't known.
        calibration: Of the predicted quality.
        gain: What refining gains by predicted quality; None where too few people are labelled.
    """

    modes: tuple[ModeScores, ...]
    threshold: float
    oks: npt.NDArray[np.float64]
    calibration: Calibration
    gain: GainCurve | None


def evaluate(data: EvaluationData, predictions: Predictions, threshold: float) -> Evaluation:
    """Score predictions at refine never, auto (at `threshold`) and always."""
    coarse, fine = (poses_oks(data, predictions.gated(mode, threshold)) for mode in ("never", "always"))
    modes = tuple(_mode(data, predictions, mode, threshold) for mode in MODES)
    quality = predictions.quality[:, 0]
    gain = measure_gain(quality, coarse, fine, f"{data.name}, {len(data.people)} people")
    return Evaluation(modes, threshold, coarse, calibrate(quality, coarse), gain)


def poses_oks(data: EvaluationData, poses: GatedPoses) -> npt.NDArray[np.float64]:
    """The true OKS of each pose: with the label in its box, or with the best label of its picture."""
    people, sigmas = data.people, data.skeleton.sigmas
    keypoints = poses.keypoints
    if people.labelled:
        return object_keypoint_similarity(keypoints, people.keypoints, people.areas, sigmas)
    assert data.document is not None
    labels = [item for item in data.document["annotations"] if item["num_keypoints"] and not item["iscrowd"]]
    return true_oks(
        keypoints,
        people.image_ids,
        np.array([item["keypoints"] for item in labels], np.float32).reshape(len(labels), -1, 3),
        np.array([item["image_id"] for item in labels], np.int64),
        np.array([item["area"] for item in labels], np.float64),
        sigmas,
    )


def _mode(data: EvaluationData, predictions: Predictions, mode: Refine, threshold: float) -> ModeScores:
    poses = predictions.gated(mode, threshold)
    people = data.people
    results = coco_results(data, predictions, poses)
    by_fraction: dict[float, float] = {}
    by_part: dict[str, float] = {}
    if people.labelled:
        by_fraction = {
            fraction: pck(poses.keypoints, people, "keypoint_diagonal", fraction) for fraction in PCK_FRACTIONS
        }
        if np.isfinite(people.head_sizes).any():
            by_part = pckh_by_joint(poses.keypoints, people, data.skeleton)
    scores = None if data.document is None else coco_scores(data.document, results, data.skeleton, data.image_ids)
    return ModeScores(mode, float(poses.refined.mean()), scores, by_fraction, by_part, results)

"""Which poses match a label, picture by picture: AP of any set of pictures from it, as bootstrapping needs."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.skeleton import Skeleton
from sharpose.training.evaluation.coco_ap import coco_evaluation

__all__ = ["PictureMatches", "average_precision", "match_pictures"]

_MOST_POSES = 20  # a picture, as pycocotools counts them
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class PictureMatches:
    """pycocotools' matching in one picture, at its ten OKS thresholds.

    Attributes:
        scores: float64 [d], of the poses.
        hits: bool [10, d], poses that match a label that counts.
        misses: bool [10, d], poses that match nothing (the others don't count).
        labels: How many labelled people count.
    """

    scores: npt.NDArray[np.float64]
    hits: npt.NDArray[np.bool_]
    misses: npt.NDArray[np.bool_]
    labels: int


def match_pictures(
    document: dict[str, Any], results: list[dict[str, Any]], skeleton: Skeleton, image_ids: Sequence[int]
) -> dict[int, PictureMatches]:
    """The matches of every picture in `image_ids` that has labels or poses; all sizes of people."""
    evaluation = coco_evaluation(document, results, skeleton, image_ids)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    found = {}
    for entry in evaluation.evalImgs:
        if entry is None:
            continue
        matched = np.asarray(entry["dtMatches"]) > 0
        counts = ~np.asarray(entry["dtIgnore"], bool)
        found[int(entry["image_id"])] = PictureMatches(
            scores=np.asarray(entry["dtScores"], np.float64)[:_MOST_POSES],
            hits=(matched & counts)[:, :_MOST_POSES],
            misses=(~matched & counts)[:, :_MOST_POSES],
            labels=int((np.asarray(entry["gtIgnore"]) == 0).sum()),
        )
    return found


def average_precision(pictures: Sequence[PictureMatches]) -> float:
    """COCO's AP over OKS 0.50 to 0.95, 0 to 1, of pictures (one may come several times); NaN without labels."""
    labels = sum(picture.labels for picture in pictures)
    if not labels:
        return float("nan")
    scores = np.concatenate([picture.scores for picture in pictures])
    if not len(scores):
        return 0.0
    order = np.argsort(-scores, kind="mergesort")
    hits = np.cumsum(np.concatenate([picture.hits for picture in pictures], axis=1)[:, order], axis=1)
    misses = np.cumsum(np.concatenate([picture.misses for picture in pictures], axis=1)[:, order], axis=1)
    precision = hits / (hits + misses + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.0
    for reached, best in zip(hits / labels, precision, strict=True):
        places = np.searchsorted(reached, _RECALLS, side="left")
        total += best[places[places < len(best)]].sum()
    return float(total / (len(_RECALLS) * len(precision)))

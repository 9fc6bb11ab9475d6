"""COCO keypoint AP and AR through pycocotools, and AP of any set of pictures, as bootstrapping needs."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError, how_to_install
from sharpose.skeleton import Skeleton


@dataclass(frozen=True)
class CocoScores:
    """pycocotools' ten numbers, 0 to 1; -1 where there is nothing to measure (as it says it)."""

    ap: float
    ap50: float
    ap75: float
    ap_medium: float
    ap_large: float
    ar: float
    ar50: float
    ar75: float
    ar_medium: float
    ar_large: float


def coco_scores(
    document: dict[str, Any], results: list[dict[str, Any]], skeleton: Skeleton, image_ids: Sequence[int]
) -> CocoScores:
    """The scores of results against COCO labels, over the pictures `image_ids`.

    Raises:
        InputError: pycocotools is missing, or a result is of another picture.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = coco_evaluation(document, results, skeleton, image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return CocoScores(*(float(value) for value in evaluation.stats))


def coco_evaluation(
    document: dict[str, Any], results: list[dict[str, Any]], skeleton: Skeleton, image_ids: Sequence[int]
) -> Any:  # noqa: ANN401 - pycocotools has no types
    """A `pycocotools.cocoeval.COCOeval`, set up; it prints when it is run.

    A pose's area, which decides whether it counts among medium and large people, is that of the box around its
    keypoints, as in COCO's results: pycocotools would take that of a result's `bbox`, so that isn't handed on.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise InputError(f"measuring AP needs pycocotools: {how_to_install('eval')}") from None
    unknown = {item["image_id"] for item in results} - {item["id"] for item in document["images"]}
    if unknown:
        raise InputError(f"results: expected pictures of the labels, got others too: {sorted(unknown)[:4]}")
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = copy.deepcopy(document)  # it writes into what it is given
        truth.createIndex()
        if results:
            own = [{key: value for key, value in item.items() if key != "bbox"} for item in results]
            found = truth.loadRes(copy.deepcopy(own))
        else:  # loadRes can't take nothing
            found.dataset = {**document, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "keypoints")
    evaluation.params.imgIds = sorted(image_ids)
    evaluation.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
    return evaluation


_MOST_POSES = 20  # a picture, as pycocotools counts them
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class PictureMatches:
    """pycocotools' matching in one picture, at its ten OKS thresholds."""

    scores: npt.NDArray[np.float64]  # float64 [d], of the poses
    hits: npt.NDArray[np.bool_]  # bool [10, d], poses that match a label that counts
    misses: npt.NDArray[np.bool_]  # bool [10, d], poses that match nothing (the others don't count)
    labels: int  # how many labelled people count


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


_RESAMPLES = 300


def change_interval(
    before: Mapping[int, PictureMatches], after: Mapping[int, PictureMatches], seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of how AP changes from one set of poses to another, of the same labels.

    Pictures are drawn with replacement, the same ones for both, so that what is hard for both doesn't widen it.

    Args:
        before: Matches by picture, of `match_pictures`.
        after: The same of the other poses.
        seed: Determines the draws.

    Returns:
        Lowest and highest change, -1 to 1; NaN without labels.
    """
    pictures = sorted(before.keys() & after.keys())
    if not sum(before[picture].labels for picture in pictures):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    changes = []
    for _ in range(_RESAMPLES):
        drawn = rng.choice(pictures, len(pictures)).tolist()
        first, second = (average_precision([matches[picture] for picture in drawn]) for matches in (before, after))
        changes.append(second - first)
    low, high = np.nanpercentile(changes, (2.5, 97.5)).tolist()
    return low, high

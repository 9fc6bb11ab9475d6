"""Scores that mean something: tables from raw scores to probabilities, fitted on half of the labelled pictures."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sharpose.bundle import MANIFEST_NAME, Bundle, change_manifest
from sharpose.coco.ap import coco_scores
from sharpose.errors import InputError, SinkError, counted, one_line
from sharpose.files import replacing
from sharpose.scores.tables import RIGHT, KeypointTable, ScoreCalibration, ScoreTable, ScoreTables, person_score
from sharpose.similarity import keypoint_similarity, pose_oks
from sharpose.skeleton import Skeleton
from sharpose.training.evaluation.data import EvaluationData
from sharpose.training.evaluation.metrics import calibrate_people, calibrate_scores
from sharpose.training.evaluation.predict import Predictions, coco_results

if TYPE_CHECKING:
    from sharpose.model import SHaRPose

_FEWEST_PEOPLE = 50  # in either half
_FEWEST_KEYPOINTS = 100  # of a table; with fewer, those of all tables stand in
_PER_POINT = 40  # items that a point of a table stands for, at least
_MOST_POINTS = 12  # of a table, its ends aside
_DECIMALS = 5

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """How well scores say how often they are right, on held-out pictures, gated as in use."""

    keypoints: float  # mean difference of score and share of right keypoints, in ten bins (ECE)
    people: float  # the same of people's scores and poses
    ap: float | None  # AP, 0 to 1, by the people's scores; None without COCO-format labels

    def __str__(self) -> str:
        """Two errors and AP, in a line."""
        ap = "" if self.ap is None else f", AP {100 * self.ap:.1f}"
        return f"keypoints {self.keypoints:.3f}, people {self.people:.3f}{ap}"


@dataclass(frozen=True)
class ScoreFit:
    """Score tables, and what they do on held-out pictures."""

    tables: ScoreTables
    people: tuple[int, int]  # numbers of people they were fitted to, and checked on
    before: Reliability  # with raw scores
    after: Reliability
    stood_in: tuple[str, ...]  # keypoints with too few labels, whose tables are made of the errors of all

    @property
    def better(self) -> bool:
        """Whether scores of held-out keypoints and people say better than raw ones how often they are right."""
        return self.after.keypoints < self.before.keypoints and self.after.people < self.before.people

    def lines(self) -> list[str]:
        """The result, for people to read."""
        fitted, checked = (counted(number, "person") for number in self.people)
        lines = [
            f"score tables fitted to {fitted}; on {checked} of other pictures, error of scores (ECE) with raw scores: "
            f"{self.before}; with tables: {self.after}"
        ]
        if self.stood_in:
            lines.append(
                f"note: fewer than {_FEWEST_KEYPOINTS} labels of {', '.join(self.stood_in)}: their tables take the "
                "distances of all keypoints"
            )
        return lines


def fit_scores(
    data: EvaluationData, predictions: Predictions, threshold: float, seed: int = 0, what: str = ""
) -> ScoreFit:
    """Fit tables on one half of the pictures, and compare them with raw scores on the other.

    Args:
        data: The labelled people.
        predictions: Their poses, of single passes.
        threshold: That of the gate, for the comparison.
        seed: Determines the halves.
        what: The data, for people to read.

    Raises:
        InputError: boxes are no labelled people, or there are too few in a half.
    """
    fitted, checked = split_people(data, seed)
    fitted_on = f"{what or data.name}, {counted(int(fitted.sum()), 'person')}"
    tables, stood_in = fit_tables(data, predictions.poses, fitted, fitted_on)
    calibrated = dataclasses.replace(predictions, calibration=ScoreCalibration(tables, data.skeleton))
    raw = dataclasses.replace(predictions, calibration=None)
    before, after = (_reliability(data, item, checked, threshold) for item in (raw, calibrated))
    return ScoreFit(tables, (int(fitted.sum()), int(checked.sum())), before, after, stood_in)


def split_people(data: EvaluationData, seed: int = 0) -> tuple[Bools, Bools]:
    """Whom to fit tables to, and whom to check them on: bool [n] each, labelled people of either half of the pictures.

    Args:
        data: The labelled people.
        seed: Determines the halves.

    Raises:
        InputError: boxes are no labelled people, or there are too few in a half.
    """
    people = data.people
    if not people.labelled:
        raise InputError("--calibrate-scores: expected labelled boxes, whose people are known; leave --boxes out")
    known = (people.keypoints[..., 2] > 0).any(axis=1)
    pictures = np.random.default_rng(seed).permutation(np.unique(people.image_ids[known]))
    fitted = known & np.isin(people.image_ids, pictures[: len(pictures) // 2])
    checked = known & ~fitted
    if min(fitted.sum(), checked.sum()) < _FEWEST_PEOPLE:
        raise InputError(
            f"--calibrate-scores: expected at least {_FEWEST_PEOPLE} labelled people in each half of the pictures, "
            f"got {fitted.sum()} and {checked.sum()}; give more pictures"
        )
    return fitted, checked


def fit_tables(
    data: EvaluationData, poses: npt.NDArray[np.float32], rows: Bools, fitted_on: str
) -> tuple[ScoreTables, tuple[str, ...]]:
    """Tables of both stages, and the names of the keypoints with too few labels.

    Args:
        data: The labelled people.
        poses: float32 [n, 2, J, 3], coarse and fine, with raw scores.
        rows: bool [n], whom to fit them to.
        fitted_on: For people to read.
    """
    people, skeleton = data.people.only(rows), data.skeleton
    labelled = people.keypoints[..., 2] > 0
    stages: list[tuple[KeypointTable, ...]] = []
    stood_in: list[str] = []
    for stage in range(2):
        found = poses[rows, stage]
        tables = []
        for group in mirrored_groups(skeleton):
            every = list(range(skeleton.num_keypoints))
            columns = group if labelled[:, group].sum() >= _FEWEST_KEYPOINTS else every
            # A left keypoint and its right one have their own sigmas; those that stand in are judged by the first's.
            sigmas = [skeleton.sigmas[index if index in group else group[0]] for index in every]
            similarity = keypoint_similarity(found, people.keypoints, people.areas, sigmas)[:, columns]
            counts = labelled[:, columns]
            raw, probability = fit_table(found[:, columns, 2][counts].astype(np.float64), similarity[counts] >= RIGHT)
            names = tuple(skeleton.keypoints[index] for index in group)
            tables.append(KeypointTable(raw=raw, probability=probability, keypoints=names))
            stood_in += names if columns is every and not stage else ()
        stages.append(tuple(tables))
    both = poses[rows].reshape(-1, *poses.shape[2:])  # coarse and fine poses of a person behind each other
    truth, areas = np.repeat(people.keypoints, 2, axis=0), np.repeat(people.areas, 2)
    oks = pose_oks(both, truth, areas, skeleton.sigmas, truth[..., 2] > 0)
    raw, probability = fit_table(person_score(both[:, :, 2]).astype(np.float64), oks >= RIGHT)
    person = ScoreTable(raw=raw, probability=probability)
    return ScoreTables(coarse=stages[0], fine=stages[1], person=person, fitted_on=fitted_on), tuple(stood_in)


def fit_table(raw: Doubles, right: Bools) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The points of a score table: raw scores and probabilities.

    Items are put into bins of about equal size by their raw score; a bin's mean score and its share of right ones make
    a point, and neighbours that fall become one. Between points the table rises, so different scores stay different. A
    raw score of 0 has the probability 0: nothing was found. Towards 1 the last slope goes on. No share is certain: a
    bin counts one item more, which is half right.

    Args:
        raw: float64 [n], raw scores, 0 to 1; n at least 1.
        right: bool [n].

    Returns:
        `ScoreTable.raw` and `.probability`.
    """
    bins = int(np.clip(len(raw) // _PER_POINT, 1, _MOST_POINTS))
    edges = np.unique(np.quantile(raw, np.arange(1, bins) / bins))
    place = np.searchsorted(edges, raw, side="right")  # equal scores share a bin
    counts = np.bincount(place)
    filled = np.flatnonzero(counts)
    weights = counts[filled].astype(np.float64)
    scores = np.bincount(place, raw)[filled] / weights
    shares = rising_means((np.bincount(place, right)[filled] + 0.5) / (weights + 1), weights)
    level = np.flatnonzero(np.diff(shares, prepend=-1.0) > 0)  # where a new share begins
    scores = np.add.reduceat(scores * weights, level) / np.add.reduceat(weights, level)
    shares = shares[level]
    slope = (shares[-1] - shares[-2]) / (scores[-1] - scores[-2]) if len(level) > 1 else 0.0
    most = max(shares[-1], 1 - 0.5 / (weights[-1] + 1))  # as if the last bin were all right
    end = min(shares[-1] + slope * (1 - scores[-1]), most)
    points: dict[float, float] = {0.0: 0.0}
    for score, share in (*zip(scores.tolist(), shares.tolist(), strict=True), (1.0, float(end))):
        points[round(score, _DECIMALS)] = round(share, _DECIMALS)
    return tuple(points), tuple(points.values())


def rising_means(values: Doubles, weights: Doubles) -> Doubles:
    """Isotonic regression: the never falling sequence that is nearest to `values` [n] by weighted squares.

    Pool adjacent violators (Ayer et al. 1955): neighbours that fall are replaced by their mean until none do.
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, length = value, weight, 1
        while blocks and blocks[-1][0] >= mean:
            before, other, more = blocks.pop()
            mean, total, length = (mean * total + before * other) / (total + other), total + other, length + more
        blocks.append((mean, total, length))
    return np.repeat([mean for mean, _, _ in blocks], [length for _, _, length in blocks])


def mirrored_groups(skeleton: Skeleton) -> list[list[int]]:
    """The indices of keypoints that share a table: a left one and its right one, and each in the middle by itself."""
    order = skeleton.flip_order
    return [sorted({index, order[index]}) for index in range(skeleton.num_keypoints) if index <= order[index]]


def _reliability(data: EvaluationData, predictions: Predictions, rows: Bools, threshold: float) -> Reliability:
    """Of some of the people; AP is that of their pictures."""
    poses = predictions.gated("auto", threshold)
    some = dataclasses.replace(data, people=data.people.only(rows))
    of = dataclasses.replace(
        poses, keypoints=poses.keypoints[rows], scores=poses.scores[rows], refined=poses.refined[rows]
    )
    ap = None
    if data.document is not None:
        pictures = sorted(set(some.people.image_ids.tolist()))
        results = [item for item in coco_results(data, predictions, poses) if item["image_id"] in set(pictures)]
        ap = coco_scores(data.document, results, data.skeleton, pictures).ap
    return Reliability(calibrate_scores(some, of).reliability_error, calibrate_people(some, of).reliability_error, ap)


def save_in_checkpoint(path: Path, model: SHaRPose, tables: ScoreTables) -> None:
    """Write a checkpoint of the model with score tables, atomically. Raises `SinkError` where it can't be written."""
    from sharpose.model.checkpoint import save_checkpoint

    try:
        with replacing(path) as temporary:
            save_checkpoint(temporary, model, tables)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError of many lines
        raise SinkError(f"--calibrate-scores {path}: can't be written ({one_line(error)[:160]})") from error


def save_in_bundle(path: Path, bundle: Bundle, tables: ScoreTables) -> None:
    """Put score tables into a copy of a bundle, or, where `path` is the bundle itself, into its `bundle.json`.

    Raises:
        BundleError: the bundle isn't valid any more.
        SinkError: `path` exists and is another folder, or can't be written.
    """
    if path.exists() and path.samefile(bundle.path):
        change_manifest(path, lambda now: {"scores": tables})
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.unfinished-", dir=path.parent) as folder:
            copy = Path(folder) / "bundle"
            copy.mkdir()
            for name in (MANIFEST_NAME, *bundle.manifest.files):
                shutil.copyfile(bundle.path / name, copy / name)
            change_manifest(copy, lambda now: {"scores": tables})
            copy.rename(path)
    except OSError as error:
        raise SinkError(f"--calibrate-scores {path}: can't be written ({error.strerror or error})") from error

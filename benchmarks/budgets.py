"""What a budget of regions buys: `python benchmarks/budgets.py --labels FILE --images DIR --output DIR`.

AP against milliseconds of some alphas (the share of a person's regions that the fine stage looks at): the same for
everybody, or for each person the smallest that holds a given share of the relevance; with more and more people refined.
Poses come from the model in PyTorch, times from ONNX Runtime on one person and one thread, in turns.
"""

from __future__ import annotations

if __name__ == "__main__":  # Ctrl-C while modules are imported
    from sharpose.__main__ import end_on_signals

    end_on_signals()
    from measuring.command import require

    require("torch")

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
import cv2
import numpy as np
import numpy.typing as npt
import torch
from latency import picture_with
from measuring.command import begin, bundle_option, report_options
from measuring.page import table
from measuring.turns import Frame, take_turns
from report import benchmark_command, command_to_repeat, kept_when_interrupted, write_file

from sharpose.bundle import open_bundle, shipped_bundle
from sharpose.cli import Number, option
from sharpose.cli import main as run_command
from sharpose.coco.ap import PictureMatches, average_precision, match_pictures
from sharpose.export.pictures import LabelledPictures, load_labels
from sharpose.geometry import crop_frames, extract_crops, keypoints_to_image
from sharpose.model import SHaRPose, load_model
from sharpose.model.graphs import CoarseGraph, FineGraph
from sharpose.runtime import Boxes, PoseEstimator, PoseResult
from sharpose.skeleton import Skeleton
from sharpose.tokens import gather_patches, selected_regions

RATES = tuple(range(0, 101, 10))
"""Percentages of the people who are refined, those of lowest predicted quality first."""
_RESAMPLES = 300  # of the pictures, for intervals
_MODEL, _PICTURES, _BUDGETS = "Model", "Pictures", "Budgets"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class People:
    """What both stages find of n people, in all budgets.

    Attributes:
        image_ids: int64 [n].
        coarse: float32 [n, J, 3], `x, y` in picture pixels and score.
        fine: float32 [b, n, J, 3], for each of b budgets.
        quality: float32 [n], predicted.
        held: float32 [b, n], share of a person's relevance that each budget holds.
    """

    image_ids: npt.NDArray[np.int64]
    coarse: Floats
    fine: Floats
    quality: Floats
    held: Floats


def run_people(model: SHaRPose, labelled: LabelledPictures, budgets: Sequence[int]) -> People:
    """Both stages for all labelled people; `budgets` are numbers of regions, ascending."""
    coarse_graph, fine_graph = CoarseGraph(model).eval(), FineGraph(model).eval()
    ids: list[int] = []
    poses: list[Floats] = []  # [1 + b, m, J, 3] of some people, as the next two
    quality: list[Floats] = []
    held: list[Floats] = []
    for image_id, (path, boxes) in labelled.pictures.items():
        image = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), np.uint8)
        frames = crop_frames(boxes, model.config.crop_size)
        crops = extract_crops(image, frames, np.empty((len(frames), *model.config.crop_size, 3), np.uint8))
        rows = np.arange(len(crops), dtype=np.int32)
        with torch.inference_mode():
            coarse = coarse_graph.stage(coarse_graph.normalise(torch.from_numpy(crops)).permute(0, 3, 1, 2))
            order = coarse.region_order.to(torch.int32)
            found = [coarse_graph.decode(coarse.heatmaps)]
            for selected in budgets:
                patches = torch.from_numpy(gather_patches(crops, rows, order.numpy(), selected))
                carried = order, coarse.region_features, coarse.region_embeddings
                found.append(fine_graph(torch.from_numpy(rows), patches, *carried)[0])
        share = (coarse.relevance.cumsum(1) / coarse.relevance.sum(1, keepdim=True)).numpy()
        ids += [image_id] * len(crops)
        poses.append(np.stack([keypoints_to_image(pose.numpy(), frames) for pose in found]))
        quality.append(coarse.quality.numpy())
        held.append(share[:, np.array(budgets) - 1].T)
    joined = np.concatenate(poses, axis=1)
    return People(np.array(ids), joined[0], joined[1:], np.concatenate(quality), np.concatenate(held, axis=1))


def smallest_that_holds(held: Floats, share: float) -> npt.NDArray[np.int64]:
    """int64 [n], index of the smallest budget that holds a share of the relevance; the largest where none does.

    `held` is float32 [b, n], what each budget holds, budgets ascending.
    """
    enough = held >= share
    return np.where(enough.any(axis=0), enough.argmax(axis=0), len(held) - 1)


def refined_at(quality: Floats, percent: int) -> npt.NDArray[np.bool_]:
    """The given percentage of the people as bool [n], those of lowest predicted quality first."""
    ranks = np.argsort(np.argsort(quality, kind="stable"), kind="stable")
    return ranks < round(len(quality) * percent / 100)


class Scores:
    """AP of poses on the labelled pictures, and of any choice of the pictures."""

    def __init__(self, labelled: LabelledPictures, skeleton: Skeleton, *, ignore_weak: bool) -> None:
        self._document = labelled.labels.document(ignore_weak=ignore_weak)
        self._category, self._skeleton = labelled.labels.category_id, skeleton
        self._ids = list(labelled.pictures)

    def matches(self, people: People, keypoints: Floats) -> list[PictureMatches]:
        """The matches of poses float32 [n, J, 3] with the labels, picture by picture."""
        count = len(keypoints)
        boxes = Boxes(np.zeros((count, 4), np.float32), np.ones(count, np.float32))
        scores = PoseResult(boxes, keypoints, people.quality, np.zeros(count, np.bool_)).scores
        results = [
            {
                "image_id": int(image_id),
                "category_id": self._category,
                "keypoints": pose.ravel().tolist(),
                "score": float(score),
            }
            for image_id, pose, score in zip(people.image_ids, keypoints, scores, strict=True)
        ]
        found = match_pictures(self._document, results, self._skeleton, self._ids)
        return [found[image_id] for image_id in self._ids if image_id in found]


def measure_times(bundle: Path, alphas: Sequence[float], seconds: float) -> tuple[float, list[float]]:
    """Milliseconds a person: of all but the fine stage, and of the fine stage at each alpha, gathering included.

    It is the CPU time of one thread, and the tenth percentile of the frames: what else the machine does only adds.
    """
    image, boxes = picture_with(1)
    with contextlib.ExitStack() as opened:

        def frame_of(alpha: float) -> Frame:
            estimator = PoseEstimator(bundle, precision="fp32", alpha=alpha, threads=1, batch=1)
            opened.callback(estimator.close)

            def run(refined: int) -> dict[str, float]:
                began = time.process_time()
                estimator(image, boxes, rows=range(refined))
                return {"end_to_end": time.process_time() - began}

            return run

        frames = {f"{alpha:g}": frame_of(alpha) for alpha in alphas}
        times = take_turns(frames, [0, 1], warm_up=3, seconds=seconds, min_rounds=10)
    coarse, both = ([float(np.percentile(item.frames()[start::2], 10)) for item in times.values()] for start in (0, 1))
    others = float(np.median(coarse))
    return others, [milliseconds - others for milliseconds in both]


@dataclass(frozen=True)
class Point:
    """A policy at a refine rate."""

    policy: str  # an alpha for everybody, or the share of relevance that each person's budget holds
    percent: int  # of the people who are refined
    milliseconds: float  # a person, on average
    ap: float  # 0 to 100
    gain: float | None = None  # AP beyond one alpha for everybody at the same cost, where everybody is refined
    interval: tuple[float, float] | None = None  # 95 %, of the gain, under resampling of pictures


def measure_points(
    people: People,
    scores: Scores,
    alphas: Sequence[float],
    shares: Sequence[float],
    times: tuple[float, Sequence[float]],
) -> Iterator[list[Point]]:
    """The points of one policy after the other; `times` as `measure_times` gives them."""
    others, fine_ms = times[0], np.array(times[1])
    count = len(people.quality)
    choices = {f"alpha {alpha:g}": np.full(count, index) for index, alpha in enumerate(alphas)}
    choices |= {f"relevance {share:g}": smallest_that_holds(people.held, share) for share in shares}
    fixed: list[list[PictureMatches]] = []
    for policy, choice in choices.items():
        poses, points = people.fine[choice, np.arange(count)], list[Point]()
        for percent in RATES:
            refined = refined_at(people.quality, percent)
            milliseconds = others + float((fine_ms[choice] * refined).mean())
            matches = scores.matches(people, np.where(refined[:, None, None], poses, people.coarse))
            gain, interval = None, None
            if percent == RATES[-1] and policy.startswith("alpha"):
                fixed.append(matches)
            elif percent == RATES[-1]:
                gain, interval = _gain(matches, fixed, milliseconds, others + fine_ms)
            points.append(Point(policy, percent, milliseconds, 100 * average_precision(matches), gain, interval))
        click.echo(f"{policy}: AP {points[-1].ap:.2f}, {points[-1].milliseconds:.2f} ms a person, everybody refined")
        yield points


def _gain(
    matches: list[PictureMatches],
    fixed: list[list[PictureMatches]],
    milliseconds: float,
    fixed_ms: npt.NDArray[np.float64],
) -> tuple[float, tuple[float, float]]:
    """AP beyond the line between the fixed alphas at the same milliseconds, and its 95 % interval."""

    def gain(pictures: npt.NDArray[np.int64]) -> float:
        own, *lines = (average_precision([item[picture] for picture in pictures]) for item in (matches, *fixed))
        return 100 * (own - float(np.interp(milliseconds, fixed_ms, lines)))

    rng, count = np.random.default_rng(0), len(matches)
    drawn = [gain(rng.integers(0, count, count)) for _ in range(_RESAMPLES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return gain(np.arange(count)), (float(low), float(high))


def write_page(report: dict[str, Any], machine: str) -> str:
    """The report as a Markdown page."""
    points = [Point(**values) for values in report["points"]]
    policies = list(dict.fromkeys(point.policy for point in points))
    by_place = {(point.policy, point.percent): point for point in points}
    lines = ["# Budgets of regions", "", machine, "", f"`{report['command']}`", ""]
    lines += [f"{report['weights']}, {report['people']} people of {report['pictures']}.", ""]
    lines += [
        "AP, and milliseconds a person (CPU time of one thread, one at a time), by the share refined.",
        "",
    ]
    header = ["", *(f"{percent} %" for percent in RATES)]
    rows = []
    for policy in policies:
        of_policy = [by_place[policy, rate] for rate in RATES]
        rows.append([policy, *(f"{point.ap:.1f} ({point.milliseconds:.1f})" for point in of_policy)])
    lines += [*table(header, rows), ""]
    lines += [
        "Everybody refined, each with the smallest budget that holds a share of the relevance: AP beyond one alpha"
    ]
    lines += ["for everybody at the same milliseconds, with its 95 % interval under resampling of pictures.", ""]
    cells = []
    for point in points:
        if point.gain is not None and point.interval is not None:
            low, high = point.interval
            numbers = f"{point.milliseconds:.2f}", f"{point.ap:.2f}", f"{point.gain:+.2f}"
            cells.append([point.policy, *numbers, f"{low:+.2f} to {high:+.2f}"])
    return "\n".join([*lines, *table(["", "ms", "AP", "gain", "95 % interval"], cells)]) + "\n"


def _shares(context: click.Context, parameter: click.Parameter, text: str) -> list[float]:
    """A click callback that reads `0.2,0.35`, ascending, each above 0 and at most 1."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [0.0]
    if numbers != sorted(set(numbers)) or not all(0 < number <= 1 for number in numbers):
        raise click.BadParameter(f"expected ascending numbers above 0 and at most 1, with commas between, got {text!r}")
    return numbers


@benchmark_command("python benchmarks/budgets.py --labels person_keypoints_val.json --images images --output out")
@bundle_option(_MODEL, "Folder written by sharpose-export, with fp32 graphs.")
@option(_PICTURES, "--labels", type=click.Path(path_type=Path), required=True, help="COCO keypoints: the people.")
@option(_PICTURES, "--images", type=click.Path(path_type=Path), required=True, help="Folder of their pictures.")
@option(_PICTURES, "--ignore-weak", is_flag=True, help="Leave out labels of visibility 1.")
@option(
    _BUDGETS,
    "--alpha",
    "alphas",
    default="0.1,0.2,0.35,0.5",
    show_default=True,
    callback=_shares,
    help="Shares of the regions that the fine stage looks at.",
)
@option(
    _BUDGETS,
    "--relevance",
    default="0.5,0.6,0.7,0.75",
    show_default=True,
    callback=_shares,
    help="Shares of the relevance: each person gets the smallest alpha that holds it.",
)
@option(_BUDGETS, "--seconds", default=20.0, show_default=True, type=Number(0, 86400), help="Seconds of timing.")
@report_options("budgets.md and budgets.json", "policies")
def command(
    bundle: Path | None,
    labels: Path,
    images: Path,
    ignore_weak: bool,
    alphas: list[float],
    relevance: list[float],
    seconds: float,
    output: Path,
    overwrite: bool,
    debug: bool,
) -> int:
    """Measure AP against milliseconds of one alpha for everybody, and of one for each person by relevance."""
    machine = begin(output, "budgets.md", "budgets.json", overwrite=overwrite)
    opened = open_bundle(shipped_bundle() if bundle is None else bundle)
    labelled = load_labels(labels, images, opened.model.skeleton)
    times = measure_times(opened.path, alphas, seconds)
    for alpha, milliseconds in zip(alphas, times[1], strict=True):
        click.echo(f"alpha {alpha:g}: the fine stage takes {milliseconds:.2f} ms a person, all else {times[0]:.2f} ms")
    model = load_model(opened.path).model.eval()
    people = run_people(model, labelled, [selected_regions(alpha, opened.model.num_regions) for alpha in alphas])
    scores = Scores(labelled, opened.model.skeleton, ignore_weak=ignore_weak)
    points: list[Point] = []
    report = {
        "weights": opened.manifest.source,
        "command": command_to_repeat("budgets.py"),
        "machine": asdict(machine),
        "pictures": labelled.origin,
        "people": len(people.quality),
        "times_ms": {"others": times[0], "fine": times[1]},
    }

    def write() -> None:
        values = {**report, "points": [asdict(point) for point in points]}
        write_file(output / "budgets.json", json.dumps(values, indent=1) + "\n")
        write_file(output / "budgets.md", write_page(values, str(machine)))
        click.echo(f"wrote {output / 'budgets.md'} and {output / 'budgets.json'}")

    with kept_when_interrupted(points, "point", output, write):
        for of_policy in measure_points(people, scores, alphas, relevance, times):
            points += of_policy
        write()
    return 0


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()

"""The report of an evaluation: tables in the terminal, Markdown, numbers for JSON, plots."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from sharpose.bundle import GainCurve
from sharpose.coco.labels import usage_line
from sharpose.errors import SinkError, counted
from sharpose.training.evaluation.gate import GatePoint, IdealPoint, ThresholdChoice, Verdict
from sharpose.training.evaluation.metrics import FITTING_IOU, Calibration, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Subject:
    """The model, device, precision and data that were measured, for people to read."""

    model: str
    device: str
    precision: str
    data: str
    boxes: str
    flip_test: bool
    scores: str
    pictures: int
    people: int
    head_unit: str = ""
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lost: int = 0  # pictures with people that can't be used
    skeleton: str = ""  # its name, the number of keypoints, and where the sigmas of OKS are from

    def lines(self) -> list[str]:
        """One line for each fact."""
        lines = [
            f"model: {self.model}, on {self.device} in {self.precision}",
            f"data: {self.data}, {counted(self.pictures, 'picture')}, {counted(self.people, 'box')} ({self.boxes})",
            *([f"skeleton: {self.skeleton}"] if self.skeleton else []),
            f"flip test: {'yes, each pass gated by itself' if self.flip_test else 'no'}",
            f"scores: {self.scores}",
        ]
        return [*lines, f"PCKh unit: {self.head_unit}"] if self.head_unit else lines

    @property
    def partial(self) -> str:
        """What the numbers leave out, where pictures are lost."""
        return f"{counted(self.lost, 'picture')} with people can't be used; the numbers are of the others"

    def closing_lines(self) -> list[str]:
        """What was assumed, how many people were used and how many left out, and whether the numbers are partial."""
        noun = "person" if self.boxes == "labelled" else "box"
        used = usage_line(self.data, self.people, Counter(self.left_out), noun)
        lines = [*(f"note: {note}" for note in self.notes), used]
        return [*lines, f"partial: {self.partial}"] if self.lost else lines


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the table of modes, then the calibration."""
    heads, rows = _mode_table(evaluation, "auto")
    table = Table(caption=f"auto refines those of predicted quality below {evaluation.threshold:.5g}")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(_calibration_line(evaluation), highlight=False)
    for heads, found in (
        (_QUALITY_HEADS, evaluation.calibration),
        (_SCORE_HEADS, evaluation.score_calibration),
        (_PERSON_HEADS, evaluation.person_calibration),
    ):
        if found.bins:
            table = Table(*heads, title=f"{heads[0]}, calibration")
            for row in _bin_rows(found):
                table.add_row(*row)
            console.print(table)
    if evaluation.gain is not None:
        console.print(_gain_line(evaluation.gain), highlight=False)


def print_points(points: Sequence[GatePoint], chosen: float | None, console: Console) -> None:
    """Print the curve, with the chosen threshold marked."""
    table = Table(*_POINT_HEADS, "", title="AP against refine rate")
    for point, row in zip(points, _point_rows(points), strict=True):
        table.add_row(*row, "chosen" if point.threshold == chosen else "")
    console.print(table)


def as_markdown(
    subject: Subject,
    evaluation: Evaluation,
    points: Sequence[GatePoint],
    choice: ThresholdChoice | None,
    ideal: Sequence[IdealPoint] = (),
    *,
    plots: bool,
) -> str:
    """The whole report."""
    parts = [
        "# Evaluation",
        "\n".join(f"* {line}" for line in [*subject.lines(), *subject.closing_lines()]),
        _markdown(*_mode_table(evaluation, f"auto (below {evaluation.threshold:.4g})")),
    ]
    if any(mode.pckh for mode in evaluation.modes):
        names = list(evaluation.modes[0].pckh)
        rows = [[mode.mode, *(_points(mode.pckh[name]) for name in names)] for mode in evaluation.modes]
        parts += ["## PCKh@0.5", _markdown(["refine", *names], rows)]
    parts += ["## Predicted quality", _calibration_line(evaluation)]
    if evaluation.calibration.bins:
        parts.append(_markdown(_QUALITY_HEADS, _bin_rows(evaluation.calibration)))
    if evaluation.gain is not None:
        parts.append(_gain_line(evaluation.gain))
    if plots:
        parts.append("![Predicted quality against true OKS](quality.png)")
    if evaluation.score_calibration.bins:
        parts += ["## Keypoint scores, refine auto", _score_line(evaluation.score_calibration)]
        parts.append(_markdown(_SCORE_HEADS, _bin_rows(evaluation.score_calibration)))
    if evaluation.person_calibration.bins:
        parts += ["## Scores of people, refine auto", _person_line(evaluation)]
        parts.append(_markdown(_PERSON_HEADS, _bin_rows(evaluation.person_calibration)))
    if points:
        parts.append("## The gate")
        if choice is not None:
            parts.append(choice_lines(choice))
        parts.append(_markdown(_POINT_HEADS, _point_rows(points)))
        if plots:
            parts.append("![AP against refine rate](ap_refine_rate.png)")
    if ideal:
        parts += ["### What a better gate could reach", _IDEAL, _markdown(_IDEAL_HEADS, _ideal_rows(ideal))]
    return "\n\n".join(parts) + "\n"


_VERDICTS: dict[Verdict, str] = {
    "kept": "kept",
    "within chance": "within chance (not kept there, but the interval reaches the limit)",
    "not kept": "not kept",
}


def choice_lines(choice: ThresholdChoice) -> str:
    """A choice in a few sentences."""
    words, points = choice.promise.words, (choice.chosen_on, choice.checked_on)
    low, high = map(words, choice.interval)
    if choice.promise.kind == "ap-loss":
        unit, refining = "AP points", [f", refining {point.refine_rate:.1%}" for point in points]
    else:
        unit, refining = "of the people refined", ["", ""]
    chosen_on, checked_on = (counted(number, "picture") for number in choice.pictures)
    return (
        f"Promise {choice.promise}: threshold {choice.threshold:.5f}, chosen on {chosen_on} "
        f"({words(choice.chosen_value)} {unit}{refining[0]}). On the other {checked_on}: "
        f"{words(choice.held_out_value)} {unit}, 95% bootstrap interval {low} to {high}{refining[1]}: "
        f"{_VERDICTS[choice.verdict]}."
    )


def as_numbers(
    subject: Subject,
    evaluation: Evaluation,
    points: Sequence[GatePoint],
    choice: ThresholdChoice | None,
    ideal: Sequence[IdealPoint] = (),
) -> dict[str, object]:
    """Everything but the poses, for `json.dumps(…, allow_nan=False)`: None for unknown numbers."""
    modes = {
        mode.mode: {
            "refine_rate": mode.refine_rate,
            "coco": None if mode.coco is None else dataclasses.asdict(mode.coco),
            "pck": {f"{fraction:g}": value for fraction, value in mode.pck.items()},
            "pckh": mode.pckh,
        }
        for mode in evaluation.modes
    }
    plain = {
        "subject": dataclasses.asdict(subject),
        "threshold": evaluation.threshold,
        "modes": modes,
        "calibration": dataclasses.asdict(evaluation.calibration),
        "score_calibration": dataclasses.asdict(evaluation.score_calibration),
        "person_calibration": dataclasses.asdict(evaluation.person_calibration),
        "gain": None if evaluation.gain is None else evaluation.gain.model_dump(),
        "curve": [dataclasses.asdict(point) for point in points],
        "choice": None if choice is None else dataclasses.asdict(choice),
        "ideal_gates": [dataclasses.asdict(point) for point in ideal],
    }
    known = _without_nan(plain)
    assert isinstance(known, dict)
    return known


_QUALITY_HEADS = ["predicted quality", "people", "mean predicted", "mean true OKS"]
_SCORE_HEADS = ["keypoint score", "keypoints", "mean score", "share right"]
_PERSON_HEADS = ["score of a person", "people", "mean score", "share right"]
_POINT_HEADS = ["threshold", "refined", "AP"]
_IDEAL_HEADS = ["spared", "by predicted quality", "by true quality", "by true gain"]
_IDEAL = (
    "AP where a share of the people is spared the fine stage: those of highest predicted quality, those whose coarse "
    "pose has the highest true OKS, or those whose OKS gains least. The second is what a quality predictor that is "
    "never wrong would reach: where it loses much too, the coarse stage is what to train."
)


def _bin_rows(calibration: Calibration) -> list[list[str]]:
    return [
        [f"{item.low:.3f} to {item.high:.3f}", str(item.count), f"{item.predicted:.3f}", f"{item.true:.3f}"]
        for item in calibration.bins
    ]


def _ideal_rows(points: Sequence[IdealPoint]) -> list[list[str]]:
    return [
        [f"{point.spared:.1%}", *map(_points, (point.predicted, point.true_quality, point.true_gain))]
        for point in points
    ]


def _point_rows(points: Sequence[GatePoint]) -> list[list[str]]:
    return [[f"{point.threshold:.5f}", f"{point.refine_rate:.1%}", _points(point.ap)] for point in points]


def _mode_table(evaluation: Evaluation, auto: str) -> tuple[list[str], list[list[str]]]:
    fractions = list(evaluation.modes[0].pck)
    with_pckh = any(mode.pckh for mode in evaluation.modes)
    heads = ["refine", "refined", "AP", "AP50", "AP75", "AR", *(f"PCK@{fraction:g}" for fraction in fractions)]
    heads += ["PCKh@0.5"] if with_pckh else []
    rows = []
    for mode in evaluation.modes:
        name = auto if mode.mode == "auto" else mode.mode
        scores = mode.coco
        ap = ["–"] * 4 if scores is None else [_points(v) for v in (scores.ap, scores.ap50, scores.ap75, scores.ar)]
        row = [name, f"{mode.refine_rate:.1%}", *ap, *(_points(mode.pck[fraction]) for fraction in fractions)]
        rows.append([*row, _points(mode.pckh.get("mean", math.nan))] if with_pckh else row)
    return heads, rows


def _calibration_line(evaluation: Evaluation) -> str:
    found = evaluation.calibration
    if not found.count:
        nobody = "no labelled people" if evaluation.labelled else _fitting(0)
        return f"Predicted quality can't be compared: {nobody}."
    whom = counted(found.count, "person") if evaluation.labelled else _fitting(found.count)
    rank = "undefined" if math.isnan(found.rank_correlation) else f"{found.rank_correlation:.3f}"
    return (
        f"Predicted quality against true OKS of the coarse pose, {whom}: rank correlation {rank}, "
        f"mean error {found.mean_error:.3f}, bias {found.bias:+.3f}."
    )


def _fitting(count: int) -> str:
    return f"{counted(count, 'box')} on labelled people (IoU of {FITTING_IOU:g} and more)"


def _score_line(found: Calibration) -> str:
    return (
        f"Scores of {counted(found.count, 'labelled keypoint')} against the share that is right (similarity to the "
        f"label of 0.5, as in OKS): bias {found.bias:+.3f}, reliability error (ECE) {found.reliability_error:.3f}."
    )


def _person_line(evaluation: Evaluation) -> str:
    found = evaluation.person_calibration
    noun = "person" if evaluation.labelled else "box"  # one on nothing counts as wrong
    return (
        f"Scores of {counted(found.count, noun)} against the share that is right (OKS of 0.5): bias "
        f"{found.bias:+.3f}, reliability error (ECE) {found.reliability_error:.3f}."
    )


def _gain_line(gain: GainCurve) -> str:
    steps = ", ".join(f"{by:+.3f} at {quality:.2f}" for quality, by in zip(gain.quality, gain.gain, strict=True))
    return f"Gain in OKS of refining, by predicted quality: {steps}."


def _points(value: float) -> str:
    """A share as points of 100; a dash for NaN and for pycocotools' -1."""
    return "–" if math.isnan(value) or value < 0 else f"{100 * value:.1f}"


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plot_curve(points: Sequence[GatePoint], gate: GatePoint | None, path: Path) -> None:
    """AP against refine rate, with the gate's place on it; raises `SinkError` where the file can't be written."""
    figure, axes = _figure("share of people refined", "AP (OKS 0.50 to 0.95)")
    axes.plot([point.refine_rate for point in points], [100 * point.ap for point in points], marker=".")
    if gate is not None:
        label = f"threshold {gate.threshold:.4g}"
        axes.plot([gate.refine_rate], [100 * gate.ap], marker="o", linestyle="", label=label)
        axes.legend()
    axes.set_xlim(-0.02, 1.02)
    _save(figure, path)


def plot_quality(
    quality: npt.NDArray[np.float32],
    oks: npt.NDArray[np.float64],
    calibration: Calibration,
    threshold: float | None,
    path: Path,
) -> None:
    """Every person's predicted quality against true OKS, with bins' means, diagonal and threshold; errors as above."""
    figure, axes = _figure("predicted quality", "true OKS of the coarse pose")
    axes.scatter(quality, oks, s=6, alpha=0.35, linewidths=0, label="a person")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    means = ([item.predicted for item in calibration.bins], [item.true for item in calibration.bins])
    axes.plot(*means, color="black", marker="o", markersize=4, label="mean of a bin")
    if threshold is not None:
        axes.axvline(threshold, linestyle="--", linewidth=1, label=f"threshold {threshold:.4g}")
    axes.set_ylim(-0.02, 1.02)
    axes.legend()
    _save(figure, path)


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise SinkError(f"{path}: can't be written ({error.strerror})") from error

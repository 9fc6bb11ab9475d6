"""One run of `sharpose-eval`, from what was asked for to the files it leaves."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress

from sharpose.bundle import GainCurve, open_bundle
from sharpose.config import ModelConfig, load_config
from sharpose.errors import InputError, SinkError
from sharpose.training.evaluation.data import DataFiles, EvaluationData, find_data, load_data
from sharpose.training.evaluation.gate import (
    CURVE_POINTS,
    GatePoint,
    ThresholdChoice,
    candidate_thresholds,
    choose_threshold,
    measure_curve,
    parse_promise,
    write_gate,
)
from sharpose.training.evaluation.metrics import Evaluation, evaluate
from sharpose.training.evaluation.predict import Predictions, predict
from sharpose.training.evaluation.report import (
    Subject,
    as_markdown,
    as_numbers,
    check_matplotlib,
    choice_lines,
    plot_curve,
    plot_quality,
    print_evaluation,
    print_points,
)
from sharpose.training.evaluation.stages import PoseStages, open_stages

__all__ = ["EvaluationRequest", "run_evaluation"]


@dataclass(frozen=True)
class EvaluationRequest:
    """The command line of `sharpose-eval`; see its help."""

    bundle: Path | None
    checkpoint: Path | None
    data: str | None
    output: Path
    annotations: Path | None = None
    images: Path | None = None
    config: str | None = None
    boxes: Literal["gt"] | Path = "gt"
    ignore_weak: bool = False
    head_boxes: Path | None = None
    flip_test: bool = False
    quality_threshold: float | None = None
    device: str = "cpu"
    threads: int | None = None
    limit: int | None = None
    promise: str | None = None
    seed: int = 0
    plots: bool = True


@dataclass(frozen=True)
class _Measured:
    """A model, ready to run, and what is known of it."""

    stages: PoseStages
    config: ModelConfig
    threshold: float
    name: str


def run_evaluation(request: EvaluationRequest, console: Console | None = None) -> bool:
    """Measure, print, write, and choose a threshold where one was asked for.

    Returns:
        False where a threshold was chosen but broke its promise on held-out pictures (it isn't written then).

    Raises:
        SharposeError: anything that was asked for can't be read, run or written.
    """
    console = console or Console()
    promise = None if request.promise is None else parse_promise(request.promise)
    if request.quality_threshold is not None and math.isnan(request.quality_threshold):
        raise InputError("--quality-threshold: expected a number, got NaN")
    if request.plots:
        check_matplotlib()
    _make_folder(request.output)
    measured = _open_model(request, console)
    try:
        data = _open_data(request, measured.config)
        if promise is not None and data.document is None:
            raise InputError("--choose-threshold needs COCO-format labels, to measure AP with")
        with _progress("looking at people", len(data.people)) as advance:
            predictions = predict(
                measured.stages, data, measured.config.crop_size, flip_test=request.flip_test, on_people=advance
            )
    finally:
        measured.stages.close()

    points: list[GatePoint] = []
    choice: ThresholdChoice | None = None
    no_choice: InputError | None = None
    if data.document is not None:
        thresholds = candidate_thresholds(predictions.quality, 2 * CURVE_POINTS - 1 if promise else CURVE_POINTS)
        with _progress("trying thresholds", len(thresholds)) as advance:
            curve = measure_curve(data, predictions, thresholds, on_point=lambda: advance(1))
        points = curve.points(data.image_ids)
        if promise is not None:
            try:
                choice = choose_threshold(curve, data.image_ids, promise, request.seed)
            except InputError as error:
                no_choice = error  # what was measured is still worth writing
    evaluation = evaluate(data, predictions, measured.threshold if choice is None else choice.threshold)

    subject = _subject(request, measured, data)
    for line in subject.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    print_evaluation(evaluation, console)
    if choice is not None:
        print_points(points, choice.threshold, console)
        console.print(choice_lines(choice), highlight=False, soft_wrap=True)
    _write(request, subject, evaluation, predictions, points, choice)
    if choice is not None:
        _write_choice(request, choice, evaluation.gain, subject, console)
    console.print(f"wrote {request.output / 'report.md'}", highlight=False, markup=False, soft_wrap=True)
    if no_choice is not None:
        raise no_choice
    return choice is None or choice.kept


def _open_model(request: EvaluationRequest, console: Console) -> _Measured:
    if request.bundle is not None:
        bundle = open_bundle(request.bundle)
        own = bundle.manifest.gate.quality_threshold
        stages = open_stages(bundle, request.device, heatmaps=request.flip_test, threads=request.threads)
        name = f"bundle {request.bundle.name or request.bundle} ({bundle.model.name}, {bundle.manifest.source})"
        return _Measured(stages, bundle.model, _first(request.quality_threshold, own), name)
    assert request.checkpoint is not None
    try:
        import torch
    except ImportError:
        raise InputError('--checkpoint needs PyTorch: pip install "sharpose[train]", or give --bundle') from None
    from sharpose.model import load_model
    from sharpose.training.evaluation.torch_stages import TorchStages

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    loaded = load_model(request.checkpoint, load_config(request.config) if request.config else None)
    for note in loaded.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    threshold = _first(request.quality_threshold, loaded.config.quality_threshold)
    stages = TorchStages(loaded.model, request.device)
    return _Measured(stages, loaded.config, threshold, f"{loaded.source} ({loaded.config.name}, PyTorch)")


def _open_data(request: EvaluationRequest, config: ModelConfig) -> EvaluationData:
    where: DataFiles | str
    if request.annotations is not None and request.images is not None:
        where = DataFiles(request.annotations, request.images)
    else:
        assert request.data is not None
        is_scene = request.data == "scene" or request.data.startswith("scene:")
        where = request.data if is_scene else find_data(Path(request.data))
    return load_data(
        where,
        config.skeleton,
        boxes=request.boxes,
        limit=request.limit,
        ignore_weak=request.ignore_weak,
        head_boxes=request.head_boxes,
    )


def _subject(request: EvaluationRequest, measured: _Measured, data: EvaluationData) -> Subject:
    weak = ", labels of visibility 1 left out" if request.ignore_weak else ""
    limited = f", the first {request.limit} pictures" if request.limit is not None else ""
    return Subject(
        model=measured.name,
        device=request.device,
        data=f"{data.name}{limited}{weak}",
        boxes="labelled" if request.boxes == "gt" else f"detections from {request.boxes.name}",
        flip_test=request.flip_test,
        pictures=len(data.image_ids),
        people=len(data.people),
        head_unit=data.head_unit,
    )


def _write(
    request: EvaluationRequest,
    subject: Subject,
    evaluation: Evaluation,
    predictions: Predictions,
    points: list[GatePoint],
    choice: ThresholdChoice | None,
) -> None:
    folder = request.output
    for mode in evaluation.modes:
        _write_text(folder / f"results_{mode.mode}.json", json.dumps(mode.results, allow_nan=False))
    numbers = as_numbers(subject, evaluation, points, choice)
    _write_text(folder / "metrics.json", json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    _write_text(folder / "report.md", as_markdown(subject, evaluation, points, choice, request.plots))
    if not request.plots:
        return
    threshold = evaluation.threshold if math.isfinite(evaluation.threshold) else None
    quality = predictions.quality[:, 0]
    plot_quality(quality, evaluation.oks, evaluation.calibration, threshold, folder / "quality.png")
    if points:
        auto = next(mode for mode in evaluation.modes if mode.mode == "auto")
        assert auto.coco is not None
        gate = GatePoint(evaluation.threshold, auto.refine_rate, auto.coco.ap)
        plot_curve(points, gate, folder / "ap_refine_rate.png")


def _write_choice(
    request: EvaluationRequest, choice: ThresholdChoice, gain: GainCurve | None, subject: Subject, console: Console
) -> None:
    if not choice.kept:
        console.print(
            "the threshold was not written: held-out pictures say that it breaks the promise; give more of them",
            soft_wrap=True,
        )
    elif request.bundle is None:
        console.print("a checkpoint holds no gate: export it with --quality-threshold, or choose on the bundle")
    else:
        chosen_by = choice.describe(f"{subject.data} ({subject.boxes} boxes)")
        write_gate(request.bundle, choice.threshold, chosen_by, gain)
        console.print(f"wrote the gate into {request.bundle}", highlight=False, markup=False, soft_wrap=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {folder}: expected a folder that can be made ({error.strerror})") from None


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise SinkError(f"{path}: can't be written ({error.strerror})") from error


def _first(given: float | None, otherwise: float) -> float:
    return otherwise if given is None else given


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)

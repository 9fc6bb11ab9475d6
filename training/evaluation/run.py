"""One run of `sharpose-eval`, from its options to its files."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from rich.console import Console
from rich.progress import Progress

from sharpose.bundle import Bundle, GainCurve, open_bundle, shipped_bundle
from sharpose.cli import EXIT_FAILED, EXIT_REFUSED, warn
from sharpose.config import load_config
from sharpose.engines.choose import AUTO, load_on
from sharpose.engines.precision import RunPrecision
from sharpose.engines.stages import EngineStages, Stages, open_stages
from sharpose.errors import InputError, SinkError, counted, require_packages
from sharpose.runtime.messages import watching_signals
from sharpose.runtime.sinks.outputs import Output, check_outputs
from sharpose.scores.tables import ScoreTables
from sharpose.training.evaluation import report
from sharpose.training.evaluation.data import DataFiles, EvaluationData, files_of, has_coco_labels, load_data
from sharpose.training.evaluation.gate import (
    CURVE_POINTS,
    GatePoint,
    IdealPoint,
    Promise,
    ThresholdChoice,
    candidate_thresholds,
    choose_threshold,
    measure_curve,
    measure_ideal_gates,
    parse_promise,
    write_gate,
)
from sharpose.training.evaluation.metrics import MODES, Evaluation, evaluate
from sharpose.training.evaluation.predict import Predictions, predict
from sharpose.training.evaluation.scores import fit_scores, save_in_bundle, save_in_checkpoint, split_people

if TYPE_CHECKING:
    from sharpose.training.eval_cli import EvalOptions


_QUALITY_PLOT, _CURVE_PLOT = "quality.png", "ap_refine_rate.png"


class _Measured(NamedTuple):
    """A model, ready to run, its own threshold and score tables, and its name, device and precision for reports."""

    stages: Stages
    threshold: float
    name: str
    device: str
    precision: RunPrecision
    scores: ScoreTables | None
    bundle: Bundle | None  # None for a checkpoint


def run_evaluation(options: EvalOptions, console: Console | None = None) -> int:
    """Measure, print, write, and choose a threshold where --choose-threshold asks for one.

    Returns:
        The exit code: 1 where held-out pictures don't keep the promise, beyond chance, or a fit of quality or of scores
        does no good there (it isn't written then), 3 where the numbers are partial because pictures that the labels
        name can't be used, else 0.

    Raises:
        SharposeError: a file can't be read or written, or the model can't be run.
    """
    console = console or Console()
    promise = None if options.promise is None else parse_promise(options.promise)
    if options.annotations is not None and options.images is not None:
        where: DataFiles | str = DataFiles(options.annotations, options.images)
    else:
        where = options.data or ""
    _require_packages(options, where)
    _check_outputs(options, where)
    with _folder_for(options.output):
        return _evaluate(options, where, promise, console)


@contextlib.contextmanager
def _folder_for(output: Path) -> Iterator[None]:
    """Make the folder of --output; where nothing comes to lie in it, it is removed again."""
    try:
        made = [folder for folder in (output, *output.parents) if not folder.exists()]
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output}: expected a folder that can be made ({error.strerror})") from None
    if not os.access(output, os.W_OK | os.X_OK):
        raise InputError(f"--output {output}: expected a folder that can be written ({os.strerror(errno.EACCES)})")
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty: results were written before the failure
            for folder in made:
                folder.rmdir()
        raise


def _evaluate(options: EvalOptions, where: DataFiles | str, promise: Promise | None, console: Console) -> int:
    """See `run_evaluation`."""
    measured = _open_model(options, console)
    threshold = measured.threshold if options.quality_threshold is None else options.quality_threshold
    try:
        data = load_data(
            where,
            measured.stages.config.skeleton,
            boxes=options.detections,
            limit=options.limit,
            ignore_weak=options.ignore_weak,
            head_boxes=options.head_boxes,
        )
        if promise is not None and data.document is None:
            raise InputError("--choose-threshold needs COCO-format labels, to measure AP with")
        if options.calibrate_scores is not None:
            split_people(data, options.seed or 0)  # too few people are refused before the work
        with _progress("estimating poses", len(data.people)) as advance, _ended_by_signals(measured.stages):
            predictions = predict(
                measured.stages, data, flip_test=options.flip_test, tables=measured.scores, on_people=advance
            )
        data = data.without(predictions.unreadable)
    finally:
        measured.stages.close()

    points: list[GatePoint] = []
    ideal: list[IdealPoint] = []
    choice: ThresholdChoice | None = None
    no_choice: InputError | None = None
    if data.document is not None:
        thresholds = candidate_thresholds(predictions.quality, 2 * CURVE_POINTS - 1 if promise else CURVE_POINTS)
        with _progress("trying thresholds", len(thresholds)) as advance:
            curve = measure_curve(data, predictions, thresholds, on_point=lambda: advance(1))
        points = curve.points(data.image_ids)
        ideal = measure_ideal_gates(data, predictions)
        if promise is not None:
            try:
                choice = choose_threshold(curve, data.image_ids, promise, options.seed or 0)
            except InputError as error:
                no_choice = error  # raised after the results are written
    evaluation = evaluate(data, predictions, threshold if choice is None else choice.threshold)

    subject = _subject(options, measured, data)
    for line in subject.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    report.print_evaluation(evaluation, console)
    if choice is not None:
        report.print_points(points, choice.threshold, console)
        console.print(report.choice_lines(choice), highlight=False, soft_wrap=True)
    _write(options, subject, evaluation, predictions, points, choice, ideal)
    if choice is not None:
        _write_choice(options, choice, evaluation.gain, subject, console)
    for line in subject.closing_lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"wrote {options.output / 'report.md'}", highlight=False, markup=False, soft_wrap=True)
    calibrated = _calibrate_quality(options, measured, data, predictions, evaluation, console)
    calibrated &= _calibrate_scores(options, measured, data, predictions, evaluation.threshold, subject.data, console)
    if no_choice is not None:
        raise no_choice
    if not calibrated or (choice is not None and choice.verdict == "not kept"):
        return EXIT_REFUSED
    if data.lost:
        click.echo(f"error: {subject.partial}", err=True)
        return EXIT_FAILED
    return 0


def _require_packages(options: EvalOptions, where: DataFiles | str) -> None:
    modules = ["torch", "yaml"] if options.checkpoint is not None else []
    modules += ["pycocotools.coco"] if has_coco_labels(where) else []
    modules += [] if options.no_plots else ["matplotlib.figure"]
    require_packages("sharpose-eval", modules, "eval" if options.checkpoint is None else "train", InputError)


def _check_outputs(options: EvalOptions, where: DataFiles | str) -> None:
    """Refuse results that would overwrite what is read, or, without --overwrite, those of an earlier run."""
    names = [f"results_{mode}.json" for mode in MODES] + ["metrics.json", "report.md"]
    # with --overwrite, plots of an earlier run are replaced or removed
    plots = [] if options.no_plots and not options.overwrite else [_QUALITY_PLOT, _CURVE_PLOT]
    files = files_of(where)
    read = [] if files is None else [files.annotations, *(files.images / name for name in plots)]
    read += [Path(options.config)] if options.config is not None else []
    read += [file for file in (options.detections, options.head_boxes, options.checkpoint) if file is not None]
    outputs = [Output("--output", str(options.output / name)) for name in names + plots]
    if options.calibrate_quality is not None:
        outputs.append(Output("--calibrate-quality", str(options.calibrate_quality)))
    scores = options.calibrate_scores
    if scores is not None and not _is_the_bundle(options, scores):
        if options.checkpoint is None and scores.exists():
            raise InputError(f"--calibrate-scores {scores}: exists; name a new folder, or that of --bundle itself")
        outputs.append(Output("--calibrate-scores", str(scores)))
    check_outputs(
        outputs,
        [(path, f"the input {path}") for path in read],
        bundle=options.bundle or shipped_bundle(),
        overwrite=options.overwrite,
    )


def _is_the_bundle(options: EvalOptions, path: Path) -> bool:
    return options.bundle is not None and path.exists() and path.samefile(options.bundle)


def _open_model(options: EvalOptions, console: Console) -> _Measured:
    at_alpha = "" if options.alpha is None else f", alpha {options.alpha:g}"
    if options.checkpoint is None:
        folder = options.bundle or shipped_bundle()
        bundle = open_bundle(folder).at_alpha(options.alpha)
        stages = load_on(
            options.device,
            lambda device: open_stages(bundle, device, options.precision, threads=options.threads),
            lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
        )
        name = f"bundle {folder.name or folder} ({bundle.model.name}, {bundle.manifest.source}{at_alpha})"
        threshold, device = bundle.manifest.gate.quality_threshold, stages.coarse_runner.device
        return _Measured(stages, threshold, name, device, stages.precision, bundle.manifest.scores, bundle)
    import torch

    from sharpose.model import load_model
    from sharpose.model.graphs import TorchStages

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    changes = {} if options.alpha is None else {"alpha": options.alpha}
    loaded = load_model(options.checkpoint, load_config(options.config) if options.config else None, changes=changes)
    for note in loaded.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    warn(*loaded.warnings)
    on_gpu = options.device == AUTO and torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu" if options.device == AUTO else options.device
    on_torch, config = TorchStages(loaded.model, device), loaded.config
    name = f"{loaded.source} ({config.name}, PyTorch{at_alpha})"
    return _Measured(on_torch, config.quality_threshold, name, device, "fp32", loaded.scores, None)


def _ended_by_signals(stages: Stages) -> contextlib.AbstractContextManager[None]:
    """Ctrl-C doesn't wait for a batch, which may take a large model several seconds; PyTorch's can't be ended."""
    if not isinstance(stages, EngineStages):
        return contextlib.nullcontext()
    return watching_signals(lambda over: stages.terminate())


def _subject(options: EvalOptions, measured: _Measured, data: EvaluationData) -> report.Subject:
    weak = ", labels of visibility 1 left out" if options.ignore_weak else ""
    limited = f", the first {options.limit} pictures" if options.limit is not None else ""
    skeleton = data.skeleton
    sigmas = skeleton.sigmas_from or "as the model gives them"
    return report.Subject(
        model=measured.name,
        device=measured.device,
        precision=measured.precision,
        data=f"{data.name}{limited}{weak}",
        boxes="labelled" if options.detections is None else f"detections from {options.detections.name}",
        flip_test=options.flip_test,
        scores=_what_scores_are(options, measured.scores),
        pictures=len(data.image_ids),
        people=len(data.people),
        head_unit=data.head_unit,
        left_out=dict(data.left_out),
        lost=data.lost,
        notes=data.notes,
        skeleton=f"{skeleton.name}, {counted(skeleton.num_keypoints, 'keypoint')}; OKS sigmas: {sigmas}",
    )


def _what_scores_are(options: EvalOptions, tables: ScoreTables | None) -> str:
    if tables is None:
        return "raw, the heatmaps' peaks"
    return "raw: score tables don't hold for averaged heatmaps" if options.flip_test else f"by {tables.fitted_on}"


def _write(
    options: EvalOptions,
    subject: report.Subject,
    evaluation: Evaluation,
    predictions: Predictions,
    points: list[GatePoint],
    choice: ThresholdChoice | None,
    ideal: list[IdealPoint],
) -> None:
    folder = options.output
    for mode in evaluation.modes:
        _write_text(folder / f"results_{mode.mode}.json", json.dumps(mode.results, allow_nan=False))
    numbers = report.as_numbers(subject, evaluation, points, choice, ideal)
    _write_text(folder / "metrics.json", json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    page = report.as_markdown(subject, evaluation, points, choice, ideal, plots=not options.no_plots)
    _write_text(folder / "report.md", page)
    drawn = [] if options.no_plots else [_QUALITY_PLOT, *([_CURVE_PLOT] if points else [])]
    if options.overwrite:
        for name in {_QUALITY_PLOT, _CURVE_PLOT} - set(drawn):
            _remove(folder / name)
    if options.no_plots:
        return
    threshold = evaluation.threshold if math.isfinite(evaluation.threshold) else None
    quality = predictions.quality[:, 0]
    report.plot_quality(quality, evaluation.oks, evaluation.calibration, threshold, folder / _QUALITY_PLOT)
    if points:
        auto = next(mode for mode in evaluation.modes if mode.mode == "auto")
        assert auto.coco is not None
        gate = GatePoint(evaluation.threshold, auto.refine_rate, auto.coco.ap)
        report.plot_curve(points, gate, folder / _CURVE_PLOT)


def _write_choice(
    options: EvalOptions, choice: ThresholdChoice, gain: GainCurve | None, subject: report.Subject, console: Console
) -> None:
    if choice.verdict == "not kept":
        console.print(
            "the threshold was not written: the promise is not kept on held-out pictures; give more of them",
            soft_wrap=True,
        )
    elif options.bundle is None:
        console.print("a checkpoint holds no gate: export it with --quality-threshold, or choose on the bundle")
    else:
        chosen_by = choice.describe(f"{subject.data} ({subject.boxes} boxes, {subject.precision} on {subject.device})")
        write_gate(options.bundle, choice.threshold, chosen_by, gain)
        console.print(f"wrote the gate into {options.bundle}", highlight=False, markup=False, soft_wrap=True)


def _calibrate_quality(
    options: EvalOptions,
    measured: _Measured,
    data: EvaluationData,
    predictions: Predictions,
    evaluation: Evaluation,
    console: Console,
) -> bool:
    """Fit and write a checkpoint if that is asked for; False where the fit does no good on held-out pictures."""
    if options.calibrate_quality is None:
        return True
    from sharpose.model.graphs import TorchStages
    from sharpose.training.evaluation.quality import fit_quality, save_fitted

    assert isinstance(measured.stages, TorchStages)
    model = measured.stages.model
    fit = fit_quality(model, data, predictions.quality[:, 0], evaluation.oks, options.seed or 0)
    console.print(str(fit), highlight=False, markup=False, soft_wrap=True)
    if not fit.better:
        console.print("no checkpoint was written: held-out pictures don't gain by the fit", soft_wrap=True)
        return False
    save_fitted(options.calibrate_quality, model, fit, measured.scores)
    console.print(f"wrote {options.calibrate_quality}", highlight=False, markup=False, soft_wrap=True)
    return True


def _calibrate_scores(
    options: EvalOptions,
    measured: _Measured,
    data: EvaluationData,
    predictions: Predictions,
    threshold: float,
    what: str,
    console: Console,
) -> bool:
    """Fit and write score tables if that is asked for; False where they do no good on held-out pictures."""
    path = options.calibrate_scores
    if path is None:
        return True
    fit = fit_scores(data, predictions, threshold, options.seed or 0, what)
    for line in fit.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not fit.better:
        console.print("nothing was written: held-out pictures don't gain by the tables", soft_wrap=True)
        return False
    if measured.bundle is not None:
        save_in_bundle(path, measured.bundle, fit.tables)
    else:
        from sharpose.model.graphs import TorchStages

        assert isinstance(measured.stages, TorchStages)
        save_in_checkpoint(path, measured.stages.model, fit.tables)
    console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return True


def _remove(path: Path) -> None:
    """Remove an earlier run's plot, which isn't of this one's numbers."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SinkError(f"{path}: can't be removed ({error.strerror})") from error


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise SinkError(f"{path}: can't be written ({error.strerror})") from error


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)

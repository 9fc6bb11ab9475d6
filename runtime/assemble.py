"""From the options of `sharpose-run` to the parts of a run, and the run itself."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from sharpose.cli import EXIT_FAILED
from sharpose.engines.load import onnxruntime_device
from sharpose.engines.tensorrt.runtime import TensorRtSettings
from sharpose.errors import InputError, SharposeError, SinkError
from sharpose.runtime.boxes import BoxesFile, BoxSource, DetectorBoxes, FileBoxes, FullFrame, SourceBoxes
from sharpose.runtime.deadline import DeadlineScheduler
from sharpose.runtime.detectors.catalogue import MOTION, find_detector, how_to_find_people, is_file_name
from sharpose.runtime.detectors.motion import MotionBoxes
from sharpose.runtime.detectors.onnx import Detector, PeopleFrom, check_detector_options, parse_classes
from sharpose.runtime.drawing.draw import StatusLine, draw_poses
from sharpose.runtime.frames import Image, Sink, Source
from sharpose.runtime.messages import Messages, StopRequest, run_progress, stop_on_signals
from sharpose.runtime.options import RunOptions
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.runtime.result import PoseResult
from sharpose.runtime.run import Outcome, PoseStep, Run, Stream, run
from sharpose.runtime.serve import ServeServer
from sharpose.runtime.sinks.outputs import Output, SinkSettings, fill, make_sink, outputs_of_streams
from sharpose.runtime.sinks.window import WindowSink
from sharpose.runtime.sources.open import is_scene, local_path, open_source, source_names
from sharpose.runtime.statistics import StreamSnapshot, StreamStatistics
from sharpose.runtime.tracking import Smoother, Tracker
from sharpose.runtime.tracking.follow_poses import FollowPoses

__all__ = [
    "PeopleFinder",
    "make_draw",
    "make_estimator",
    "make_outputs",
    "make_server",
    "make_streams",
    "people_files",
    "run_with",
]

_LEAST_SCORE = 0.3  # of a detection, where the user doesn't say


def people_files(options: RunOptions, names: Sequence[str]) -> list[Path]:
    """What is read to find people in streams of these names, so that no output overwrites it."""
    if options.boxes is not None:
        return [Path(fill(options.boxes, name)) for name in names]
    if options.detector is not None and is_file_name(options.detector):
        return [Path(options.detector)]
    return []


class PeopleFinder:
    """Makes a box source a stream; streams share a detector's engine, and nothing else.

    Args:
        options: What the user wants.
        names: The streams' names, which `{source}` in a boxes file's name stands for.
        say: Told in a line what the user should know.
    """

    def __init__(self, options: RunOptions, names: Sequence[str], *, say: Callable[[str], None]) -> None:
        self._options, self._names, self._say = options, names, say
        self._detector: Detector | None = None

    def boxes_of(self, index: int, source: Source) -> BoxSource:
        """The box source of the stream at `index`.

        Raises:
            SharposeError: a boxes file or a detector can't be used, or an option would do nothing.
            click.UsageError: nobody says where the people are.
        """
        options = self._options
        people_from = self._people_from(source)
        check_detector_options(people_from, conf=options.conf, iou=options.iou, classes=options.classes)
        found: BoxSource
        if people_from == "boxes":
            return FileBoxes(self._boxes_file(index, source), options.conf)
        if people_from == "full-frame":
            return FullFrame()
        if people_from == "scene":
            return SourceBoxes()
        found = MotionBoxes(self._say) if people_from == "motion" else DetectorBoxes(self._shared_detector())
        return FollowPoses(found, options.detect_every) if options.detect_every > 1 else found

    def _people_from(self, source: Source) -> PeopleFrom:
        options = self._options
        if options.boxes is not None:
            return "boxes"
        if options.detector is not None:
            return "motion" if options.detector == MOTION else "detector"
        if options.full_frame:
            return "full-frame"
        if is_scene(source.info.name):
            return "scene"
        raise click.UsageError(how_to_find_people(source.info.name))

    def _shared_detector(self) -> Detector:
        options = self._options
        if self._detector is None:
            assert options.detector is not None
            named = not is_file_name(options.detector)
            if options.detector_sha256 is not None and not named:
                raise InputError("--detector-sha256 is for a named detector that is downloaded, not for a file")
            path = (
                find_detector(options.detector, sha256=options.detector_sha256, table=options.detector_table)
                if named
                else Path(options.detector)
            )
            self._detector = Detector.from_onnx(
                path,
                device=onnxruntime_device(options.device),
                conf=_LEAST_SCORE if options.conf is None else options.conf,
                iou=options.iou,
                classes=(0,) if options.classes is None else parse_classes(options.classes),
            )
        return self._detector

    def _boxes_file(self, index: int, source: Source) -> BoxesFile:
        assert self._options.boxes is not None
        path = Path(fill(self._options.boxes, self._names[index]))
        if len(self._names) > 1 and str(path) == self._options.boxes:
            raise click.UsageError(
                f"--boxes {path}: {len(self._names)} sources can't share one file of boxes; put {{source}} into its "
                "name, which stands for the source's"
            )
        file = BoxesFile.load(path)
        if source.info.image_ids is not None:
            file.check_image_ids(source.info.image_ids)
        elif source.info.frame_count is not None:  # a claim, and headers claim too much rather than too little
            file.check_image_ids(frozenset(range(source.info.frame_count)))
        return file


def make_estimator(options: RunOptions, messages: Messages) -> PoseEstimator:
    """The model, on its device; a `SharposeError` where it can't be had."""
    return PoseEstimator.from_bundle(
        options.bundle,
        device=options.device,
        refine=options.refine,
        quality_threshold=options.quality_threshold,
        threads=options.threads,
        tensorrt=TensorRtSettings(
            engine_cache=options.engine_cache,
            cuda_bindings=options.cuda_bindings,
            cuda_graphs=options.cuda_graphs,
            say=messages.info,
        ),
        keep_regions=options.draw_regions,
        scheduler=None if options.deadline is None else DeadlineScheduler(),
    )


def make_draw(
    options: RunOptions, estimator: PoseEstimator, frame_rate: Callable[[], float]
) -> Callable[[Image, PoseResult], Image]:
    """What draws poses on a picture; `frame_rate` says how many frames a second are done."""
    return partial(
        draw_poses,
        skeleton=estimator.skeleton,
        keypoint_threshold=options.kpt_thr,
        regions=options.draw_regions,
        status=StatusLine(frame_rate) if options.draw_status else None,
    )


def make_server(options: RunOptions, messages: Messages) -> ServeServer | None:
    """The server behind `--serve`, listening; an `InputError` where it can't."""
    if options.serve is None:
        return None
    return ServeServer(options.serve, options.serve_token, say=messages.info)


def make_outputs(options: RunOptions, names: Sequence[str]) -> list[list[Output]]:
    """The outputs of each source, under whose `names` they are written; checked before anything is loaded.

    Raises:
        InputError: several sources would share an output.
        click.UsageError: an output would overwrite an input.
    """
    outputs = outputs_of_streams([Output(option, target) for option, target in options.outputs], names)
    _check_outputs(options, people_files(options, names), outputs)
    return outputs


def make_streams(
    options: RunOptions,
    names: Sequence[str],
    outputs: Sequence[Sequence[Output]],
    estimator: PoseEstimator,
    messages: Messages,
    server: ServeServer | None,
    stop: StopRequest,
    open_things: contextlib.ExitStack,
) -> list[Stream]:
    """A stream for each source, all opened.

    Args:
        options: What the user wants.
        names: Of the sources, from `source_names`.
        outputs: Of each source, from `make_outputs`.
        estimator: For its skeleton.
        messages: Told what sources and sinks have to say.
        server: Where streams are shown, or None.
        stop: Ends a paused window.
        open_things: Closes the sources that are open if a later one can't be opened.

    Raises:
        SharposeError: a source can't be opened, or something doesn't fit it.
        click.UsageError: nobody says where the people are.
    """
    finder = PeopleFinder(options, names, say=messages.info)
    streams = []
    for index, spec in enumerate(options.sources):
        source = open_source(spec, options.reading, say=messages.warning)
        open_things.callback(source.close)
        boxes = finder.boxes_of(index, source)
        settings = SinkSettings(
            name=names[index],
            skeleton=estimator.skeleton,
            frame_rate=source.info.frame_rate,
            live=source.info.live,
            tracked=options.track,
            video=options.video,
            picture_kind=options.frames_format,
            say=messages.warning,
        )
        try:
            sinks: list[Sink] = [make_sink(output, settings) for output in outputs[index]]
            if options.show:
                sinks.append(WindowSink(source.info.name, stop=lambda: bool(stop)))
        except SinkError as error:  # nothing has run yet: the user's to mend
            raise InputError(str(error)) from error
        statistics = StreamStatistics(source.info)
        if server is not None:
            sinks.append(server.sink(source.info.name, statistics))
        streams.append(Stream(source, boxes, sinks, statistics, _steps(options, estimator), options.max_people))
    return streams


def _steps(options: RunOptions, estimator: PoseEstimator) -> list[PoseStep]:
    steps: list[PoseStep] = []
    if options.track:
        steps.append(Tracker(sigmas=estimator.skeleton.sigmas))
    if options.smooth:
        steps.append(Smoother())
    return steps


def _check_outputs(options: RunOptions, inputs: Sequence[Path], outputs: Sequence[Sequence[Output]]) -> None:
    """Refuse outputs that would overwrite what is read."""
    taken = {path.resolve(): f"the input {path}" for path in inputs}
    for name in options.sources:
        taken[Path(local_path(name)).resolve()] = "the source"
    for output in (output for of_one in outputs for output in of_one):
        path = output.path
        if path is None:
            continue
        where = path.resolve()
        if where in taken:
            raise click.UsageError(f"output {path} would overwrite {taken[where]}; give another name")
        if options.bundle is not None and where.parent == options.bundle.resolve():
            raise click.UsageError(f"output {path} lies in the bundle's folder; give another one")
        if path.is_dir() and not output.is_folder:
            raise click.UsageError(f"output {path} is a folder; expected a file name")


def run_with(options: RunOptions) -> int:
    """Run, and say how it went.

    Returns:
        The exit code: 0, 3 where an output or one of several streams failed, or that of the signal that ended it.

    Raises:
        SharposeError: it failed; with `--json-logs` that is said here, and its exit code returned.
    """
    messages = Messages(quiet=options.quiet, json_logs=options.json_logs)
    try:
        return _run(options, messages)
    except (SharposeError, click.ClickException) as error:
        if not options.json_logs:
            raise
        if options.debug:
            traceback.print_exc()
        messages.error(error.format_message() if isinstance(error, click.ClickException) else str(error))
        return error.exit_code


def _run(options: RunOptions, messages: Messages) -> int:
    names = source_names(options.sources)
    outputs = make_outputs(options, names)
    with contextlib.ExitStack() as open_things:
        estimator = make_estimator(options, messages)
        open_things.callback(estimator.close)
        stop = open_things.enter_context(stop_on_signals())
        server = make_server(options, messages)
        if server is not None:
            open_things.callback(server.close)
        streams = make_streams(options, names, outputs, estimator, messages, server, stop, open_things)
        if not any(stream.sinks for stream in streams):
            messages.info("note: nothing will be written; add --output, --json, --coco, --csv, --serve …")
        warm_up = estimator.warm_up()
        deadline = None if options.deadline is None else options.deadline / 1000
        job = Run(
            streams, estimator, make_draw(options, estimator, lambda: _frame_rate(streams)), deadline, messages.warning
        )
        outcome = _go(job, stop, messages, warm_up)
        if any(stream.statistics.frames for stream in streams):
            for name in outcome.complete:
                messages.wrote(name)
        return stop.exit_code or (EXIT_FAILED if outcome.failures else 0)


def _go(job: Run, stop: StopRequest, messages: Messages, warm_up: float) -> Outcome:
    """Run, and close with the sources' warnings and the numbers of the streams and of all of them."""
    sources = [stream.source for stream in job.streams]
    try:
        with run_progress(sources, messages.console, shown=messages.shows_progress) as on_frame:
            return run(job, stop=stop, on_frame=on_frame)
    finally:
        for source in sources:
            for warning in source.info.warnings:
                messages.warning(warning)
        numbers = [stream.statistics.snapshot() for stream in job.streams]
        deadline = job.deadline is not None
        if len(sources) > 1:
            for source, of_stream in zip(sources, numbers, strict=True):
                messages.summary(of_stream, stream=source.info.name, warm_up=warm_up, deadline=deadline)
        total = StreamSnapshot.total(numbers)
        if total.frames:
            messages.summary(total, warm_up=warm_up, deadline=deadline)


def _frame_rate(streams: Sequence[Stream]) -> float:
    """Frames of all streams per second, over the newest ones of each."""
    return sum(stream.statistics.frame_rate for stream in streams)

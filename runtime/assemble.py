"""From the options of `sharpose-run` to the parts of a run, and the run itself."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click

from sharpose.cli import EXIT_FAILED, FOREVER
from sharpose.engines.load import OnnxRuntimeSettings
from sharpose.engines.tensorrt.load import TensorRtSettings
from sharpose.errors import (
    EngineError,
    InputError,
    ReaderGoneError,
    ServerError,
    SharposeError,
    SinkError,
    SourceError,
    counted,
)
from sharpose.files import STDOUT
from sharpose.runtime.boxes.choose import BoxSources
from sharpose.runtime.boxes.sources import FileBoxes
from sharpose.runtime.drawing.draw import draw_poses
from sharpose.runtime.drawing.labels import StatusLine, legend_of
from sharpose.runtime.estimator import Estimator
from sharpose.runtime.frames import Sink, Source
from sharpose.runtime.messages import Messages, StopRequest, stop_on_signals
from sharpose.runtime.options import RunOptions
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.runtime.refinement import DeadlineScheduler
from sharpose.runtime.remote.estimator import RemotePoseEstimator
from sharpose.runtime.result import FrameOrigin, Image, PoseResult
from sharpose.runtime.run import Loop, Outcome, Playlist, PoseStep, Run, Stream, run
from sharpose.runtime.serve import ServeServer
from sharpose.runtime.sinks.outputs import (
    OUTPUT_OPTIONS,
    Output,
    SinkSettings,
    check_files,
    make_sink,
    outputs_of_streams,
)
from sharpose.runtime.sinks.window import WindowSink
from sharpose.runtime.sources.open import is_video_file, open_source, source_names, sources_in
from sharpose.runtime.sources.urls import redact_url, redact_urls
from sharpose.runtime.statistics import StreamSnapshot, StreamStatistics
from sharpose.runtime.tracking import Smoother, Tracker

_FILES_AT_ONCE = 8  # of the video files on a command line: each takes a decoder, an encoder and their memory


@dataclass(frozen=True)
class Engines:
    """What runs of the same options share that follow one another; from `engines_of`."""

    estimator: Estimator
    boxes: BoxSources


@contextlib.contextmanager
def engines_of(options: RunOptions, messages: Messages) -> Iterator[Engines]:
    """The estimator, warmed up, and the detector of runs that differ in sources and outputs alone.

    Raises:
        SharposeError: one can't be loaded, or an option would do nothing.
    """
    with _make_estimator(options, messages) as estimator, _box_sources(options, (), messages, estimator) as boxes:
        boxes.prepare()
        estimator.warm_up()
        yield Engines(estimator, boxes)


def run_with(options: RunOptions, messages: Messages | None = None, engines: Engines | None = None) -> int:
    """Run, and say how it went.

    Args:
        options: Of this run.
        messages: Where that is said; the terminal, or as the options say, if None.
        engines: Of runs before; they stay loaded, and signals are the caller's to answer. Loaded for this run if None.

    Returns:
        The exit code: 0, 3 where an output or one of several streams failed, or that of the signal that ended it.

    Raises:
        SharposeError: it failed; with `--json-logs` that is said here, and its exit code returned.
        click.UsageError: an output would overwrite what is read.
    """
    to_stdout = any(target == STDOUT for _, target in options.outputs)
    if messages is None:
        messages = Messages(quiet=options.quiet, json_logs=options.json_logs, results_on_stderr=to_stdout)
    try:
        return _run(options, messages, engines)
    except (SharposeError, click.ClickException) as error:
        return say_failure(error, options, messages)


def say_failure(error: SharposeError | click.ClickException, options: RunOptions, messages: Messages) -> int:
    """Say with `--json-logs` what a command ends on, and return its exit code; else raise it, without secrets."""
    if isinstance(error, click.ClickException):  # an address may have been given where none is expected
        vars(error)["message"] = redact_urls(error.message)
    else:
        error.args = (redact_urls(str(error)),)
    if not options.json_logs:
        raise error
    if options.debug:
        traceback.print_exc()
    messages.error(error.format_message() if isinstance(error, click.ClickException) else str(error))
    return error.exit_code


def _run(options: RunOptions, messages: Messages, engines: Engines | None) -> int:
    found = [sources_in(spec, messages.warning) for spec in options.sources]
    specs = [spec for in_one in found for spec in in_one]
    names = source_names(specs)
    outputs = outputs_of_streams([Output(option, target) for option, target in options.outputs], names)
    of_source = {  # of outputs whose name has another number than the source's, to tell them apart
        str(output.path): f", of {redact_url(spec)}"
        for spec, name, of_stream in zip(specs, names, outputs, strict=True)
        if source_names([spec]) != [name]
        for output in of_stream
    }
    video_folders = {Path(spec).parent for spec in specs if spec not in options.sources}
    check_files(options, names, [output for of_stream in outputs for output in of_stream], video_folders)
    with contextlib.ExitStack() as to_close:
        estimator = engines.estimator if engines else to_close.enter_context(_make_estimator(options, messages))
        stop = StopRequest() if engines else to_close.enter_context(stop_on_signals())
        stop.when_overdue(estimator.terminate)
        server = None
        if options.serve is not None:
            server = ServeServer(
                options.serve,
                options.serve_token,
                say=messages.info,
                warn=messages.warning,
                streams=len(specs),
                poses_by=estimator.statistics,
            )
            to_close.callback(server.close)
        if engines:
            boxes = engines.boxes.of(options, names)
        else:
            boxes = to_close.enter_context(_box_sources(options, names, messages, estimator))
        streams: list[Stream] = []  # those of playlists come as they are opened

        def open_next(index: int, *, beside_videos: bool) -> Stream:
            stream = _open_stream(
                index, specs[index], options, boxes, estimator, messages, to_close, beside_videos=beside_videos
            )
            source, statistics = stream.source, stream.statistics
            if source.info.id_note and options.boxes is None and any(one.option == "--coco" for one in outputs[index]):
                messages.warning(source.info.id_note)
            sinks = _make_sinks(options, names[index], outputs[index], source, estimator, stop, messages)
            if server is not None:
                sinks.append(server.sink(source.info.name, statistics))
            stream.sinks = sinks
            streams.append(stream)
            return stream

        files: list[Callable[[], Stream]] = []
        playlists, first = [], 0
        crowded = sum(map(is_video_file, options.sources)) > _FILES_AT_ONCE
        for spec, in_one in zip(options.sources, found, strict=True):
            several = len(in_one) > 1
            opening = [partial(open_next, first + place, beside_videos=several) for place in range(len(in_one))]
            first += len(in_one)
            if several:
                playlists.append(Playlist(opening))
            elif crowded and is_video_file(spec):
                files.append(opening[0])
            else:
                opening[0]()
        playlists.append(Playlist(files, _FILES_AT_ONCE))
        if not (options.outputs or options.show or options.serve):
            messages.info(f"note: nothing will be written; add {', '.join(OUTPUT_OPTIONS)}, --show or --serve")
        if options.kpt_thr != RunOptions.kpt_thr and estimator.score_tables is None:
            messages.info("note: the bundle has no score tables, so --kpt-thr is compared with the heatmaps' peaks")
        try:
            warm_up = 0.0 if engines else estimator.warm_up()
        except (EngineError, ServerError):
            if not stop.is_overdue:
                raise
            warm_up = 0.0
        draw = partial(
            draw_poses,
            skeleton=estimator.skeleton,
            keypoint_threshold=options.kpt_thr,
            regions=options.draw_regions,
            status=StatusLine(lambda: sum(one.statistics.frame_rate for one in streams))
            if options.draw_status
            else None,
            legend=legend_of(
                tracked=options.track,
                refining=options.refine != "never",
                deadline=options.deadline is not None,
                skeleton=estimator.skeleton,
            )
            if options.draw_status
            else (),
            copy=False,
        )
        deadline = None if options.deadline is None else options.deadline / 1000
        job = Run(list(streams), estimator, draw, deadline, messages.warning, playlists, options.reading.reconnect)
        outcome = _go(job, streams, stop, messages, warm_up, timings=options.timings)
        for watch in boxes.watches:
            watch.finish()
        frames = sum(stream.statistics.frames for stream in streams)
        for name in [*outcome.complete, *([] if stop.exit_code else outcome.cut)] if frames else ():
            messages.result(f"wrote {name}{of_source.get(name, '')}")
        if stop.exit_code:
            hold = f"; {', '.join(outcome.cut)} {'holds' if len(outcome.cut) == 1 else 'hold'} those"
            rest = f"; {counted(outcome.unopened, 'source')} not begun" if outcome.unopened else ""
            line = f"interrupted after {counted(frames, 'frame')}{hold if frames and outcome.cut else ''}{rest}"
            messages.warning(line)
        damaged = [stream.source.info.name for stream in streams if stream.source.info.failures]
        if damaged and not stop.exit_code:
            messages.error(f"{', '.join(damaged)}: damaged; the results are those of what could be read")
        return stop.exit_code or (EXIT_FAILED if outcome.failures else 0)


def stream_with(options: RunOptions, estimator: Estimator) -> Generator[tuple[Image, PoseResult], None, None]:
    """The frames of the one source, uint8 [H, W, 3], BGR, with their poses; the estimator's detector finds the people
    where the options name none. Warnings are said on standard error.

    Raises:
        SharposeError: it failed; of several videos, after the frames of the others.
        click.UsageError: an option would do nothing.
    """
    messages = Messages(quiet=True)
    (spec,) = options.sources
    found = sources_in(spec, messages.warning)
    streams: list[Stream] = []
    failed: list[str] = []

    def note(line: str) -> None:
        failed.append(line)
        messages.warning(line)

    with contextlib.ExitStack() as to_close:
        boxes = to_close.enter_context(
            BoxSources(options, source_names(found), messages, estimator.device, estimator=estimator)
        )

        def open_next(index: int) -> Stream:
            several = len(found) > 1
            stream = _open_stream(
                index, found[index], options, boxes, estimator, messages, to_close, beside_videos=several
            )
            streams.append(stream)
            return stream

        one_by_one = Playlist([partial(open_next, index) for index in range(len(found))])
        draw = partial(draw_poses, skeleton=estimator.skeleton)
        job = Run([], estimator, draw, say=note, playlists=[one_by_one], reconnect=options.reading.reconnect)
        loop = Loop(job, StopRequest())
        try:
            with contextlib.closing(loop.records()) as records:  # sources know their damage once they are closed
                for index, record in records:
                    frame = record.frame
                    origin = FrameOrigin(streams[index].source.info.name, frame.index, frame.time, frame.file_name)
                    yield frame.image, replace(record.poses, origin=origin)
            for watch in boxes.watches:
                watch.finish()
            for stream in streams:
                if isinstance(stream.boxes, FileBoxes) and stream.boxes.is_useless:
                    messages.warning(stream.boxes.summary)
        finally:
            for stream in streams:
                for warning in [*stream.source.info.failures, *stream.source.info.warnings]:
                    messages.warning(warning)
        if failed:
            raise SourceError(f"{spec}: {len(failed)} of {len(found)} sources failed; the others are complete")


def _open_stream(
    index: int,
    spec: str,
    options: RunOptions,
    boxes: BoxSources,
    estimator: Estimator,
    messages: Messages,
    to_close: contextlib.ExitStack,
    *,
    beside_videos: bool = False,
) -> Stream:
    """The stream of a source, the one with that `index`, as yet without sinks."""
    source = open_source(spec, options.reading, say=messages.warning, beside_videos=beside_videos)
    try:
        people, steps = boxes.make(index, source), _make_steps(options, estimator)
    except BaseException:
        source.close()
        raise
    stream = Stream(source, people, [], StreamStatistics(source.info), steps, options.max_people)
    to_close.callback(_close_unread, stream)
    return stream


def _close_unread(stream: Stream) -> None:
    """Close the source of a stream that never ran; others are closed by their readers, as a decoder in use must not."""
    if not stream.begun:
        stream.source.close()


def _go(
    job: Run, streams: Sequence[Stream], stop: StopRequest, messages: Messages, warm_up: float, *, timings: bool
) -> Outcome:
    """Run, and close with the sources' warnings and the numbers of each stream and of all.

    `streams` grows by those of playlists as they are opened.
    """
    try:
        with messages.progress(lambda index: streams[index].source) as on_frame:
            return run(job, stop=stop, on_frame=on_frame)
    except ReaderGoneError:
        messages.quiet = True
        raise
    finally:
        for stream in streams:
            for warning in [*stream.source.info.failures, *stream.source.info.warnings]:
                messages.warning(warning)
        numbers = [stream.statistics.snapshot() for stream in streams]
        deadline = job.deadline is not None
        if len(streams) > 1:
            for stream, of_stream in zip(streams, numbers, strict=True):
                messages.summary(of_stream, stream=stream.source.info.name, deadline=deadline)
        total = StreamSnapshot.total(numbers)
        if total.frames:
            messages.summary(total, warm_up=warm_up, deadline=deadline, timings=timings)
            if job.estimator.statistics is not None:
                messages.server(job.estimator.statistics.snapshot())
            for stream in streams:
                if isinstance(stream.boxes, FileBoxes):
                    say = messages.warning if stream.boxes.is_useless and not stop else messages.result
                    say(stream.boxes.summary)


def _tensorrt_settings(options: RunOptions, messages: Messages) -> TensorRtSettings:
    return TensorRtSettings(
        engine_cache=options.engine_cache,
        cuda_bindings=options.cuda_bindings,
        cuda_graphs=options.cuda_graphs,
        tf32=options.tf32,
        say=messages.info,
    )


def _onnxruntime_settings(options: RunOptions, messages: Messages) -> OnnxRuntimeSettings:
    return OnnxRuntimeSettings(tf32=options.tf32, engine_cache=options.engine_cache, say=messages.info)


def _make_estimator(options: RunOptions, messages: Messages) -> Estimator:
    remote = options.remote
    if remote.server is not None:
        return RemotePoseEstimator(
            remote.server,
            bundle=options.bundle,
            refine=options.refine,
            quality_threshold=options.quality_threshold,
            keep_regions=options.draw_regions,
            token=remote.server_token,
            ca=remote.server_ca,
            certificate=remote.server_cert,
            timeout=remote.server_timeout,
            tries=None if remote.server_tries == FOREVER else remote.server_tries,
            say=messages.outage,
        )
    return PoseEstimator(
        options.bundle,
        device=options.device,
        precision=options.precision,
        refine=options.refine,
        quality_threshold=options.quality_threshold,
        alpha=options.alpha,
        threads=options.threads,
        batch=options.batch,
        tensorrt=_tensorrt_settings(options, messages),
        onnxruntime=_onnxruntime_settings(options, messages),
        keep_regions=options.draw_regions,
        scheduler=None if options.deadline is None else DeadlineScheduler(),
    )


def _box_sources(options: RunOptions, names: Sequence[str], messages: Messages, estimator: Estimator) -> BoxSources:
    return BoxSources(
        options,
        names,
        messages,
        estimator.device,
        tensorrt=_tensorrt_settings(options, messages),
        onnxruntime=_onnxruntime_settings(options, messages),
    )


def _make_sinks(
    options: RunOptions,
    name: str,
    outputs: Sequence[Output],
    source: Source,
    estimator: Estimator,
    stop: StopRequest,
    messages: Messages,
) -> list[Sink]:
    """The sinks of one stream, but for the server's."""
    settings = SinkSettings(
        name=name,
        skeleton=estimator.skeleton,
        frame_rate=source.info.frame_rate,
        live=source.info.live,
        timed=source.info.timed,
        tracked=options.track,
        keypoint_threshold=options.kpt_thr,
        video=options.video,
        biomechanics=options.biomechanics,
        picture_kind=options.frames_format,
        pictures=source.info.pictures,
        sound=source.info.sound,
        overwrite=options.overwrite,
        say=messages.warning,
        note=messages.info,
    )
    try:
        sinks = [make_sink(output, settings) for output in outputs]
        return [*sinks, WindowSink(source.info.name, stop=lambda: bool(stop))] if options.show else sinks
    except SinkError as error:  # nothing has run yet: the user's to mend
        raise InputError(str(error)) from error


def _make_steps(options: RunOptions, estimator: Estimator) -> list[PoseStep]:
    steps: list[PoseStep] = [Tracker(sigmas=estimator.skeleton.sigmas)] if options.track else []
    return [*steps, Smoother()] if options.smooth else steps

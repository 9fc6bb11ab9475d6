"""From the options of `sharpose-run` to the parts of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

from sharpose.engines.tensorrt_load import TensorRtSettings
from sharpose.errors import InputError, SinkError
from sharpose.runtime.draw import StatusLine, draw_poses
from sharpose.runtime.frames import Image, Sink
from sharpose.runtime.gate import check_refine
from sharpose.runtime.messages import Messages
from sharpose.runtime.people import PeopleFinder, people_files
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.runtime.refinement import DeadlineScheduler
from sharpose.runtime.result import PoseResult
from sharpose.runtime.run_options import RunOptions
from sharpose.runtime.serve import ServeServer
from sharpose.runtime.sinks.names import source_names
from sharpose.runtime.sinks.outputs import Output, make_sink, outputs_of_streams
from sharpose.runtime.sinks.outputs import Stream as SinkStream
from sharpose.runtime.sinks.video_settings import VideoSettings
from sharpose.runtime.sinks.window import WindowSink
from sharpose.runtime.sources import open_source
from sharpose.runtime.sources.options import FOREVER, SourceOptions
from sharpose.runtime.stopping import StopRequest
from sharpose.runtime.stream import PoseStep, Stream
from sharpose.runtime.tracking import Smoother, Tracker

__all__ = ["make_draw", "make_estimator", "make_outputs", "make_server", "make_streams"]

_FOLDERS = ("--openpose", "--frames")


def make_estimator(options: RunOptions, messages: Messages) -> PoseEstimator:
    """The model, on its device; a `SharposeError` where it can't be had."""
    return PoseEstimator.from_bundle(
        options.bundle,
        device=options.device,
        refine=check_refine(options.refine),
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


def make_outputs(options: RunOptions) -> list[list[Output]]:
    """The outputs of each source, checked before anything is loaded.

    Raises:
        InputError: several sources would share an output.
        click.UsageError: an output would overwrite an input.
    """
    names = source_names(options.sources)
    outputs = outputs_of_streams([Output(option, target) for option, target in options.outputs], options.sources)
    _check_outputs(options, people_files(options, names), outputs)
    return outputs


def make_streams(
    options: RunOptions,
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
    names = source_names(options.sources)
    finder = PeopleFinder(options, names, say=messages.info)
    how = _source_options(options)
    streams = []
    for index, spec in enumerate(options.sources):
        source = open_source(spec, how, say=messages.warning)
        open_things.callback(source.close)
        boxes = finder.boxes_of(index, source)
        of_stream = SinkStream(
            name=names[index],
            skeleton=estimator.skeleton,
            frame_rate=source.frame_rate,
            live=source.live,
            tracked=options.track,
            video=VideoSettings(options.encoder, options.crf, options.bitrate, options.preset),
            picture_kind=options.frames_format,
            say=messages.warning,
        )
        try:
            sinks: list[Sink] = [make_sink(output, of_stream) for output in outputs[index]]
            if options.show:
                sinks.append(WindowSink(source.name, stop=lambda: bool(stop)))
        except SinkError as error:  # nothing has run yet: the user's to mend
            raise InputError(str(error)) from error
        if server is not None:
            sinks.append(server.sink(source.name, live=source.live, health=source.health))
        streams.append(Stream(source, boxes, sinks, _steps(options, estimator), options.max_people))
    return streams


def _steps(options: RunOptions, estimator: PoseEstimator) -> list[PoseStep]:
    steps: list[PoseStep] = []
    if options.track:
        steps.append(Tracker(sigmas=estimator.skeleton.sigmas))
    if options.smooth:
        steps.append(Smoother())
    return steps


def _source_options(options: RunOptions) -> SourceOptions:
    return SourceOptions(
        buffer=options.buffer,  # type: ignore[arg-type]  # click checks the choice
        reconnect=_reconnect(options.reconnect),
        timeout=options.timeout,
        stride=options.stride,
        start=options.start,
        duration=options.duration,
        hwaccel=options.hwaccel,
        stdin_size=_size(options.stdin_size),
        stdin_rate=options.stdin_rate,
        rtsp_transport=options.rtsp_transport,  # type: ignore[arg-type]
    )


def _reconnect(text: str | None) -> int | None:
    if text is None:
        return None
    if text == "forever":
        return FOREVER
    if text.isdigit():
        return int(text)
    raise InputError(f"--reconnect: expected a number of attempts or `forever`, got {text!r}")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, times, width = text.partition("x")
    if not (times and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise InputError(f"--stdin-size: expected HEIGHTxWIDTH as in 720x1280, got {text!r}")
    return int(height), int(width)


def _check_outputs(options: RunOptions, inputs: Sequence[Path], outputs: Sequence[Sequence[Output]]) -> None:
    """Refuse outputs that would overwrite what is read."""
    taken = {path.resolve(): f"the input {path}" for path in inputs}
    for name in options.sources:
        local = unquote(urlsplit(name).path) if name.lower().startswith("file://") else name
        taken[Path(local).resolve()] = "the source"
    for output in (output for of_one in outputs for output in of_one):
        path = output.path
        if path is None:
            continue
        where = path.resolve()
        if where in taken:
            raise click.UsageError(f"output {path} would overwrite {taken[where]}; give another name")
        if options.bundle is not None and where.parent == options.bundle.resolve():
            raise click.UsageError(f"output {path} lies in the bundle's folder; give another one")
        if path.is_dir() and output.option not in _FOLDERS:
            raise click.UsageError(f"output {path} is a folder; expected a file name")

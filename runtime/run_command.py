"""What `sharpose-run` does once its command line is understood."""

from __future__ import annotations

import contextlib
import traceback

import click

from sharpose.command import EXIT_FAILED
from sharpose.errors import SharposeError
from sharpose.runtime.assemble import make_draw, make_estimator, make_outputs, make_server, make_streams
from sharpose.runtime.messages import Messages
from sharpose.runtime.progress import run_progress
from sharpose.runtime.run import Outcome, Run, run
from sharpose.runtime.run_options import RunOptions
from sharpose.runtime.statistics import RunStatistics
from sharpose.runtime.stopping import StopRequest, stop_on_signals
from sharpose.runtime.stream import Stream

__all__ = ["run_with"]


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
    outputs = make_outputs(options)
    with contextlib.ExitStack() as open_things:
        estimator = make_estimator(options, messages)
        open_things.callback(estimator.close)
        stop = open_things.enter_context(stop_on_signals())
        server = make_server(options, messages)
        if server is not None:
            open_things.callback(server.close)
        streams = make_streams(options, outputs, estimator, messages, server, stop, open_things)
        if not any(stream.sinks for stream in streams):
            messages.info("note: nothing will be written; add --output, --json, --coco, --csv, --serve …")
        warm_up = estimator.warm_up()
        for stream in streams:
            stream.statistics.warm_up = warm_up
        deadline = None if options.deadline is None else options.deadline / 1000
        job = Run(
            streams, estimator, make_draw(options, estimator, lambda: _frame_rate(streams)), deadline, messages.warning
        )
        outcome = _go(job, streams, stop, messages)
        if any(stream.statistics.frames for stream in streams):
            for name in outcome.complete:
                messages.wrote(name)
        return stop.exit_code or (EXIT_FAILED if outcome.failures else 0)


def _go(job: Run, streams: list[Stream], stop: StopRequest, messages: Messages) -> Outcome:
    try:
        sources = [stream.source for stream in streams]
        with run_progress(sources, messages.console, shown=messages.shows_progress) as on_frame:
            return run(job, stop=stop, on_frame=on_frame)
    finally:
        for stream in streams:
            for warning in stream.source.warnings:
                messages.warning(warning)
        _sum_up(streams, messages, deadline=job.deadline is not None)


def _sum_up(streams: list[Stream], messages: Messages, *, deadline: bool) -> None:
    if len(streams) > 1:
        for stream in streams:
            messages.summary(stream.statistics, stream=stream.source.name, deadline=deadline)
    total = RunStatistics.of_all([stream.statistics for stream in streams])
    if total.frames:
        messages.summary(total, deadline=deadline)


def _frame_rate(streams: list[Stream]) -> float:
    """Frames of all streams a second, over the last ones of each."""
    return sum(stream.statistics.recent_rate for stream in streams)

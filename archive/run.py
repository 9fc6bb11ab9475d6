"""An archive from its options to its exit code."""

from __future__ import annotations

import os
from dataclasses import replace

import click

from sharpose.archive.claims import sweep
from sharpose.archive.local import LocalWorkers
from sharpose.archive.options import ArchiveOptions, divides_cores
from sharpose.archive.plan import make_plan
from sharpose.archive.report import Report, check_report
from sharpose.archive.schedule import Schedule, Workers
from sharpose.cli import EXIT_FAILED
from sharpose.errors import SharposeError, counted
from sharpose.runtime.assemble import say_failure
from sharpose.runtime.messages import Messages, stop_on_signals


def archive(options: ArchiveOptions) -> int:
    """Make what isn't done, and say how it went.

    Returns:
        The exit code: 0, 3 where a video failed, or that of the signal that ended it.

    Raises:
        SharposeError: it can't begin; with `--json-logs` that is said here, and its exit code returned.
        click.UsageError: options exclude one another.
    """
    messages = Messages(quiet=options.run.quiet, json_logs=options.run.json_logs)
    try:
        return _archive(options, messages)
    except (SharposeError, click.ClickException) as error:
        return say_failure(error, options.run, messages)


def _archive(options: ArchiveOptions, messages: Messages) -> int:
    if options.report is not None:
        check_report(options.report)
    plan = make_plan(options.run, options.shard, messages.warning, options.report)
    swept = [folder for video in plan.videos for folder in sweep(video.outputs)]
    if swept:
        messages.info(f"removed what killed runs left unfinished: {counted(len(swept), 'result')}")
    to_do = [video for video in plan.videos if video.missing]
    report = Report(plan.videos, options.shard, plan.total, messages)
    report.skip([video for video in plan.videos if not video.missing])
    stopped = 0
    try:
        if to_do:
            workers, count = _workers(options, len(to_do))
            with stop_on_signals() as stop, report:
                schedule = Schedule(
                    workers, count=count, retries=options.retries, watcher=report, stop=lambda: bool(stop)
                )
                schedule.run(to_do)
            stopped = stop.exit_code
        if stopped:
            messages.warning("interrupted; the same command goes on where this run ended")
        report.summary()
    finally:
        if options.report is not None:
            report.write(options.report)
    return stopped or (EXIT_FAILED if report.failed else 0)


def _workers(options: ArchiveOptions, videos: int) -> tuple[Workers, int]:
    """Where workers run, and how many."""
    if options.engine == "ray":
        from sharpose.archive.on_ray import RayWorkers

        on_ray = RayWorkers(options.run, options.workers)
        return on_ray, min(on_ray.count, videos)
    cores, on_cpu = len(os.sched_getaffinity(0)), divides_cores(options.run)
    served = options.run.remote.server is not None
    count = min(options.workers or (max(1, cores // 2) if on_cpu or served else 1), videos)
    threads = max(1, cores // count) if on_cpu and options.run.threads is None else options.run.threads
    return LocalWorkers(replace(options.run, threads=threads)), count

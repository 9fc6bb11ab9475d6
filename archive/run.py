"""An archive from its options to its exit code, and how it went: a bar or lines meanwhile, a summary, JSON."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import click
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sharpose.archive.claims import sweep
from sharpose.archive.local import LocalWorkers
from sharpose.archive.options import ArchiveOptions, Shard, divides_cores
from sharpose.archive.plan import Video, make_plan
from sharpose.archive.schedule import Schedule, Workers
from sharpose.archive.worker import Result
from sharpose.cli import EXIT_FAILED
from sharpose.engines.device import usable_cores
from sharpose.errors import InputError, SharposeError, SinkError, counted, one_line
from sharpose.files import found_at, replacing
from sharpose.runtime.assemble import say_failure
from sharpose.runtime.messages import Messages, stop_on_signals

_MOST_LINES = 20  # of failures at the end


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
        _check_report_file(options.report)
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
            workers, count = _workers(options, len(to_do), messages)
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


def _workers(options: ArchiveOptions, videos: int, messages: Messages) -> tuple[Workers, int]:
    """Where workers run, and how many."""
    if options.engine == "ray":
        from sharpose.archive.on_ray import RayWorkers

        on_ray = RayWorkers(options.run, options.workers, messages.warning)
        return on_ray, min(on_ray.count, videos)
    cores, on_cpu = usable_cores(), divides_cores(options.run)
    served = options.run.remote.server is not None
    count = min(options.workers or (max(1, cores // 2) if on_cpu or served else 1), videos)
    threads = max(1, cores // count) if on_cpu and options.run.threads is None else options.run.threads
    return LocalWorkers(replace(options.run, threads=threads)), count


def _check_report_file(path: Path) -> None:
    """Refuse a `--report` that can't be a file. Raises `InputError`."""
    if found_at(path) not in ("nothing", "a file", "an empty file"):
        raise InputError(f"--report {path}: expected a file's name, found {found_at(path)}")


class Report:
    """What becomes of each video.

    Args:
        videos: Of this run's shard.
        shard: Which that is.
        total: Videos of all shards.
        messages: Where it is said.
    """

    def __init__(self, videos: tuple[Video, ...], shard: Shard, total: int, messages: Messages) -> None:
        self._videos, self._shard, self._total, self._messages = videos, shard, total, messages
        self._results: dict[str, tuple[Result, int]] = {}  # by path, with the tries
        self._began = time.monotonic()
        self._shares: dict[str, float] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        bars = messages.bars
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=bars, transient=True, disable=not bars.is_terminal
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Report:
        self._bar.start()
        self._task = self._bar.add_task("videos", total=len(self._videos), completed=len(self._results))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def failed(self) -> list[Result]:
        """Those that failed, in the order of the archive."""
        found = (self._results.get(video.path) for video in self._videos)
        return [entry[0] for entry in found if entry is not None and entry[0].state == "failed"]

    def progress(self, video: Video, share: float) -> None:
        """See `Watcher`."""
        self._shares[video.path] = share
        self._show()

    def finished(self, result: Result, tries: int) -> None:
        """See `Watcher`."""
        self._shares.pop(result.video.path, None)
        self._results[result.video.path] = result, tries
        self._show()
        if not self._messages.bars.is_terminal:
            done = f"{result.frames} frames in {result.seconds:.1f} s"
            how = {"done": done, "skipped": "done by another run", "failed": f"failed: {result.reason}"}[result.state]
            self._messages.info(f"{len(self._results)}/{len(self._videos)} {result.video.path}: {how}")
        for line in result.warnings if result.state == "done" else ():
            self._messages.warning(line)

    def skip(self, videos: list[Video]) -> None:
        """Note videos that were done before this run."""
        for video in videos:
            self._results[video.path] = Result(video, "skipped"), 0

    def note(self, line: str) -> None:
        """See `Watcher`."""
        self._messages.info(line)

    def warn(self, line: str) -> None:
        """See `Watcher`."""
        self._messages.warning(line)

    def _show(self) -> None:
        if self._task is not None:
            failed = len(self.failed)
            what = f"videos, {failed} failed" if failed else "videos"
            self._bar.update(self._task, description=what, completed=len(self._results) + sum(self._shares.values()))

    def summary(self) -> None:
        """Say at the end what failed, and the counts."""
        failed = self.failed
        for result in failed[:_MOST_LINES]:
            kept = f"; what could be made is in {', '.join(result.partial)}" if result.partial else ""
            kept = "" if all(name in result.reason for name in result.partial) else kept
            self._messages.error(f"{result.video.path}: {result.reason}{kept}")
        if len(failed) > _MOST_LINES:
            self._messages.error(f"{len(failed) - _MOST_LINES} more failed; --report FILE names all")
        counts = self._counts()
        left = f", {counts['not done']} not done" if counts["not done"] else ""
        shard = f" (shard {self._shard}, of {self._total})" if self._shard.count > 1 else ""
        self._messages.result(
            f"{counted(len(self._videos), 'video')}{shard}: {counts['done']} done, {counts['skipped']} done before, "
            f"{counts['failed']} failed{left}; {time.monotonic() - self._began:.1f} s"
        )

    def _counts(self) -> dict[str, int]:
        states = [result.state for result, _ in self._results.values()]
        counts = {state: states.count(state) for state in ("done", "skipped", "failed")}
        return counts | {"not done": len(self._videos) - len(states)}

    def write(self, path: Path) -> None:
        """Write it as JSON. Raises `SinkError` where that can't be."""
        entries = []
        for video in self._videos:
            result, tries = self._results.get(video.path, (None, 0))
            entry: dict[str, object] = {
                "source": video.path,
                "name": video.name,
                "state": "not done" if result is None else result.state,
                "outputs": [output.target for output in video.outputs],
            }
            if result is not None:
                entry |= {"frames": result.frames, "people": result.people, "seconds": round(result.seconds, 3)}
                entry |= {"tries": tries, "reason": result.reason}
                entry |= {"partial": list(result.partial), "warnings": list(result.warnings)}
            entries.append(entry)
        report = {
            "shard": str(self._shard),
            "videos": len(self._videos),
            "of": self._total,
            **{state.replace(" ", "_"): number for state, number in self._counts().items()},
            "seconds": round(time.monotonic() - self._began, 3),
            "results": entries,
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part:
                part.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
        except OSError as error:
            raise SinkError(f"--report {path}: can't be written: {one_line(error)}") from None

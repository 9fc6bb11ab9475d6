"""What a run says to its user, its progress bars, and how Ctrl-C, SIGTERM and SIGHUP end it."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sharpose.cli import EXIT_CODES, EXIT_HUNG_UP, Terminated
from sharpose.runtime.frames import Frame, Source
from sharpose.runtime.sources.urls import redact_urls
from sharpose.runtime.statistics import (
    ServerSnapshot,
    StreamSnapshot,
    server_summary_of,
    summary_of,
    table_of_stages,
)

_PATIENCE = 0.25  # seconds for the frames at hand


class StopRequest:
    """Whether, and how, the run was asked to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None  # the signal that asked
        self.closed = False  # whether the user closed a window, which is a good end
        self._signalled = math.inf
        self._overdue: list[Callable[[], object]] = []

    def __bool__(self) -> bool:
        return self.closed or self.signal is not None

    def note(self, signum: int) -> None:
        """Ask by a signal."""
        if self.signal is None:
            self.signal, self._signalled = signum, min(self._signalled, time.monotonic())

    def when_overdue(self, call: Callable[[], object]) -> None:
        """Call something from another thread once a signal is overdue, to end what the main thread waits for."""
        self._overdue.append(call)

    def become_overdue(self, over: threading.Event) -> None:
        """Note the time of a signal, and do what is to be done once it is overdue, unless all is `over` before."""
        self._signalled = time.monotonic()
        if not over.wait(_PATIENCE):
            for call in self._overdue:
                call()

    @property
    def is_overdue(self) -> bool:
        """Whether a signal asked so long ago that the frames at hand should not be waited for."""
        return time.monotonic() - self._signalled >= _PATIENCE

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 0 if the run wasn't asked to stop."""
        return 0 if self.signal is None else EXIT_CODES[self.signal]


@contextlib.contextmanager
def watching_signals(act: Callable[[threading.Event], object]) -> Iterator[None]:
    """Call `act` from a thread as soon as a signal comes that ends a run; its event is set once the block is over.

    Python runs a signal's handler in the main thread alone, and only once that comes out of a batch of an engine.
    """
    reading, writing = socket.socketpair()  # Windows' pipes always block
    writing.setblocking(False)
    over = threading.Event()

    def watch() -> None:
        # Its end isn't waited for: a process that was forked meanwhile has it open as well.
        while (read := reading.recv(1)) and not over.is_set():
            if read[0] in EXIT_CODES:
                act(over)
                return

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    before = _set_wakeup(writing.fileno())
    watcher.start()
    try:
        yield
    finally:
        _set_wakeup(before)
        over.set()
        with contextlib.suppress(BlockingIOError):  # full: there is enough to read
            writing.send(b"\0")
        watcher.join()
        writing.close()
        reading.close()


_wakeup = -1  # where this process's signals are written, if a watcher has asked for them


def _set_wakeup(descriptor: int) -> int:
    """Have signals written to a socket; returns where they were written before, or -1."""
    global _wakeup
    before = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    _wakeup = descriptor
    return before


def _keep_signals_from_parent() -> None:
    """In a forked process, whose signals are no business of its parent's watcher."""
    if _wakeup != -1:
        _set_wakeup(-1)


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_keep_signals_from_parent)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note the first signal; a second one ends the run at once. SIGHUP stays ignored where nohup has it so."""
    request = StopRequest()

    def handle(signum: int, frame: FrameType | None) -> None:
        if request and EXIT_CODES[signum] == EXIT_HUNG_UP:
            return  # a closing terminal sends it, and then its shell
        if request:
            raise KeyboardInterrupt if signum == signal.SIGINT else Terminated(signum)
        request.note(signum)

    noted = [
        number
        for number, code in EXIT_CODES.items()
        if code != EXIT_HUNG_UP or signal.getsignal(number) is not signal.SIG_IGN
    ]
    previous = {number: signal.signal(number, handle) for number in noted}
    try:
        with watching_signals(request.become_overdue):
            yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Messages:
    """What a run says to its user, without secrets of addresses. Results never go through it. Thread-safe.

    Plain messages go to standard error, the closing table to standard output. With `json_logs` all go to standard
    error, a JSON object per line: `time` (UTC, ISO 8601), `level` (`info`, `warning`, `error`), `message` and numbers.

    Args:
        quiet: Only warnings and errors.
        json_logs: JSON instead of text.
        stream: Where messages go; standard error if None.
        results_on_stderr: Whether the closing table goes there too, as standard output is a result.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        json_logs: bool = False,
        stream: TextIO | None = None,
        results_on_stderr: bool = False,
    ) -> None:
        self.quiet, self.json_logs = quiet, json_logs
        self._stream = sys.stderr if stream is None else stream
        self._lock = threading.Lock()
        self._console = Console(file=self._stream)
        self._results = self._console if results_on_stderr else Console()

    @property
    def bars(self) -> Console:
        """Where progress bars are shown: nowhere, where `quiet` or `json_logs` is set."""
        return Console(quiet=True) if self.quiet or self.json_logs else self._console

    @contextlib.contextmanager
    def progress(self, source_at: Callable[[int], Source]) -> Iterator[Callable[[int, Frame], None]]:
        """Show a bar per source on a terminal, from its first frame on; a new one replaces those that are full.

        Yields:
            What to call with a source's index and a frame that is done.
        """
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        bars = self.bars
        with Progress(
            *columns, TimeRemainingColumn(), console=bars, transient=True, disable=not bars.is_terminal
        ) as progress:
            tasks: dict[int, TaskID] = {}

            def advance(index: int, frame: Frame) -> None:
                if index not in tasks:
                    for task in progress.tasks:
                        progress.update(task.id, visible=not task.finished)
                    info = source_at(index).info
                    tasks[index] = progress.add_task(info.name, total=info.frame_count)
                progress.update(tasks[index], advance=1)

            yield advance

    def info(self, line: str) -> None:
        """Something worth knowing."""
        if not self.quiet:
            self._say("info", line, line)

    def warning(self, line: str) -> None:
        """Something was lost, or will be."""
        self._say("warning", line, f"warning: {line}")

    def outage(self, line: str) -> None:
        """The server of the model is gone, busy for long, or back; from any thread."""
        self.warning(line)

    def error(self, line: str) -> None:
        """Something failed."""
        self._say("error", line, f"error: {line}")

    def result(self, line: str) -> None:
        """What a run has done: a file that is complete, how many boxes it used."""
        if self.json_logs:
            self.info(line)
        elif not self.quiet:
            self._results.print(line, highlight=False, markup=False, soft_wrap=True)

    def summary(
        self,
        numbers: StreamSnapshot,
        *,
        stream: str | None = None,
        warm_up: float | None = None,
        deadline: bool = False,
        timings: bool = False,
    ) -> None:
        """Close a run (or, with its name, one of several streams): counts, and with `timings` how long stages took."""
        if self.quiet:
            return
        if self.json_logs:
            self._say("info", "stream done" if stream else "run done", "", **_numbers_json(numbers, stream))
            return
        line = summary_of(numbers, warm_up=warm_up, deadline=deadline)
        line = line if stream is None else f"{stream}: {line}"
        self._results.print(line, highlight=False, markup=False, soft_wrap=True)
        if timings and stream is None:
            self._results.print(table_of_stages(numbers))

    def server(self, numbers: ServerSnapshot) -> None:
        """Close a run whose model ran on a server: its requests."""
        if self.json_logs and not self.quiet:
            p50, p95 = (round(value, 3) for value in numbers.durations.percentiles(50, 95))
            counts = {"requests": numbers.requests, "failed": numbers.failed, "dropped": numbers.dropped}
            self._say("info", "server", "", **counts, p50_ms=p50, p95_ms=p95)
        else:
            self.result(server_summary_of(numbers))

    def _say(self, level: str, message: str, plain: str, **fields: object) -> None:
        message, plain = redact_urls(message), redact_urls(plain)
        if self.json_logs:
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
            entry = json.dumps({"time": now, "level": level, "message": message, **fields})
            with self._lock:  # sources, sinks and the page say things in their own threads
                self._stream.write(f"{entry}\n")
                self._stream.flush()
        else:
            self._console.print(plain, highlight=False, markup=False, soft_wrap=True)


def _numbers_json(numbers: StreamSnapshot, stream: str | None) -> dict[str, object]:
    named = {} if stream is None else {"stream": stream}
    counts = {
        name: getattr(numbers, name)
        for name in ("frames", "people", "refined", "deferred", "late", "dropped", "reconnects")
    }
    stages = {}
    for name, durations in numbers.durations.items():
        if len(durations):
            p50, p95, p99 = durations.percentiles(50, 95, 99)
            stages[name] = {"p50_ms": round(p50, 3), "p95_ms": round(p95, 3), "p99_ms": round(p99, 3)}
    return {**named, **counts, "seconds": round(numbers.seconds, 3), "stages": stages}

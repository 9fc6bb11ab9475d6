"""The sinks of a stream as one, with a thread that writes; a sink that fails is dropped while the others go on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from sharpose.cli import EXIT_FAILED, EXIT_USER
from sharpose.errors import (
    EngineError,
    OutputRemovedError,
    ReaderGoneError,
    ReceiverLostError,
    SharposeError,
    SinkError,
    SourceError,
)
from sharpose.files import STDOUT_PATH
from sharpose.runtime.frames import FrameRecord, Sink

_WAITING = 1  # records that wait for the one that is being written, each with its frame
_PATIENCE = 2.0  # seconds for the records at hand, where the user won't wait


class RunFailedError(SharposeError):
    """A run that ended on an error after results had been written; they are kept and named as partial."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class SinkGroup:
    """The sinks of a stream; one that fails is dropped while others go on.

    A thread draws, encodes and writes, so that the engines go on with the next frame. Where a sink is a window, which
    belongs to the main thread, `write` itself does it.

    Args:
        sinks: The sinks; closed or abandoned by this group.
        say: Called with a line when a sink fails and others go on, from either thread.
        written: Called with each record that was written and the seconds that took, from the thread that wrote it.
        failed: Called from the thread when writing has failed for good, which `check` then raises.

    Attributes:
        kept: The partial files of sinks that failed or were abandoned.
        problems: What kept a partial file from being marked as one.
        failures: What was said of sinks that failed while others went on.
        complete: Names of the sinks that were closed well and keep what they were given, as a page or window doesn't.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        say: Callable[[str], None],
        *,
        written: Callable[[FrameRecord, float], None] = lambda record, seconds: None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self.kept: list[Path] = []
        self.problems: list[str] = []
        self.failures: list[str] = []
        self.complete: list[str] = []
        self._open, self._say, self._written, self._failed = list(sinks), say, written, failed
        self._records = 0
        self._threaded = bool(sinks) and not any(getattr(sink, "main_thread_only", False) for sink in sinks)
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._queue: deque[FrameRecord] = deque()
        self._busy = self._ended = False
        self._failure: Exception | None = None

    def write(self, record: FrameRecord) -> None:
        """Hand a record to all sinks that are still open; waits while another one waits to be written.

        Raises:
            ReaderGoneError: the last sink was standard output, and its reader has gone.
            SinkError: the last sink failed, or one can't write so much as its first record: the user's mistake, better
                said at once than after hours. Of this record or, from the thread, of one before.
        """
        if not self._threaded:
            self._write(record)
            return
        if self._thread is None:
            name = f"write {self._open[0].name}" if self._open else "write"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
        with self._changed:
            while len(self._queue) >= _WAITING and self._failure is None:
                self._changed.wait()
            if self._failure is None:
                self._queue.append(record)
                self._changed.notify_all()
        self.check()

    def check(self) -> None:
        """Raise what writing in the thread has failed with, if it has."""
        with self._changed:
            failure = self._failure
        if failure is not None:
            raise failure

    def flush(self) -> None:
        """Wait until all records are written. Raises what `write` raises."""
        self._wait(None)
        self.check()

    def _wait(self, seconds: float | None) -> bool:
        """Wait, at most so long, until nothing is left to be written, which is returned."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._queue or self._busy), seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue or self._ended)
                if not self._queue:
                    return
                record = self._queue.popleft()
                self._busy = True
                self._changed.notify_all()
            try:
                self._write(record)
            except Exception as error:
                with self._changed:
                    self._failure, self._busy = error, False
                    self._queue.clear()
                    self._changed.notify_all()
                self._failed()
                return

    def _write(self, record: FrameRecord) -> None:
        began = time.perf_counter()
        for sink in list(self._open):
            try:
                sink.write(record)
            except Exception as error:
                self._drop(sink, error, alone=len(self._open) == 1)
        self._records += 1
        self._written(record, time.perf_counter() - began)

    def _end(self, seconds: float | None = None) -> bool:
        """End the thread once all records are written; false where that takes longer than so many seconds."""
        done = self._wait(seconds)
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if done and self._thread is not None:
            self._thread.join()
        return done

    def close(self) -> None:
        """Write what is left and finish all files.

        Raises:
            SinkError: a sink can't be closed and was the only one; or what `write` raises.
        """
        self._end()
        self.check()
        alone = len(self._open) == 1
        for sink in list(self._open):
            try:
                sink.close()
            except Exception as error:
                self._drop(sink, error, alone=alone)
            else:
                self._open.remove(sink)
                if not getattr(sink, "keeps_nothing", False):
                    self.complete.append(sink.name)

    @property
    def closed_by_user(self) -> bool:
        """Whether one of them is a window that the user has closed."""
        return any(getattr(sink, "closed_by_user", False) for sink in self._open)

    def abandon(self) -> None:
        """Write what is left and close after a failure; all of it is kept under names that say it is partial."""
        self._end()
        for sink in self._open:
            self._abandon(sink)
        self._open.clear()

    def close_at_once(self) -> None:
        """Close without a word: the user won't wait. What takes long to be written is left as it is."""
        if not self._end(_PATIENCE):
            return
        for sink in self._open:
            with contextlib.suppress(SinkError):
                sink.close()
        self._open.clear()

    def _drop(self, sink: Sink, error: Exception, *, alone: bool) -> None:
        self._open.remove(sink)
        path = self._abandon(sink)
        reader_gone = isinstance(error, ReaderGoneError)  # nobody's mistake
        if alone or (self._records == 0 and path is None and not reader_gone):
            if isinstance(error, SharposeError):
                raise error
            raise SinkError(f"{sink.name}: unexpected {type(error).__name__}: {error}") from error
        line = str(error) if isinstance(error, SharposeError) else f"{sink.name}: {type(error).__name__}: {error}"
        line += f"; what it had is kept in {path}" if path not in (None, STDOUT_PATH) else ""
        self.failures.append(line)
        self._say(f"{line}; the other outputs go on")

    def _abandon(self, sink: Sink) -> Path | None:
        try:
            path = sink.abandon()
        except SinkError as problem:
            self.problems.append(str(problem))
            return None
        if path is not None:
            self.kept.append(path)
        return path


def failure_of(error: Exception, sinks: SinkGroup, frames: int) -> Exception:
    """The error that a stream ends on after so many `frames`, its `sinks` abandoned: it says what is kept where."""
    if isinstance(error, ReaderGoneError):
        return error
    if not sinks.kept and not sinks.problems:
        # A path where nothing can be written is the user's mistake, what was written and then removed or lost isn't.
        mistake = isinstance(error, SinkError) and not isinstance(error, OutputRemovedError | ReceiverLostError)
        return RunFailedError(str(error), EXIT_USER) if mistake else error
    # An engine, or a source, that fails on the way is not the user's mistake.
    on_the_way = isinstance(error, EngineError | SourceError) and sinks.kept
    code = EXIT_FAILED if on_the_way else getattr(error, "exit_code", EXIT_FAILED)
    line = str(error) if isinstance(error, SharposeError) else f"unexpected {type(error).__name__}: {error}"
    files = [str(path) for path in sinks.kept if path != STDOUT_PATH]
    before = "the frame before it is" if frames == 1 else f"the {frames} frames before it are"
    if frames == 0:  # the outputs before the one that can't write its first record have written theirs
        before = "that frame is"
    line += f"; {before} kept in {', '.join(files)}" if files else ""
    line += f"; {before} on standard output" if STDOUT_PATH in sinks.kept else ""
    return RunFailedError("; ".join([line, *sinks.problems]), code)

"""The sinks of a stream as one: one that fails is dropped while the others go on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from sharpose.errors import ReaderGoneError, SharposeError, SinkError
from sharpose.files import STDOUT_PATH
from sharpose.runtime.frames import FrameRecord, Sink


class SinkGroup:
    """The sinks of a stream; one that fails is dropped while others go on.

    Args:
        sinks: The sinks; closed or abandoned by this group.
        say: Called with a line when a sink fails and others go on.

    Attributes:
        kept: The partial files of sinks that failed or were abandoned.
        problems: What kept a partial file from being marked as one.
        failures: What was said of sinks that failed while others went on.
        complete: Names of the sinks that were closed well and keep what they were given, as a page or window doesn't.
    """

    def __init__(self, sinks: Sequence[Sink], say: Callable[[str], None]) -> None:
        self.kept: list[Path] = []
        self.problems: list[str] = []
        self.failures: list[str] = []
        self.complete: list[str] = []
        self._open, self._say = list(sinks), say
        self._records = 0

    def write(self, record: FrameRecord) -> None:
        """Give a record to all sinks that are still open.

        Raises:
            ReaderGoneError: the last sink was standard output, and its reader has gone.
            SinkError: the last sink failed, or one can't write so much as its first record: the user's mistake, better
                said at once than after hours.
        """
        for sink in list(self._open):
            try:
                sink.write(record)
            except Exception as error:
                self._drop(sink, error, alone=len(self._open) == 1)
        self._records += 1

    def close(self) -> None:
        """Finish all files. Raises `SinkError` where a sink can't be closed and it was the only one."""
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
        """Close after a failure elsewhere; what was written is kept under names that say it is partial."""
        for sink in self._open:
            self._abandon(sink)
        self._open.clear()

    def close_at_once(self) -> None:
        """Close without a word: the user won't wait."""
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

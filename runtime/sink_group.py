"""All sinks of one stream: one that fails is let go with a line, and the others go on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from sharpose.errors import SharposeError, SinkError
from sharpose.runtime.frames import FrameRecord, Sink

__all__ = ["SinkGroup"]


class SinkGroup:
    """Sinks that share their records and nothing else.

    Args:
        sinks: The sinks; closed or abandoned by this group.
        say: Called with one line when a sink fails and others go on.

    Attributes:
        records: How many were written.
        kept: The partial files of sinks that failed or were abandoned.
        problems: What kept a partial file from being marked as one.
        failures: What was said of sinks that failed while others went on.
        complete: Names of the sinks that were closed well.
    """

    def __init__(self, sinks: Sequence[Sink], say: Callable[[str], None]) -> None:
        self.records = 0
        self.kept: list[Path] = []
        self.problems: list[str] = []
        self.failures: list[str] = []
        self.complete: list[str] = []
        self._open = list(sinks)
        self._say = say

    def write(self, record: FrameRecord) -> None:
        """Give a record to all sinks that are still open.

        Raises:
            SinkError: the last sink failed, or one can't write so much as its first record: the user's mistake, better
                said at once than after hours.
        """
        for sink in list(self._open):
            try:
                sink.write(record)
            except Exception as error:
                self._drop(sink, error, alone=len(self._open) == 1)
        self.records += 1

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
        wrote = self._abandon(sink)
        if alone or (self.records == 0 and wrote is None):
            if isinstance(error, SharposeError):
                raise error
            raise SinkError(f"{sink.name}: unexpected {type(error).__name__}: {error}") from error
        said = str(error) if isinstance(error, SharposeError) else f"{sink.name}: {type(error).__name__}: {error}"
        where = f"; what it had is kept in {wrote}" if wrote is not None else ""
        self.failures.append(f"{said}{where}")
        self._say(f"{said}{where}; the other outputs go on")

    def _abandon(self, sink: Sink) -> Path | None:
        try:
            path = sink.abandon()
        except SinkError as problem:
            self.problems.append(str(problem))
            return None
        if path is not None:
            self.kept.append(path)
        return path

"""What a run says to its user: plain lines, warnings and errors only, or JSON for machines that read logs."""

from __future__ import annotations

import datetime
import json
import sys
from typing import TextIO

from rich.console import Console

from sharpose.runtime.statistics import AGE, STAGES, RunStatistics, print_statistics, summary_of

__all__ = ["Messages"]


class Messages:
    """The run's voice. Results never go through it.

    Plain messages go to standard error, the closing table to standard output. With `json_logs` all of it is one JSON
    object a line on standard error: `time` (UTC, ISO 8601), `level` (`info`, `warning` or `error`), `message`, and
    what belongs to it.

    Args:
        quiet: Leave out everything but warnings and errors.
        json_logs: JSON for people who collect logs.
        stream: Where messages go; standard error if None.
    """

    def __init__(self, *, quiet: bool = False, json_logs: bool = False, stream: TextIO | None = None) -> None:
        self.quiet, self.json_logs = quiet, json_logs
        self._stream = sys.stderr if stream is None else stream
        self.console = Console(file=self._stream)
        self._results = Console()

    @property
    def shows_progress(self) -> bool:
        """Whether a progress bar may be drawn on `console`."""
        return not (self.quiet or self.json_logs) and self.console.is_terminal

    def info(self, line: str) -> None:
        """Something worth knowing."""
        if not self.quiet:
            self._say("info", line, line)

    def warning(self, line: str) -> None:
        """Something was lost, or will be."""
        self._say("warning", line, f"warning: {line}")

    def error(self, line: str) -> None:
        """Something failed."""
        self._say("error", line, f"error: {line}")

    def wrote(self, name: str) -> None:
        """A result is complete."""
        if self.json_logs:
            self.info(f"wrote {name}")
        elif not self.quiet:
            self._results.print(f"wrote {name}", highlight=False, markup=False, soft_wrap=True)

    def summary(self, statistics: RunStatistics, *, stream: str | None = None, deadline: bool = False) -> None:
        """Close a run (or, with its name, one of several streams): counts, and how long stages took."""
        if self.quiet:
            return
        if self.json_logs:
            self._say("info", "stream done" if stream else "run done", "", **_numbers(statistics, stream))
        elif stream is not None:
            line = f"{stream}: {summary_of(statistics, deadline=deadline)}"
            self._results.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print_statistics(statistics, self._results, deadline=deadline)

    def _say(self, level: str, message: str, plain: str, **fields: object) -> None:
        if self.json_logs:
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
            print(
                json.dumps({"time": now, "level": level, "message": message, **fields}), file=self._stream, flush=True
            )
        else:
            self.console.print(plain, highlight=False, markup=False, soft_wrap=True)


def _numbers(statistics: RunStatistics, stream: str | None) -> dict[str, object]:
    counts = {
        name: getattr(statistics, name)
        for name in ("frames", "people", "refined", "deferred", "late", "dropped", "reconnects")
    }
    stages = {}
    for stage in (*STAGES, AGE):
        p50, p95, p99 = statistics.percentiles(stage)
        stages[stage] = {"p50_ms": round(p50, 3), "p95_ms": round(p95, 3), "p99_ms": round(p99, 3)}
    named = {} if stream is None else {"stream": stream}
    return {**named, **counts, "seconds": round(statistics.seconds, 3), "stages": stages}

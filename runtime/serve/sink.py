"""The sink behind `--serve`: hands each record to the server's page and counters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sharpose.runtime.frames import FrameRecord, SourceHealth
from sharpose.runtime.serve.numbers import StreamCounter
from sharpose.runtime.serve.picture import NewestPicture

__all__ = ["ServeSink"]


class ServeSink:
    """One stream of a `ServeServer`, which makes it.

    `write` counts and keeps the record until the next one comes; it draws and encodes nothing and waits for nobody. The
    record's arrays must not change afterwards.

    Args:
        stream: What the page calls the stream.
        name: Where the results go, for the user to read.
        live: Whether frames come when they come, so that silence means trouble.
        health: Of the stream's source, for the time before its first record.
        clock: Seconds that never go back.
    """

    def __init__(self, stream: str, name: str, *, live: bool, health: SourceHealth, clock: Callable[[], float]) -> None:
        self.name = name
        self.stream = stream
        self.counter = StreamCounter(stream, live=live, health=health, clock=clock)
        self.picture = NewestPicture()

    def write(self, record: FrameRecord) -> None:
        """Show this one from now on."""
        self.counter.add(record)
        self.picture.put(record)

    def close(self) -> None:
        """Say that the stream has ended; its last picture stays. May be called twice."""
        self.counter.end(failed=False)
        self.picture.close()

    def abandon(self) -> Path | None:
        """Say that the stream has failed. There is no file: returns None."""
        self.counter.end(failed=True)
        self.picture.close()
        return None

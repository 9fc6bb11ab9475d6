"""The streams of one server, by name."""

from __future__ import annotations

import threading

from sharpose.runtime.serve.numbers import StreamNumbers
from sharpose.runtime.serve.sink import ServeSink

__all__ = ["Streams"]


class Streams:
    """Streams in the order in which they were added; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sinks: dict[str, ServeSink] = {}

    def free_name(self, name: str) -> str:
        """`name` as text that can be sent, with a number behind it where another stream has it."""
        name = name.encode("utf-8", "backslashreplace").decode() or "stream"  # a file's name may hold any bytes
        with self._lock:
            count, free = 1, name
            while free in self._sinks:
                count += 1
                free = f"{name} ({count})"
            return free

    def add(self, sink: ServeSink) -> None:
        """Add a stream under its name."""
        with self._lock:
            self._sinks[sink.stream] = sink

    def get(self, name: str | None) -> ServeSink | None:
        """The stream called `name`, or the first one; None where there is none."""
        with self._lock:
            return next(iter(self._sinks.values()), None) if name is None else self._sinks.get(name)

    def all(self) -> list[ServeSink]:
        """All of them."""
        with self._lock:
            return list(self._sinks.values())

    def read(self) -> list[StreamNumbers]:
        """The numbers of all of them."""
        return [sink.counter.read() for sink in self.all()]

"""The sink behind `--serve`: keeps the newest frame of a stream for those who look; and the streams by name."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from sharpose.errors import SinkError
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.statistics import StreamSnapshot, StreamStatistics

_QUALITY = 80
_ENDED_KEPT = 8  # of the streams that have ended, those whose last picture is kept: of 4K it is 25 MB


@dataclass(frozen=True)
class Jpeg:
    """A picture, and its number: the stream's first is 1."""

    number: int
    data: bytes


@dataclass
class _Slot:
    """One record: those who want its picture wait for the first of them to encode it."""

    number: int
    record: FrameRecord | None
    jpeg: Jpeg | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def encode(self) -> Jpeg:
        with self.lock:
            if self.jpeg is None:
                assert self.record is not None
                quality = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
                done, data = cv2.imencode(".jpg", self.record.square_picture, quality)
                if not done:
                    raise SinkError("the picture can't be encoded as JPEG")
                self.jpeg = Jpeg(self.number, data.tobytes())
                self.record = None  # its frame may go
            return self.jpeg


class NewestPicture:
    """Holds the newest record and nothing older. Drawing and encoding happen in the thread that asks.

    Attributes:
        closed: Whether no other picture will come.
        gone: Whether the last one isn't kept any more.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._slot: _Slot | None = None
        self.closed = self.gone = False

    def put(self, record: FrameRecord) -> None:
        """Replace the record before. Never waits for clients."""
        with self._changed:
            number = 1 if self._slot is None else self._slot.number + 1
            self._slot = _Slot(number, record)
            self._changed.notify_all()

    def get(self, *, other_than: int | None = None, wait: float = 0.0) -> Jpeg | None:
        """The newest picture, or None where none (or no other) came in time.

        Args:
            other_than: The number of the picture that the caller has; None takes any.
            wait: Seconds to wait for one.
        """
        until = time.monotonic() + wait
        with self._changed:
            while self._slot is None or self._slot.number == other_than:
                left = until - time.monotonic()
                if left <= 0 or self.closed:
                    return None
                self._changed.wait(left)
            slot = self._slot
        return slot.encode()

    def close(self) -> None:
        """End all waiting; the newest picture can still be had."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def let_go(self) -> None:
        """Keep the newest picture no longer."""
        with self._changed:
            self.gone, self._slot = True, None


class ServeSink:
    """One stream of a `ServeServer`, which makes it.

    `write` keeps the record until the next one comes; it draws and encodes nothing and waits for nobody. The record's
    arrays must not change afterwards.

    Args:
        stream: Name of the stream on the page.
        name: Where the results go, for the user to read.
        statistics: The stream's numbers, which the run counts.
    """

    keeps_nothing = True  # what is shown is gone afterwards

    def __init__(self, stream: str, name: str, statistics: StreamStatistics) -> None:
        self.stream, self.name, self.statistics = stream, name, statistics
        self.picture = NewestPicture()

    def write(self, record: FrameRecord) -> None:
        """Show this one from now on."""
        self.picture.put(record)

    def close(self) -> None:
        """No more will come; the last picture stays for a while. May be called twice."""
        self.picture.close()

    def abandon(self) -> Path | None:
        """As `close`. There is no file: returns None."""
        self.picture.close()
        return None


class ServedStreams:
    """The streams of a server, in the order in which they were added. Thread-safe.

    When another begins, the last pictures of the newest eight that have ended are kept: a folder may hold thousands.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sinks: dict[str, ServeSink] = {}

    def add(self, stream: str, url: str, statistics: StreamStatistics) -> ServeSink:
        """A sink for a stream; its name is made text that can be sent, with a number added where it is taken."""
        name = stream.encode("utf-8", "backslashreplace").decode() or "stream"  # a file's name may hold any bytes
        with self._lock:
            count, free = 1, name
            while free in self._sinks:
                count += 1
                free = f"{name} ({count})"
            sink = self._sinks[free] = ServeSink(free, url, statistics)
            for ended in [one for one in self._sinks.values() if one.picture.closed][:-_ENDED_KEPT]:
                ended.picture.let_go()
        return sink

    def get(self, name: str | None) -> ServeSink | None:
        """The stream called `name`, or the first one for None; None where there is none."""
        with self._lock:
            return next(iter(self._sinks.values()), None) if name is None else self._sinks.get(name)

    def snapshots(self) -> dict[str, StreamSnapshot]:
        """The numbers of every stream by its name."""
        with self._lock:
            sinks = list(self._sinks.values())
        return {sink.stream: sink.statistics.snapshot() for sink in sinks}

    def close(self) -> None:
        """End all clients' waiting for pictures."""
        with self._lock:
            for sink in self._sinks.values():
                sink.picture.close()

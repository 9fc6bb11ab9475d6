"""The sink behind `--serve`: hands each record to the server's page, picture and counters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from sharpose.errors import SinkError
from sharpose.runtime.frames import FrameRecord, SourceHealth
from sharpose.runtime.serve.numbers import StreamCounter

__all__ = ["Jpeg", "NewestPicture", "ServeSink"]

_QUALITY = 80


@dataclass(frozen=True)
class Jpeg:
    """A picture, and its number: the stream's first is 1."""

    number: int
    data: bytes


@dataclass
class _Slot:
    """One record's place: those who want its picture wait for the one who encodes it."""

    number: int
    record: FrameRecord | None
    jpeg: Jpeg | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def encode(self) -> Jpeg:
        with self.lock:
            if self.jpeg is None:
                assert self.record is not None
                done, data = cv2.imencode(".jpg", self.record.picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
                if not done:
                    raise SinkError("the picture can't be encoded as JPEG")
                self.jpeg = Jpeg(self.number, data.tobytes())
                self.record = None  # its frame may go
            return self.jpeg


class NewestPicture:
    """Holds the newest record and nothing older. Drawing and encoding happen in the thread that asks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._slot: _Slot | None = None
        self._closed = False

    def put(self, record: FrameRecord) -> None:
        """Take the place of the one before. Never waits for those who look."""
        with self._changed:
            number = 1 if self._slot is None else self._slot.number + 1
            self._slot = _Slot(number, record)
            self._changed.notify_all()

    def get(self, *, other_than: int | None = None, wait: float = 0.0) -> Jpeg | None:
        """The newest picture.

        Args:
            other_than: The number of the picture that the caller has; None takes any.
            wait: How many seconds to wait for one.

        Returns:
            The picture, or None where none (or no other) came in time.
        """
        until = time.monotonic() + wait
        with self._changed:
            while self._slot is None or self._slot.number == other_than:
                left = until - time.monotonic()
                if left <= 0 or self._closed:
                    return None
                self._changed.wait(left)
            slot = self._slot
        return slot.encode()

    def close(self) -> None:
        """Let nobody wait any longer; the newest picture can still be had."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


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

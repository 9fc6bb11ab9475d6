"""Frames read ahead by a thread of their own, so that one loop can serve many sources and no source can block it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sharpose.runtime.frames import Frame, Source
from sharpose.runtime.sources.live import LiveSource

__all__ = ["Feed", "LiveFeed", "ReadAhead"]

_JOIN_SECONDS = 2.0  # a read that hangs (a pipe that nobody writes to) must not keep the program from ending


class Feed(Protocol):
    """What the run loop asks for frames.

    Attributes:
        read_seconds: How long reading the last frame that was handed out took.
    """

    read_seconds: float

    def poll(self) -> Frame | None:
        """The next frame if one is there now. Raises what reading it raised."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing will come any more."""
        ...

    def close(self) -> None:
        """Stop reading and close the source. May be called twice."""
        ...


class ReadAhead:
    """Every frame of a source in order, decoded while the loop is busy with the ones before.

    The thread owns the source: it reads, and closes it in the end, since closing a decoder that another thread is in
    would crash.

    Args:
        source: Whose frames; not to be touched by others until `close`.
        notify: Called by the thread when a frame is there or the source has ended.
        ahead: How many frames may wait; the thread pauses when they do.
    """

    def __init__(self, source: Source, notify: Callable[[], None], *, ahead: int = 2) -> None:
        self.read_seconds = 0.0
        self._source, self._notify, self._ahead = source, notify, ahead
        self._frames: deque[tuple[Frame, float]] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._finished = False  # the thread is done
        self._closing = False
        self._thread = threading.Thread(target=self._read, name=f"read {source.name}", daemon=True)
        self._thread.start()

    def poll(self) -> Frame | None:
        """See `Feed.poll`."""
        with self._changed:
            if self._frames:
                frame, self.read_seconds = self._frames.popleft()
                self._changed.notify_all()
                return frame
            error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    @property
    def ended(self) -> bool:
        """See `Feed.ended`."""
        with self._changed:
            return self._finished and not self._frames and self._error is None

    def close(self) -> None:
        """See `Feed.close`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(_JOIN_SECONDS)

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            frames = iter(self._source)
            while not self._closing:
                began = time.perf_counter()
                frame = next(frames, None)
                if frame is None or not self._put(frame, time.perf_counter() - began):
                    break
        except BaseException as problem:  # raised again by `poll`, in the loop's thread
            error = problem
        finally:
            self._source.close()
            with self._changed:
                self._error, self._finished = error, True
            self._notify()

    def _put(self, frame: Frame, seconds: float) -> bool:
        """Hand a frame over once there is room; False where nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or len(self._frames) < self._ahead)
            if self._closing:
                return False
            self._frames.append((frame, seconds))
        self._notify()
        return True


class LiveFeed:
    """The frames of a source that reads in a thread of its own already; nobody can say what reading one took.

    Args:
        source: Whose frames.
        notify: Called when a frame is there or the source has ended.
    """

    def __init__(self, source: LiveSource, notify: Callable[[], None]) -> None:
        self.read_seconds = 0.0
        self._source = source
        source.notify = notify

    def poll(self) -> Frame | None:
        """See `Feed.poll`."""
        return self._source.poll()

    @property
    def ended(self) -> bool:
        """See `Feed.ended`."""
        return self._source.ended

    def close(self) -> None:
        """See `Feed.close`."""
        self._source.close()

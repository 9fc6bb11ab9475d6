"""Handing frames from the thread that reads them to the loop that uses them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal

from sharpose.errors import SharposeError
from sharpose.runtime.frames import Frame

__all__ = ["Handover", "Policy"]

Policy = Literal["latest", "all", "wait"]
"""What happens to a frame that comes too early: `latest` drops the one before it, `all` queues it and drops the oldest
when the queue is full, `wait` makes the reader wait."""


class Handover:
    """A queue of bounded length between one thread that puts and one loop that polls or iterates.

    Args:
        policy: What happens when frames come faster than they are taken.
        size: Frames that `all` and `wait` hold; `latest` holds one.

    Attributes:
        notify: Called, from the other thread, whenever there is something new to poll. It must not block.
        dropped: Frames that were put and will never be handed out.
    """

    def __init__(self, policy: Policy, size: int) -> None:
        self._policy: Policy = policy
        self.notify: Callable[[], None] = lambda: None
        self.dropped = 0
        self._size = size
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._failure: SharposeError | None = None

    @property
    def finished(self) -> bool:
        """Whether no frame will be put any more; some may be left to take."""
        with self._changed:
            return self._finished

    @property
    def ended(self) -> bool:
        """Whether no frame, and no error, will come any more."""
        with self._changed:
            return self._finished and not self._frames and self._failure is None

    def use(self, policy: Policy, size: int) -> None:
        """Change what happens to early frames, before the first is put."""
        with self._changed:
            self._policy, self._size = policy, size

    def put(self, frame: Frame) -> bool:
        """Hand a frame over; False if nobody wants any more."""
        with self._changed:
            size = 1 if self._policy == "latest" else self._size
            while self._policy == "wait" and len(self._frames) >= size and not self._finished:
                self._changed.wait()
            if self._finished:
                return False
            while len(self._frames) >= size:
                self._frames.popleft()
                self.dropped += 1
            self._frames.append(frame)
            self._changed.notify_all()
        self.notify()
        return True

    def finish(self, failure: SharposeError | None = None) -> None:
        """No more frames will be put; those put are still handed out, and `failure` is raised after them."""
        with self._changed:
            if not self._finished:
                self._finished, self._failure = True, failure
            self._changed.notify_all()
        self.notify()

    def discard(self) -> None:
        """End at once: what was put and not taken is let go, and no error is raised any more."""
        with self._changed:
            self._finished, self._failure = True, None
            self._frames.clear()
            self._changed.notify_all()
        self.notify()

    def poll(self) -> Frame | None:
        """The next frame, or None if there is none now. Raises, once, the error that frames ended with."""
        with self._changed:
            return self._next()

    def __iter__(self) -> Iterator[Frame]:
        """The frames, waiting for each. Raises the error that they ended with."""
        while True:
            with self._changed:
                frame = self._next()
                while frame is None and not self._finished:
                    # With a timeout, so that Ctrl-C reaches a waiting main thread on every system.
                    self._changed.wait(0.5)
                    frame = self._next()
            if frame is None:
                return
            yield frame

    def _next(self) -> Frame | None:
        if self._frames:
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return None

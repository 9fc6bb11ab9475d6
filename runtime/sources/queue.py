"""The queue through which every source is polled: a thread puts frames in, one loop takes them out."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal

from sharpose.runtime.frames import Frame, Source, SourceHealth

Policy = Literal["latest", "all", "wait"]
"""What a full queue does with a new frame: `latest` (of size 1) and `all` drop the oldest one, `wait` blocks the
reader."""

_JOIN_SECONDS = 2.0  # a read that hangs (a pipe that nobody writes to) must not keep the program from ending


class FrameQueue:
    """A bounded queue between one thread that reads frames and one loop that polls or iterates.

    To wait for the first of several queues, share one `threading.Event`: set `notify = event.set` in each; then clear
    the event, poll each queue, and wait for the event only if none had a frame.

    Args:
        policy: What happens when frames come faster than they are taken.
        size: Frames that `all` and `wait` hold; `latest` holds one.
        notify: Called, in the reader's thread, when there is something new to poll. It must not block.
        health: Of the source, in which dropped frames are counted.

    Attributes:
        read_seconds: Seconds that reading the frame handed out last took; None where that isn't known, as of what a
            `LiveSource` reads.
    """

    def __init__(
        self,
        policy: Policy,
        size: int,
        notify: Callable[[], None] = lambda: None,
        *,
        health: SourceHealth | None = None,
    ) -> None:
        self.notify = notify
        self._health = SourceHealth() if health is None else health
        self.read_seconds: float | None = None
        self._policy: Policy = policy
        self._size = size
        self._frames: deque[tuple[Frame, float | None]] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._failure: BaseException | None = None
        self._reader: threading.Thread | None = None

    @classmethod
    def reading(cls, source: Source, notify: Callable[[], None], *, ahead: int = 2) -> FrameQueue:
        """A queue whose own thread reads every frame of `source`, at most `ahead` of them before they are polled.

        The thread closes the source in the end: closing a decoder that another thread is in would crash.
        """
        queue = cls("wait", ahead, notify, health=source.info.health)
        queue._reader = threading.Thread(
            target=queue._read, args=[source], name=f"read {source.info.name}", daemon=True
        )
        queue._reader.start()
        return queue

    @property
    def dropped(self) -> int:
        """Frames that were put and never handed out, as newer ones had come, or dropped after that."""
        return self._health.dropped

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
        """Change the policy, before the first frame is put."""
        with self._changed:
            self._policy, self._size = policy, size

    def put(self, frame: Frame, read_seconds: float | None = None) -> bool:
        """Add a frame; False if the queue has ended and reading on is pointless."""
        with self._changed:
            size = 1 if self._policy == "latest" else self._size
            while self._policy == "wait" and len(self._frames) >= size and not self._finished:
                self._changed.wait()
            if self._finished:
                return False
            while len(self._frames) >= size:
                self._frames.popleft()
                self._health.dropped += 1
            self._frames.append((frame, read_seconds))
            self._changed.notify_all()
        self.notify()
        return True

    def count_dropped(self) -> None:
        """Count a frame that was handed out, but then dropped."""
        with self._changed:
            self._health.dropped += 1

    def finish(self, failure: BaseException | None = None) -> None:
        """No more frames will be put; those put are still handed out, and `failure` is raised after them."""
        with self._changed:
            if not self._finished:
                self._finished, self._failure = True, failure
            self._changed.notify_all()
        self.notify()

    def close(self) -> None:
        """End at once: frames and errors not yet polled are dropped. May be called twice."""
        with self._changed:
            self._finished, self._failure = True, None
            self._frames.clear()
            self._changed.notify_all()
        self.notify()
        if self._reader is not None:
            self._reader.join(_JOIN_SECONDS)

    def poll(self) -> Frame | None:
        """The next frame, or None if there is none now. Raises, once, the error that the source ended on."""
        with self._changed:
            return self._next()

    def __iter__(self) -> Iterator[Frame]:
        """The frames, waiting for each. Raises the error that the source ended on."""
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
            frame, self.read_seconds = self._frames.popleft()
            self._changed.notify_all()
            return frame
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return None

    def _read(self, source: Source) -> None:
        failure: BaseException | None = None
        try:
            with contextlib.closing(source):
                frames = iter(source)
                while True:
                    began = time.perf_counter()
                    frame = next(frames, None)
                    if frame is None or not self.put(frame, time.perf_counter() - began):
                        break
        except BaseException as error:  # raised again by `poll`, in the loop's thread
            failure = error
        self.finish(failure)

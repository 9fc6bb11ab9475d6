"""A source that is read by its own thread, stays current, and reconnects when it is lost."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from sharpose.cli import FOREVER
from sharpose.errors import SharposeError, SourceError, counted
from sharpose.runtime.frames import Frame, Source, SourceHealth, SourceInfo
from sharpose.runtime.options import SourceOptions
from sharpose.runtime.sources.decoding import NO_ANSWER
from sharpose.runtime.sources.queue import FrameQueue
from sharpose.runtime.sources.urls import redact_text

_CLOSE_SECONDS = 1.0  # how long closing waits for the threads; one that hangs longer is left behind
_GRACE_SECONDS = 1.0  # FFmpeg notices silence itself; the watchdog is for what it doesn't notice
_MAX_HUNG = 3  # threads that hang in an abandoned attempt, before no further attempt is made
_MOST_LINES = 20  # about what was lost; a camera may come and go for days
_READ_AHEAD = 4  # frames that are read ahead of the loop where none may be lost


class LiveSource:
    """Reads another source in a thread, and reconnects when it is lost.

    Frames of a live source are handed out as `options.buffer` says. Their `time` includes the time that a reconnect
    took, and their `index` counts the frames that were read, so that dropped frames leave gaps. A source that isn't
    live (a file on a server, standard input) is only read a few frames ahead; nothing is dropped and its end is final.

    Args:
        name: What to call it, without secrets.
        factory: Opens the inner source; called again for each attempt, in a thread of its own.
        options: How to read.
        say: Called with one line when the source is lost, and when it is back.
        backoff: The waits between attempts.
        clock: Monotonic seconds.
        sleep: Waits between attempts; closing ends the default one early.

    Attributes:
        queue: Its frames, to be polled; iterating over the source takes them from there as well.

    Raises:
        SharposeError: the source isn't there at the start, unless `options.reconnect` asks to wait for it.
    """

    def __init__(
        self,
        name: str,
        factory: Callable[[], Source],
        options: SourceOptions | None = None,
        *,
        say: Callable[[str], None] = lambda line: None,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.info = SourceInfo(name, live=True, health=SourceHealth(connected=False))
        self._options = SourceOptions() if options is None else options
        self._factory = factory
        self._say = say
        self._backoff = Backoff() if backoff is None else backoff
        self._clock = clock
        self._closing = threading.Event()
        self._sleep = self._closing.wait if sleep is None else sleep
        self.queue = FrameQueue(self._options.buffer or "latest", self._options.queue_size, health=self.info.health)
        self._changed = threading.Condition()  # guards what follows
        self._connection: _Connection | None = None
        self._hung: list[_Connection] = []
        self._untold = {"warnings": 0, "failures": 0}  # lines beyond those
        self._ever_opened = False
        self._heard = 0.0  # when the attempt began, the source was open, or the last frame came
        self._progress = 0
        self._timeline = _Timeline()
        self._size: tuple[int, int] | None = None
        self._lost_at: float | None = None
        self._complete = False  # whether all of the duration that was asked for has come
        self._supervisor = threading.Thread(target=self._supervise, name=f"supervisor of {name}", daemon=True)
        self._supervisor.start()
        if self._options.reconnect in (None, 0):
            self._wait_until_open()

    def __iter__(self) -> Iterator[Frame]:
        """The frames, waiting for each. Raises `SharposeError`: what the source ended on."""
        return iter(self.queue)

    def close(self) -> None:
        """Let go of the source, within a second or so even if it hangs. May be called twice."""
        if self._closing.is_set():
            return
        until = time.monotonic() + _CLOSE_SECONDS
        with self._changed:
            self._closing.set()
            connection = self._connection  # which the supervisor lets go of
            self._changed.notify_all()
        self.queue.close()
        if connection is not None:
            connection.join(until - time.monotonic())
        self._supervisor.join(max(0.0, until - time.monotonic()))

    def _wait_until_open(self) -> None:
        with self._changed:
            while not (self._ever_opened or self.queue.finished):
                self._changed.wait(0.5)
        if not self._ever_opened:
            self._closing.set()
            if self.queue.poll() is None:  # it raises why
                raise SourceError(f"{self.info.name}: ended before it was open")

    def _supervise(self) -> None:
        failure: SharposeError | None = None
        again = True
        while again and not self._closing.is_set():
            with self._changed:
                self._heard = self._clock()
                connection = self._connection = _Connection(self, self._factory)
            hang = self._watch(connection)
            failure, again = self._after(connection, hang)
        self.info.health.connected = False
        self.queue.finish(None if self._closing.is_set() else failure)
        self._wake()

    def _watch(self, connection: _Connection) -> str | None:
        """Wait for the end of an attempt; where it hangs, the reason to abandon it."""
        with self._changed:
            while not (connection.ended or self._closing.is_set()):
                now = self._clock()
                patience = self._options.silence + _GRACE_SECONDS
                if connection.source is None:
                    patience += self._options.silence  # FFmpeg connects first, then looks at what comes
                until = self._heard + patience if self.info.live else None
                if until is not None and now >= until and not self._has_progressed(connection):
                    self._connection = None
                    self._hung.append(connection)
                    return NO_ANSWER if connection.source is None else self._silence()
                if self._is_past_duration(now):
                    return None
                self._changed.wait(0.5 if until is None else min(0.5, max(0.01, until - now)))
            return None

    def _has_progressed(self, connection: _Connection) -> bool:
        """Whether the inner source decoded anything since the last call, skipped frames included."""
        source = connection.source  # which its thread lets go of
        progress = 0 if source is None else source.info.progress
        progressed = progress not in (0, self._progress)
        self._progress = progress
        if progressed:
            self._heard = self._clock()
        return progressed

    def _after(self, connection: _Connection, hang: str | None) -> tuple[SharposeError | None, bool]:
        """After an attempt: the error to end the source on, if any; and whether, after a wait, to make another."""
        now = self._clock()
        limit = self._options.reconnect
        failure = connection.failure
        why = hang or connection.reason
        if why == NO_ANSWER and connection.frames:
            why = self._silence()
        if hang is not None:
            failure = SourceError(f"{self.info.name}: {why}; is it still there?")
        if self._closing.is_set() or self._is_past_duration(now):
            return None, False
        wanted = self.info.live and limit != 0 and (self._ever_opened or limit is not None)
        if not wanted or not isinstance(failure, SourceError | None):
            return failure, False
        self.info.health.connected = False
        self._backoff.delivered(self._heard - self._timeline.connected_at if connection.frames else 0.0)
        if limit is not None and limit != FOREVER and self._backoff.attempts >= limit:
            tries = counted(limit, "attempt")
            return SourceError(f"{self.info.name}: lost ({why}), and not back after {tries}"), False
        if self._lost_at is None:
            self._lost_at = now
            line = f"lost ({why}); reconnecting" if self._timeline.begun else f"not there yet ({why}); retrying"
            self._say(f"{self.info.name}: {line}")
        if connection.frames:
            gc.collect()  # decoders that an error's traceback still holds
        self._sleep(min(self._backoff.next_wait(), self._seconds_left(now)))
        while not self._closing.is_set():
            self._hung = [connection for connection in self._hung if not connection.ended]
            if len(self._hung) < _MAX_HUNG:
                break
            self._closing.wait(0.2)
        return None, True

    def _seconds_left(self, now: float) -> float:
        """Of the duration that was asked for."""
        if self._options.duration is None or not self._timeline.begun:
            return float("inf")
        return max(0.0, self._timeline.first_arrived + self._options.duration + _GRACE_SECONDS - now)

    def _is_past_duration(self, now: float) -> bool:
        return self._complete or (self.info.live and self._seconds_left(now) <= 0.0)

    def _silence(self) -> str:
        return f"no frame for {self._options.silence:g} s"

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # The rest is called in the connection's thread.

    def _opened(self, connection: _Connection, source: Source) -> bool:
        """Take note of an open source; False if nobody wants it any more."""
        with self._changed:
            if connection is not self._connection or self._closing.is_set():
                return False
            info = source.info
            if not info.live and self._ever_opened:
                raise SourceError(f"{self.info.name}: was a live stream and is now a file")
            self.info.live = info.live
            self.info.frame_rate = info.frame_rate or self.info.frame_rate
            if not info.live:
                self.info.frame_count, self.info.image_ids = info.frame_count, info.image_ids
                self.info.sound = info.sound
                self.queue.use("wait", _READ_AHEAD)
            self._heard = self._clock()
            self._ever_opened = True
            self._changed.notify_all()
        return True

    def _take(self, connection: _Connection, frame: Frame) -> bool:
        """Queue a frame; False if nobody wants more."""
        now = self._clock()
        line = None
        with self._changed:
            if connection is not self._connection or self._closing.is_set():
                return False
            if connection.frames == 1:
                line = self._note_first(frame, now)
            self._heard = now
            if self.info.live:
                frame = self._timeline.place(frame, now, new=connection.frames == 1)
                duration = self._options.duration
                if duration is not None and frame.time >= duration:
                    self._complete = True
                    self.queue.finish()
                    return False
        if line is not None:
            self._say(line)
        return self.queue.put(frame)

    def _ended(self, source: Source) -> None:
        """Keep what a connection lost, beside what those before it did; where there are many, how many more."""
        with self._changed:
            for kind in ("warnings", "failures"):
                lines: list[str] = getattr(self.info, kind)
                for line in getattr(source.info, kind):
                    if len(lines) < _MOST_LINES:
                        lines.append(line)
                        continue
                    self._untold[kind] += 1
                    more = f"{self.info.name}: {counted(self._untold[kind], 'line')} more like these"
                    lines[_MOST_LINES:] = [more]

    def _note_first(self, frame: Frame, now: float) -> str | None:
        """Take note of a connection's first frame; the line to say about it, if any."""
        size, before = (frame.width, frame.height), self._size
        line = None
        if self._timeline.begun:
            self.info.health.reconnects += 1
        if self._lost_at is not None:
            what = "reconnected" if self._timeline.begun else "connected"
            line = f"{self.info.name}: {what} after {now - self._lost_at:.1f} s"
            if before is not None and before != size:
                line += f", now {size[0]}x{size[1]} instead of {before[0]}x{before[1]}"
        self._lost_at = None
        self._size = size
        self.info.health.connected = True
        return line


class _Connection:
    """Opens a source and hands its frames to its `LiveSource`, in a daemon thread that starts at once.

    Attributes:
        source: The open source; None before and after that.
        frames: Frames that were read.
        failure: The error that it ended on, or None where the source simply ended.
        reason: Why it ended, without the source's name; complete when `ended`.
        ended: Whether the thread is done.
    """

    def __init__(self, owner: LiveSource, factory: Callable[[], Source]) -> None:
        self.source: Source | None = None
        self.frames = 0
        self.failure: SharposeError | None = None
        self.reason = "the stream ended"
        self.ended = False
        self._owner = owner
        self._factory = factory
        self._name = owner.info.name
        self._thread = threading.Thread(target=self._run, name=f"source {self._name}", daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for the end, but not longer than that."""
        self._thread.join(max(0.0, seconds))

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:  # a defect must not leave the loop waiting for ever
            text = f"{self._name}: unexpected {type(error).__name__}: {redact_text(str(error))}"
            self.failure = error if isinstance(error, SharposeError) else SourceError(text)
            self.reason = str(self.failure).removeprefix(f"{self._name}: ")
        finally:
            self.ended = True
            self.source = None  # decoders hold megabytes
            self._owner._wake()

    def _read(self) -> None:
        source = self._factory()
        self.source = source
        try:
            if not self._owner._opened(self, source):
                return
            frames = iter(source)
            try:
                for frame in frames:
                    self.frames += 1
                    if not self._owner._take(self, frame):
                        break
            finally:
                end = getattr(frames, "close", None)
                if end is not None:  # a generator notes its warnings when it is closed
                    end()
                self._owner._ended(source)
                self.reason = source.info.end_reason or self.reason
        finally:
            source.close()


class _Timeline:
    """Strings the frames of successive connections together.

    Attributes:
        begun: Whether there was a frame.
        first_arrived: When the very first frame came.
        connected_at: When the first frame of this connection came.
    """

    def __init__(self) -> None:
        self.begun = False
        self.first_arrived = 0.0
        self.connected_at = 0.0
        self._arrived = 0.0
        self._time = 0.0
        self._index = -1
        self._time_shift = 0.0
        self._index_shift = 0

    def place(self, frame: Frame, now: float, *, new: bool) -> Frame:
        """The frame with its index and time in the whole; `new`: it is the first of its connection."""
        arrived = now if frame.arrived is None else frame.arrived
        if new:
            self.connected_at = arrived
            self._index_shift = self._index + 1 - frame.index
            if self.begun:
                self._time_shift = self._time + max(0.0, arrived - self._arrived) - frame.time
            else:
                self.first_arrived = arrived
                self._index_shift = 0
        self.begun = True
        self._arrived = arrived
        self._time = max(self._time, frame.time + self._time_shift)
        self._index = frame.index + self._index_shift
        return replace(frame, index=self._index, image_id=self._index, time=self._time, arrived=arrived)


class Backoff:
    """Waits that double up to a cap, with jitter, so that a hundred clients don't return in the same instant.

    Args:
        first: Seconds of the first wait, before jitter.
        cap: Seconds of the longest one.
        healthy_after: Seconds of frames after which a connection was healthy, and waits start from `first` again.
        uniform: Draws from [0, 1); a wait is shortened by up to half by it.

    Attributes:
        attempts: Waits since the last healthy connection.
    """

    def __init__(
        self,
        first: float = 0.5,
        cap: float = 30.0,
        *,
        healthy_after: float = 5.0,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self.attempts = 0
        self._first = first
        self._cap = cap
        self._healthy_after = healthy_after
        self._uniform = uniform

    def delivered(self, seconds: float) -> None:
        """Note for how long the connection that was just lost had delivered frames."""
        if seconds >= self._healthy_after:
            self.attempts = 0

    def next_wait(self) -> float:
        """Seconds to wait before the next attempt, which it counts."""
        doubled = self._first * 2.0 ** min(self.attempts, 60)
        self.attempts += 1
        return min(self._cap, doubled) * (1.0 - 0.5 * self._uniform())

"""The loop behind `sharpose-run`: read, find boxes, estimate, write, until every source or the user ends it.

A round takes at most one frame of each stream that waits for no poses, so streams take turns, and delivers the poses
that have come: with engines of this process all of the round's, whose people share batches. A stream that fails ends
alone; so does a sink.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sharpose.errors import (
    BoxesError,
    SharposeError,
    SourceError,
)
from sharpose.runtime.boxes.sources import BoxSource, FileBoxes
from sharpose.runtime.estimator import Estimator
from sharpose.runtime.frames import Frame, FrameRecord, Sink, Source
from sharpose.runtime.inference import Inference
from sharpose.runtime.messages import StopRequest
from sharpose.runtime.result import Boxes, Image, Picture, PoseResult
from sharpose.runtime.sinks.group import SinkGroup, failure_of
from sharpose.runtime.sources.live import LiveSource
from sharpose.runtime.sources.queue import FrameQueue
from sharpose.runtime.statistics import StreamStatistics

_WAIT_SECONDS = 0.2  # between looks at a request to stop while no stream has a frame


class PoseStep(Protocol):
    """Something that is done with a frame's poses and remembers those before: tracking, smoothing."""

    def update(self, poses: PoseResult, time: float, frame_size: tuple[int, int] | None = None) -> PoseResult:
        """The poses to go on with.

        Args:
            poses: Of one frame.
            time: The frame's, in seconds, never decreasing.
            frame_size: Its `(height, width)`, which may change.
        """
        ...


@dataclass
class Stream:
    """A source and where its results go. Nothing in it is shared with another stream.

    Attributes:
        source: Frames; closed at the end, by the thread that reads it.
        boxes: Where their people are.
        sinks: Where results go; closed at the end.
        statistics: Counted into as the run goes.
        steps: What is done with the poses before they are written, in order.
        max_people: People per frame at most, those of the best box score; all if None.
        begun: Whether the loop has begun to read it; its source isn't closed by those who opened it, then.
    """

    source: Source
    boxes: BoxSource
    sinks: Sequence[Sink]
    statistics: StreamStatistics
    steps: Sequence[PoseStep] = ()
    max_people: int | None = None
    begun: bool = False


@dataclass(frozen=True)
class Playlist:
    """Streams of which only so many run at a time.

    Attributes:
        openers: Open the streams, in order, each when one before it has ended.
        at_once: How many run at a time.
    """

    openers: Sequence[Callable[[], Stream]]
    at_once: int = 1


@dataclass(frozen=True)
class Run:
    """What runs through what.

    Attributes:
        streams: Sources with their sinks.
        estimator: Warmed up; all streams share it.
        draw: Draws poses onto the picture that it is given, or onto a copy, and returns that; called where a sink asks.
        deadline: Seconds from when a frame is taken from the queue to its poses; None for no limit.
        say: Called with a line when a stream or a sink fails and others go on.
        playlists: Streams that wait for others to end. One that can't be opened is passed over, with a line, if it is
            its source's or boxes file's fault.
        reconnect: How often in a row a live stream may find the server of the model gone; no limit if None.
    """

    streams: Sequence[Stream]
    estimator: Estimator
    draw: Callable[[Image, PoseResult], Image]
    deadline: float | None = None
    say: Callable[[str], None] = lambda line: None
    playlists: Sequence[Playlist] = ()
    reconnect: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended that did not fail as a whole.

    Attributes:
        failures: What failed while others went on, a line each (said to `Run.say` as well, but for what sources say in
            `SourceInfo.failures`).
        complete: Names of the outputs that are whole.
        cut: Names of those that end where the user asked to stop.
        unopened: How many streams of playlists the user left no time for.
    """

    failures: list[str]
    complete: list[str]
    cut: list[str]
    unopened: int = 0


def run(job: Run, *, stop: StopRequest, on_frame: Callable[[int, Frame], None] = lambda stream, frame: None) -> Outcome:
    """Run all streams to their ends.

    Args:
        job: What to run.
        stop: The run ends after the frames at hand once this is true.
        on_frame: Called with every frame that is done and its stream's index.

    Raises:
        RunFailedError: the last stream to go failed after results had been written, or nothing can be written where
            its sink should.
        SharposeError: it failed before; nothing was written.
    """
    loop = Loop(job, stop)
    with contextlib.closing(loop.records()) as records:
        for stream, record in records:
            on_frame(stream, record.frame)
    return loop.outcome


@dataclass
class _Running:
    """A stream at work.

    `waiting`: for the poses of a frame; `ids_met`: its boxes file spoke of one; `cut`: the user ended it.
    """

    index: int
    stream: Stream
    queue: FrameQueue
    sinks: SinkGroup
    waiting: bool = False
    ids_met: bool = False
    cut: bool = False
    over: bool = False
    error: Exception | None = None


@dataclass
class _Work:
    """A frame of this round; `age`: seconds since it arrived, at the start of inference."""

    running: _Running
    frame: Frame
    people: Boxes
    began: float
    boxes_seconds: float
    age: float | None = None


@dataclass
class _Turn:
    """The streams of a playlist that wait, and the one after which it is the next one's turn."""

    unopened: deque[Callable[[], Stream]]
    running: _Running | None = None


class Loop:
    """The loop of a run, which hands out every record that its sinks were given.

    Args:
        job: What to run.
        stop: The run ends after the frames at hand once this is true.
    """

    def __init__(self, job: Run, stop: StopRequest) -> None:
        self._job, self._stop = job, stop
        self._news = threading.Event()  # a queue has a frame, or has ended, or poses have come
        self._inference: Inference[_Work] = job.estimator.inference(
            stop, landed=self._news.set, reconnect=job.reconnect
        )
        self._failures: list[str] = []
        self._running: list[_Running] = []
        self._unopened = [deque(playlist.openers) for playlist in job.playlists]
        self._turns = [
            _Turn(unopened)
            for unopened, playlist in zip(self._unopened, job.playlists, strict=True)
            for _ in range(playlist.at_once)
        ]

    def records(self) -> Generator[tuple[int, FrameRecord], None, None]:
        """Run all streams to their ends. Raises what `run` raises.

        Yields:
            The index of a record's stream, in the order in which they were opened, and the record.

        To be closed where it isn't read to its end.
        """
        try:
            for stream in self._job.streams:
                self._begin(stream)
            while not self._stop:
                self._open_next()
                if all(running.over for running in self._running):
                    break
                self._news.clear()
                work = self._take_all()
                self._ask(work)
                yield from self._delivered()
                for running in self._running:
                    if not running.over and running.queue.ended and not running.waiting:
                        self._finish(running)
                    self._check_sinks(running)
                if not work:
                    self._news.wait(_WAIT_SECONDS)
            yield from self._delivered(all_of_them=True)
            for running in self._running:
                running.cut = not running.over
                self._finish(running)
        except BaseException:  # the user won't wait for the frame at hand, or a stream failed as the only one
            for running in self._running:
                running.sinks.close_at_once()
            raise
        finally:
            self._inference.close()
            for running in self._running:
                self._leave(running)

    @property
    def outcome(self) -> Outcome:
        """How it went, once all records were read."""
        return Outcome(
            self._failures
            + [line for running in self._running for line in running.sinks.failures]
            + [line for running in self._running for line in running.stream.source.info.failures],
            [name for running in self._running if not running.cut for name in running.sinks.complete],
            [name for running in self._running if running.cut for name in running.sinks.complete],
            sum(map(len, self._unopened)),
        )

    def _begin(self, stream: Stream) -> _Running:
        sinks = SinkGroup(stream.sinks, self._job.say, written=stream.statistics.add, failed=self._news.set)
        running = _Running(len(self._running), stream, self._start_reading(stream), sinks)
        self._running.append(running)
        return running

    def _open_next(self) -> None:
        """Begin the next streams of the playlists."""
        for turn in self._turns:
            while turn.unopened and (turn.running is None or turn.running.over):
                try:
                    stream = turn.unopened.popleft()()
                except (SourceError, BoxesError) as error:
                    self._note(error)
                else:
                    turn.running = self._begin(stream)

    def _start_reading(self, stream: Stream) -> FrameQueue:
        stream.statistics.begin()
        if isinstance(stream.source, LiveSource):
            queue = stream.source.queue
            queue.notify = self._news.set
        else:
            queue = FrameQueue.reading(stream.source, self._news.set)
        stream.begun = True
        return queue

    def _take_all(self) -> list[_Work]:
        """A round: one frame of every stream that has one, and waits for none."""
        free = [running for running in self._running if not (running.over or running.waiting)]
        return [item for running in free if (item := self._take(running)) is not None]

    def _take(self, running: _Running) -> _Work | None:
        """The next frame of a stream with its people's boxes, if it has one now."""
        stream = running.stream
        try:
            frame = running.queue.poll()
            if frame is None:
                return None
            began = time.perf_counter()
            boxes = stream.boxes
            if isinstance(boxes, FileBoxes):
                frame = boxes.identified(frame)
            people = boxes.boxes_for(frame)
            if stream.max_people is not None:
                found, people = len(people), people.best(stream.max_people)
                if isinstance(boxes, FileBoxes):
                    boxes.leave_out(found - len(people), "after --max-people")
            if not isinstance(boxes, FileBoxes) or frame.image_id in boxes.file.image_ids:
                running.ids_met = True
        except Exception as error:
            self._fail(running, error)
            return None
        return _Work(running, frame, people, began, time.perf_counter() - began)

    def _ask(self, work: list[_Work]) -> None:
        """Ask for the poses of the frames at hand."""
        for item in work:
            running = item.running
            if item.frame.arrived is not None:
                item.age = time.monotonic() - item.frame.arrived
            try:
                picture = self._picture(item)
            except Exception as error:
                self._fail(running, error)
                continue
            running.waiting = True
            self._inference.ask(item, picture, live=running.stream.source.info.live, queue=running.queue)

    def _picture(self, item: _Work) -> Picture:
        limit = self._job.deadline
        return Picture(
            item.frame.image,
            item.people,
            stream=item.running.index,
            time=item.frame.time,
            deadline=None if limit is None else item.began + limit,
            sample_aspect_ratio=float(item.frame.sample_aspect_ratio),
        )

    def _delivered(self, *, all_of_them: bool = False) -> Iterator[tuple[int, FrameRecord]]:
        """Write the poses that have come; the index of each one's stream, and its record."""
        landed = self._inference.take(all_of_them=all_of_them)
        for item, answer in landed:
            item.running.waiting = False
            self._news.set()  # the stream's next frame may be there already
            if isinstance(answer, Exception) and not item.running.over:
                self._fail(item.running, answer)
        for item, answer in landed:
            if not item.running.over and isinstance(answer, PoseResult):
                record = self._deliver(item, answer)
                if record is not None:
                    yield item.running.index, record

    def _deliver(self, item: _Work, poses: PoseResult) -> FrameRecord | None:
        """Track and smooth a frame's poses, write them, and count the frame; None where that fails."""
        try:
            return self._write(item, poses)
        except Exception as error:
            self._fail(item.running, error)
            return None

    def _write(self, item: _Work, poses: PoseResult) -> FrameRecord:
        running, frame, stream = item.running, item.frame, item.running.stream
        has_poses = time.perf_counter()
        stream.boxes.observe(frame, poses)
        for step in stream.steps:
            poses = step.update(poses, frame.time, (frame.height, frame.width))
        is_tracked = time.perf_counter()
        stages = {"boxes": item.boxes_seconds, "track": is_tracked - has_poses}
        if running.queue.read_seconds is not None:
            stages["read"] = running.queue.read_seconds
        stages |= {name: getattr(poses.timings, name) for name in self._inference.stages}
        late = self._job.deadline is not None and has_poses - item.began > self._job.deadline
        record = FrameRecord(frame, poses, self._job.draw, stages, item.age, late)
        running.sinks.write(record)
        self._stop.closed = self._stop.closed or running.sinks.closed_by_user
        return record

    def _check_sinks(self, running: _Running) -> None:
        """End a stream whose sinks have failed since its last frame."""
        try:
            if not running.over:
                running.sinks.check()
        except Exception as error:
            self._fail(running, error)

    def _finish(self, running: _Running) -> None:
        """The end of a stream that came to its end, or that the user ended."""
        if running.over:
            return
        boxes = running.stream.boxes
        try:
            running.sinks.flush()
            frames = running.stream.statistics.frames
            if not (self._stop or frames):
                name = running.stream.source.info.name
                raise SourceError(f"{name}: ended without a frame; check --start and --duration, if they are given")
            checked = running.stream.source.info.image_ids is not None  # a part of a source may have none of its boxes
            if not (self._stop or running.ids_met or checked) and isinstance(boxes, FileBoxes) and boxes.file.image_ids:
                boxes.file.check_image_ids(range(frames))
                raise BoxesError(f"{boxes.file.path}: none of its image ids occurs in the source")
            running.sinks.close()
        except Exception as error:
            self._fail(running, error)
        self._leave(running)

    def _fail(self, running: _Running, error: Exception) -> None:
        """End one stream on an error."""
        running.sinks.abandon()  # writes what is left
        running.error = failure_of(error, running.sinks, running.stream.statistics.frames)
        self._leave(running)
        try:
            self._note(running.error)
        except SharposeError as failure:
            if failure is error:
                raise
            raise failure from error

    def _note(self, error: Exception) -> None:
        """Keep the error that a stream ended on; the last one's is raised where no stream ended well."""
        if not any(self._unopened) and all(running.error is not None for running in self._running):
            raise error
        self._failures.append(str(error))
        self._job.say(f"{error}; the other streams go on")

    def _leave(self, running: _Running) -> None:
        if running.over:
            return
        running.over = True
        running.stream.statistics.end(failed=running.error is not None)
        if isinstance(running.stream.source, LiveSource):
            running.stream.source.close()
        else:
            running.queue.close()  # its thread closes the source

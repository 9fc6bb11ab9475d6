"""The loop behind `sharpose-run`: read, find boxes, estimate, write, until every source or the user ends it.

A round takes at most one frame of each stream, so streams get their turn alike, and all people of a round share the
engines' batches. A stream that fails ends alone; so does a sink.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sharpose.cli import EXIT_FAILED, EXIT_USER
from sharpose.errors import BoxesError, EngineError, SharposeError, SinkError
from sharpose.runtime.boxes import BoxSource, FileBoxes
from sharpose.runtime.frames import Frame, FrameRecord, Image, Sink, Source
from sharpose.runtime.messages import StopRequest
from sharpose.runtime.pipeline import Picture, PoseEstimator
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.runtime.sources.live import LiveSource
from sharpose.runtime.sources.queue import FrameQueue
from sharpose.runtime.statistics import StreamStatistics

__all__ = ["Outcome", "PoseStep", "Run", "RunFailedError", "SinkGroup", "Stream", "failure_of", "run"]


class SinkGroup:
    """Sinks that share their records and nothing else.

    Args:
        sinks: The sinks; closed or abandoned by this group.
        say: Called with one line when a sink fails and others go on.

    Attributes:
        records: How many were written.
        kept: The partial files of sinks that failed or were abandoned.
        problems: What kept a partial file from being marked as one.
        failures: What was said of sinks that failed while others went on.
        complete: Names of the sinks that were closed well.
    """

    def __init__(self, sinks: Sequence[Sink], say: Callable[[str], None]) -> None:
        self.records = 0
        self.kept: list[Path] = []
        self.problems: list[str] = []
        self.failures: list[str] = []
        self.complete: list[str] = []
        self._open = list(sinks)
        self._say = say

    def write(self, record: FrameRecord) -> None:
        """Give a record to all sinks that are still open.

        Raises:
            SinkError: the last sink failed, or one can't write so much as its first record: the user's mistake, better
                said at once than after hours.
        """
        for sink in list(self._open):
            try:
                sink.write(record)
            except Exception as error:
                self._drop(sink, error, alone=len(self._open) == 1)
        self.records += 1

    def close(self) -> None:
        """Finish all files. Raises `SinkError` where a sink can't be closed and it was the only one."""
        alone = len(self._open) == 1
        for sink in list(self._open):
            try:
                sink.close()
            except Exception as error:
                self._drop(sink, error, alone=alone)
            else:
                self._open.remove(sink)
                self.complete.append(sink.name)

    @property
    def closed_by_user(self) -> bool:
        """Whether one of them is a window that the user has closed."""
        return any(getattr(sink, "closed_by_user", False) for sink in self._open)

    def abandon(self) -> None:
        """Close after a failure elsewhere; what was written is kept under names that say it is partial."""
        for sink in self._open:
            self._abandon(sink)
        self._open.clear()

    def close_at_once(self) -> None:
        """Close without a word: the user won't wait."""
        for sink in self._open:
            with contextlib.suppress(SinkError):
                sink.close()
        self._open.clear()

    def _drop(self, sink: Sink, error: Exception, *, alone: bool) -> None:
        self._open.remove(sink)
        wrote = self._abandon(sink)
        if alone or (self.records == 0 and wrote is None):
            if isinstance(error, SharposeError):
                raise error
            raise SinkError(f"{sink.name}: unexpected {type(error).__name__}: {error}") from error
        said = str(error) if isinstance(error, SharposeError) else f"{sink.name}: {type(error).__name__}: {error}"
        where = f"; what it had is kept in {wrote}" if wrote is not None else ""
        self.failures.append(f"{said}{where}")
        self._say(f"{said}{where}; the other outputs go on")

    def _abandon(self, sink: Sink) -> Path | None:
        try:
            path = sink.abandon()
        except SinkError as problem:
            self.problems.append(str(problem))
            return None
        if path is not None:
            self.kept.append(path)
        return path


class RunFailedError(SharposeError):
    """A run that ended on an error after results had been written; they are kept and named as partial."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


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
        source: Frames; closed at the end.
        boxes: Where their people are.
        sinks: Where results go; closed at the end.
        statistics: Counted into as the run goes.
        steps: What is done with the poses before they are written, in order.
        max_people: People per frame at most, those of the best box score; all if None.
    """

    source: Source
    boxes: BoxSource
    sinks: Sequence[Sink]
    statistics: StreamStatistics
    steps: Sequence[PoseStep] = ()
    max_people: int | None = None


def failure_of(error: Exception, sinks: SinkGroup, frames: int) -> Exception:
    """The error that a stream ends on, its sinks abandoned: it says what was kept under names that say it is partial.

    Args:
        error: What went wrong.
        sinks: The stream's, not yet closed.
        frames: How many were written.
    """
    sinks.abandon()
    if not sinks.kept and not sinks.problems:
        # A path where nothing can be written is the user's mistake.
        return RunFailedError(str(error), EXIT_USER) if isinstance(error, SinkError) else error
    # An engine that fails on the way is not the user's mistake.
    code = EXIT_FAILED if isinstance(error, EngineError) else getattr(error, "exit_code", EXIT_FAILED)
    said = str(error) if isinstance(error, SharposeError) else f"unexpected {type(error).__name__}: {error}"
    if sinks.kept:
        said += f"; the {frames} frames before it are kept in {', '.join(map(str, sinks.kept))}"
    return RunFailedError("; ".join([said, *sinks.problems]), code)


_WAIT_SECONDS = 0.2  # between looks at a request to stop while no stream has a frame


@dataclass(frozen=True)
class Run:
    """What runs through what.

    Attributes:
        streams: Sources with their sinks.
        estimator: Warmed up; all streams share it.
        draw: Makes the annotated picture, where a sink asks for one.
        deadline: Seconds from a frame's being taken up to its poses; None for as long as it takes.
        say: Called with a line when a stream or a sink fails and others go on.
    """

    streams: Sequence[Stream]
    estimator: PoseEstimator
    draw: Callable[[Image, PoseResult], Image]
    deadline: float | None = None
    say: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Outcome:
    """How a run ended that did not fail as a whole.

    Attributes:
        failures: What failed while others went on, a line each (said to `Run.say` as well).
        complete: Names of the outputs that are whole.
    """

    failures: list[str]
    complete: list[str]


def run(job: Run, *, stop: StopRequest, on_frame: Callable[[int, Frame], None] = lambda stream, frame: None) -> Outcome:
    """Run all streams to their ends.

    Args:
        job: What to run; statistics are counted into its streams.
        stop: The run ends after the frames at hand once this is true.
        on_frame: Told of every frame that is done, with its stream's place.

    Raises:
        RunFailedError: the last stream to go failed after results had been written, or nothing can be written where
            its sink should.
        SharposeError: it failed before; nothing was written.
    """
    return _Loop(job, stop, on_frame).run()


@dataclass
class _Lane:
    """A stream at work."""

    index: int
    stream: Stream
    queue: FrameQueue
    sinks: SinkGroup
    ids_met: bool = False
    over: bool = False
    error: Exception | None = None


@dataclass
class _Work:
    """A frame that was taken up in this round."""

    lane: _Lane
    frame: Frame
    people: Boxes
    began: float
    boxes_seconds: float
    age: float | None = None  # seconds since it arrived, at the start of inference


class _Loop:
    def __init__(self, job: Run, stop: StopRequest, on_frame: Callable[[int, Frame], None]) -> None:
        self._job, self._stop, self._on_frame = job, stop, on_frame
        self._news = threading.Event()
        self._failures: list[str] = []

    def run(self) -> Outcome:
        self._lanes = [
            _Lane(index, stream, self._start_reading(stream), SinkGroup(stream.sinks, self._job.say))
            for index, stream in enumerate(self._job.streams)
        ]
        try:
            while not self._stop and not all(lane.over for lane in self._lanes):
                self._news.clear()
                if not self._round():
                    self._news.wait(_WAIT_SECONDS)
            for lane in self._lanes:
                self._finish(lane)
        except BaseException:  # the user won't wait for the frame at hand, or a stream failed as the only one
            for lane in self._lanes:
                lane.sinks.close_at_once()
            raise
        finally:
            for lane in self._lanes:
                self._leave(lane)
        return Outcome(
            self._failures + [line for lane in self._lanes for line in lane.sinks.failures],
            [name for lane in self._lanes for name in lane.sinks.complete],
        )

    def _start_reading(self, stream: Stream) -> FrameQueue:
        stream.statistics.begin()
        if not isinstance(stream.source, LiveSource):
            return FrameQueue.reading(stream.source, self._news.set)
        stream.source.queue.notify = self._news.set
        return stream.source.queue

    def _round(self) -> bool:
        """One frame of every stream that has one; whether anything happened."""
        work = [item for lane in self._lanes if not lane.over and (item := self._take(lane)) is not None]
        for item, poses in self._estimate(work):
            try:
                self._deliver(item, poses)
            except Exception as error:
                self._fail(item.lane, error)
        for lane in self._lanes:
            if not lane.over and lane.queue.ended:
                self._finish(lane)
        return bool(work)

    def _take(self, lane: _Lane) -> _Work | None:
        try:
            frame = lane.queue.poll()
            if frame is None:
                return None
            began = time.perf_counter()
            boxes = lane.stream.boxes
            people = boxes.boxes_for(frame)
            if lane.stream.max_people is not None:
                people = people.best(lane.stream.max_people)
            lane.ids_met = lane.ids_met or not isinstance(boxes, FileBoxes) or frame.image_id in boxes.file.image_ids
        except Exception as error:
            self._fail(lane, error)
            return None
        return _Work(lane, frame, people, began, time.perf_counter() - began)

    def _estimate(self, work: list[_Work]) -> list[tuple[_Work, PoseResult]]:
        """Poses of all frames at hand in shared batches; where that fails, of each alone, to see whose fault it is."""
        if not work:
            return []
        for item in work:
            if item.frame.arrived is not None:
                item.age = time.monotonic() - item.frame.arrived
        try:
            return list(zip(work, self._job.estimator.estimate([self._picture(i) for i in work]), strict=True))
        except Exception as error:
            if len(work) == 1:
                self._fail(work[0].lane, error)
                return []
        return [pair for item in work for pair in self._estimate([item])]

    def _picture(self, item: _Work) -> Picture:
        deadline = None if self._job.deadline is None else item.began + self._job.deadline
        return Picture(item.frame.image, item.people, stream=item.lane.index, time=item.frame.time, deadline=deadline)

    def _deliver(self, item: _Work, poses: PoseResult) -> None:
        lane, frame = item.lane, item.frame
        stream = lane.stream
        has_poses = time.perf_counter()
        stream.boxes.observe(frame, poses)
        for step in stream.steps:
            poses = step.update(poses, frame.time, (frame.height, frame.width))
        is_tracked = time.perf_counter()
        stages = {"read": lane.queue.read_seconds, "boxes": item.boxes_seconds, **vars(poses.timings)}
        stages["track"] = is_tracked - has_poses
        record = FrameRecord(frame, poses, self._job.draw, stages, item.age)
        lane.sinks.write(record)
        late = self._job.deadline is not None and has_poses - item.began > self._job.deadline
        stream.statistics.add(record, write_seconds=time.perf_counter() - is_tracked, late=late)
        self._on_frame(lane.index, frame)
        self._stop.closed = self._stop.closed or lane.sinks.closed_by_user

    def _finish(self, lane: _Lane) -> None:
        """The end of a stream that came to its end, or that the user ended."""
        if lane.over:
            return
        try:
            if not self._stop:
                _check_ids(lane)
            lane.sinks.close()
        except Exception as error:
            self._fail(lane, error)
        self._leave(lane)

    def _fail(self, lane: _Lane, error: Exception) -> None:
        """End one stream on an error; the last one's is raised where no stream ended well."""
        lane.error = failure_of(error, lane.sinks, lane.stream.statistics.frames)
        self._leave(lane)
        if all(other.error is not None for other in self._lanes):
            if lane.error is error:
                raise error
            raise lane.error from error
        self._failures.append(str(lane.error))
        self._job.say(f"{lane.error}; the other streams go on")

    def _leave(self, lane: _Lane) -> None:
        if not lane.over:
            lane.over = True
            lane.stream.statistics.end(failed=lane.error is not None)
            if isinstance(lane.stream.source, LiveSource):
                lane.stream.source.close()
            else:
                lane.queue.close()  # its thread closes the source


def _check_ids(lane: _Lane) -> None:
    """Refuse a boxes file none of whose image ids came."""
    boxes = lane.stream.boxes
    if not lane.ids_met and isinstance(boxes, FileBoxes) and boxes.file.image_ids:
        boxes.file.check_image_ids(frozenset(range(lane.stream.statistics.frames)))
        raise BoxesError(f"{boxes.file.path}: none of its image ids occurs in the source")

"""The loop behind `sharpose-run`: read, find boxes, estimate, write, until the source or the user ends it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharpose.command import EXIT_FAILED, EXIT_USER
from sharpose.errors import BoxesError, EngineError, SharposeError, SinkError
from sharpose.runtime.box_sources import BoxSource, FileBoxes
from sharpose.runtime.frames import Frame, FrameRecord, Image, Sink, Source
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.runtime.result import PoseResult
from sharpose.runtime.statistics import RunStatistics
from sharpose.runtime.stopping import StopRequest

__all__ = ["Run", "RunFailedError", "run"]


class RunFailedError(SharposeError):
    """A run that ended on an error after results had been written; they are kept and named as partial."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Run:
    """What runs through what.

    Attributes:
        source: Frames; closed at the end.
        boxes: Where their people are.
        estimator: Warmed up.
        sinks: Where results go; closed at the end.
        draw: Makes the annotated picture, where a sink asks for one.
        max_people: Only so many people a frame, those of the best box score; all if None.
    """

    source: Source
    boxes: BoxSource
    estimator: PoseEstimator
    sinks: Sequence[Sink]
    draw: Callable[[Image, PoseResult], Image]
    max_people: int | None = None


def run(
    job: Run,
    statistics: RunStatistics,
    *,
    stop: StopRequest,
    on_frame: Callable[[Frame], None] = lambda frame: None,
) -> None:
    """Run a source through an estimator into sinks.

    Args:
        job: What to run.
        statistics: Counted into as the run goes.
        stop: The run ends after the frame at hand once this is true.
        on_frame: Told of every frame that is done.

    Raises:
        RunFailedError: something failed after results had been written, or nothing can be written where a sink should.
        SharposeError: something failed before; nothing was written.
    """
    started = time.perf_counter()
    try:
        _loop(job, statistics, stop, on_frame)
        for sink in job.sinks:
            sink.close()
    except Exception as error:
        failure = _failure(error, job.sinks, statistics.frames)
        if failure is error:
            raise
        raise failure from error
    except BaseException:  # the user won't wait for the frame at hand
        for sink in job.sinks:
            with contextlib.suppress(SinkError):
                sink.close()
        raise
    finally:
        statistics.seconds = time.perf_counter() - started
        job.source.close()


def _loop(job: Run, statistics: RunStatistics, stop: StopRequest, on_frame: Callable[[Frame], None]) -> None:
    boxes = job.boxes
    ids_met = False
    frames = iter(job.source)
    while not stop:
        began = time.perf_counter()
        frame = next(frames, None)
        if frame is None:
            break
        was_read = time.perf_counter()
        people = boxes.boxes_for(frame)
        if job.max_people is not None:
            people = people.best(job.max_people)
        ids_met = ids_met or not isinstance(boxes, FileBoxes) or frame.image_id in boxes.file.image_ids
        has_boxes = time.perf_counter()
        poses = job.estimator(frame.image, people)
        has_poses = time.perf_counter()
        record = FrameRecord(frame, poses, job.draw)
        for sink in job.sinks:
            sink.write(record)
        statistics.add(poses, read=was_read - began, boxes=has_boxes - was_read, write=time.perf_counter() - has_poses)
        on_frame(frame)
    if not ids_met and not stop and isinstance(boxes, FileBoxes) and boxes.file.image_ids:
        boxes.file.check_image_ids(frozenset(range(statistics.frames)))
        raise BoxesError(f"{boxes.file.path}: none of its image ids occurs in the source")


def _failure(error: Exception, sinks: Sequence[Sink], frames: int) -> Exception:
    """The error to end on, after what was written has been kept under names that say it is partial."""
    kept: list[Path] = []
    problems: list[str] = []
    for sink in sinks:
        try:
            path = sink.abandon()
        except SinkError as problem:
            problems.append(str(problem))
            continue
        if path is not None:
            kept.append(path)
    if not kept and not problems:
        # A path where nothing can be written is the user's mistake.
        return RunFailedError(str(error), EXIT_USER) if isinstance(error, SinkError) else error
    # An engine that fails on the way is not the user's mistake.
    code = EXIT_FAILED if isinstance(error, EngineError) else getattr(error, "exit_code", EXIT_FAILED)
    said = str(error) if isinstance(error, SharposeError) else f"unexpected {type(error).__name__}: {error}"
    if kept:
        said += f"; the {frames} frames before it are kept in {', '.join(map(str, kept))}"
    return RunFailedError("; ".join([said, *problems]), code)

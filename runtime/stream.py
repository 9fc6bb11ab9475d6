"""One source on its way through a run, with all that is its own: boxes, tracks, sinks, counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sharpose.command import EXIT_FAILED, EXIT_USER
from sharpose.errors import EngineError, SharposeError, SinkError
from sharpose.runtime.box_sources import BoxSource
from sharpose.runtime.frames import Sink, Source
from sharpose.runtime.result import PoseResult
from sharpose.runtime.sink_group import SinkGroup
from sharpose.runtime.statistics import RunStatistics

__all__ = ["PoseStep", "RunFailedError", "Stream", "failure_of"]


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
        steps: What is done with the poses before they are written, in order.
        max_people: Only so many people a frame, those of the best box score; all if None.
        statistics: Counted into as the run goes.
    """

    source: Source
    boxes: BoxSource
    sinks: Sequence[Sink]
    steps: Sequence[PoseStep] = ()
    max_people: int | None = None
    statistics: RunStatistics = field(default_factory=RunStatistics)


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

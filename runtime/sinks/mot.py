"""Boxes and ids as MOTChallenge text, which tracker evaluations read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from sharpose.errors import InputError, SinkError
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.sinks.lines import LineSink
from sharpose.runtime.sinks.people import people_of

__all__ = ["MotSink"]


class MotSink(LineSink):
    """Writes `frame,id,left,top,width,height,score,-1,-1,-1`.

    As the challenge has it, frames, ids and pixels count from 1: the picture's top left pixel is 1, 1. People whose
    track is not yet sure have no line.

    Args:
        path: The file, or a pipe. Without a record it is never made.
        tracked: Whether people have ids.
        clock: Seconds; a file that was removed is noticed within one.

    Raises:
        InputError: they have none.
    """

    def __init__(self, path: str | Path, *, tracked: bool, clock: Callable[[], float] = time.monotonic) -> None:
        if not tracked:
            raise InputError(
                f"{path}: MOT text says who is who from frame to frame, and nobody is tracked; add --track"
            )
        super().__init__(path, clock=clock)

    def write(self, record: FrameRecord) -> None:
        """Adds the frame's lines. Raises `SinkError` where they can't be written or the people have no ids."""
        if record.poses.track_ids is None:
            raise SinkError(f"{self.path}: frame {record.frame.index}: expected people with ids, got none")
        super().write(record)

    def lines(self, record: FrameRecord) -> bytes:
        """A line a person."""
        rows = [
            (record.frame.index + 1, person.track_id, *_from_one(person.bbox), person.score, -1, -1, -1)
            for person in people_of(record)
            if person.track_id
        ]
        return "".join(",".join(map(str, row)) + "\n" for row in rows).encode()


def _from_one(bbox: list[float]) -> list[float]:
    left, top, width, height = bbox
    return [round(left + 1, 3), round(top + 1, 3), width, height]

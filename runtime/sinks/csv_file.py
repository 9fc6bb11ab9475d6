"""Poses as CSV: one row a person and frame."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path

from sharpose.errors import SinkError
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.sinks.lines import LineSink
from sharpose.runtime.sinks.people import people_of
from sharpose.skeleton import Skeleton

__all__ = ["CsvSink"]

_COLUMNS = ("frame", "time", "id", "x1", "y1", "x2", "y2", "score", "quality", "refined")


class CsvSink(LineSink):
    """Writes `frame,time,id,x1,y1,x2,y2,score,quality,refined`, then `NAME_x,NAME_y,NAME_score` for each keypoint.

    By RFC 4180: a header, lines that end in CR LF. `frame` counts from 0; `id` is empty without tracking and while a
    track is not yet sure; `refined` is `true` or `false`. A frame without people has no row.

    Args:
        path: The file, or a pipe. Without a record it is never made.
        skeleton: Names the keypoints.
        clock: Seconds; a file that was removed is noticed within one.
    """

    def __init__(self, path: str | Path, *, skeleton: Skeleton, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(path, clock=clock)
        self._skeleton = skeleton

    def header(self) -> bytes:
        """The names of the columns."""
        keypoints = [f"{name}_{what}" for name in self._skeleton.keypoints for what in ("x", "y", "score")]
        return _rows([[*_COLUMNS, *keypoints]])

    def lines(self, record: FrameRecord) -> bytes:
        """A row a person. Raises `SinkError` where the poses aren't of the skeleton."""
        found = record.poses.keypoints.shape[1]
        if found != self._skeleton.num_keypoints:
            raise SinkError(
                f"{self.path}: expected the {self._skeleton.num_keypoints} keypoints of {self._skeleton.name}, "
                f"got {found}"
            )
        return _rows(
            [
                record.frame.index,
                round(record.frame.time, 6),
                person.track_id or None,
                *person.xyxy,
                person.score,
                person.quality,
                "true" if person.refined else "false",
                *[number for point in person.keypoints for number in point],
            ]
            for person in people_of(record)
        )


def _rows(rows: object) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)  # type: ignore[arg-type]
    return text.getvalue().encode()

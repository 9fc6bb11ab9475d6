"""Poses as lines of text: JSON Lines, CSV and MOTChallenge."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path

from sharpose.errors import InputError, SinkError
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.sinks.base import LineSink, Person, people_of, strict_json
from sharpose.skeleton import Skeleton

__all__ = ["CsvSink", "JsonLinesSink", "MotSink"]


class JsonLinesSink(LineSink):
    """Writes `{"frame", "time", "width", "height", "people": [{"bbox", "score", "keypoints", "quality", "refined"}]}`.

    With tracking a person begins with `"id"` (null while the track is not yet sure); with a deadline it ends with
    `"wanted"`: the gate wanted it refined, whether or not there was time.
    """

    def lines(self, record: FrameRecord) -> bytes:
        """One line."""
        frame = record.frame
        line = {
            "frame": frame.index,
            "time": round(frame.time, 6),
            "width": frame.width,
            "height": frame.height,
            "people": [_entry(person) for person in people_of(record)],
        }
        return strict_json(line, record) + b"\n"


def _entry(person: Person) -> dict[str, object]:
    entry: dict[str, object] = {} if person.track_id is None else {"id": person.track_id or None}
    entry |= {
        "bbox": person.bbox,
        "score": person.score,
        "keypoints": person.keypoints,
        "quality": person.quality,
        "refined": person.refined,
    }
    return entry if person.wanted is None else entry | {"wanted": person.wanted}


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

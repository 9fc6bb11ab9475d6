"""Poses as lines of text: JSON Lines, CSV, joint angles and MOTChallenge."""

from __future__ import annotations

import csv
import io
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from sharpose.angles import Facing, angles_of, joint_angles
from sharpose.errors import InputError, SinkError
from sharpose.files import GrowingFile
from sharpose.runtime.biomechanics.facing import FeetSeen
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.sinks.people import people_of, strict_json, table_columns
from sharpose.skeleton import Skeleton


class LineSink(ABC):
    """A text file that gets all lines of a frame in one write, so that a killed run keeps every frame before.

    Args:
        path: The file, or a pipe; created at the first record. The text `-` is standard output.
        clock: Monotonic seconds; a removed file is noticed within one.
    """

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = GrowingFile(path, clock=clock)
        self.path = self._file.path
        self.name = str(self.path)
        self._begun = False

    def write(self, record: FrameRecord) -> None:
        """Adds the frame's lines. Raises `SinkError` where they can't be written or a number is not finite."""
        text = self.lines(record)
        if not self._begun:
            text = self.header(record) + text
        if text or not self._begun:
            self._file.append(text)
        self._begun = True

    def close(self) -> None:
        """Closes the file. May be called twice."""
        self._file.close()

    def abandon(self) -> Path | None:
        """Closes the file of a failed run and marks it as partial; its new path, or None where nothing was written."""
        return self._file.abandon()

    def header(self, record: FrameRecord) -> bytes:
        """What stands before the first line, which is of `record`."""
        return b""

    @abstractmethod
    def lines(self, record: FrameRecord) -> bytes:
        """The lines of one frame, each with its end."""


class JsonLinesSink(LineSink):
    """Writes `{"frame", "time", "width", "height", "people": [{"bbox", "score", "keypoints", "quality", "refined"}]}`.

    A picture file has its `"file_name"` after `"frame"`, and `"time"` null unless it is an animation alone.
    With tracking a person begins with `"id"` (null while the track is tentative); with a deadline it ends with
    `"wanted"`: whether the gate asked for refinement, even if there was no time. A frame decoded from damaged data has
    `"damaged": true` before its people.
    """

    def lines(self, record: FrameRecord) -> bytes:
        """One line."""
        frame = record.frame
        line = {
            "frame": frame.index,
            **({} if frame.file_name is None else {"file_name": frame.file_name}),
            "time": round(frame.time, 6) if frame.timed else None,
            "width": frame.width,
            "height": frame.height,
            **({"damaged": True} if frame.damaged else {}),
            "people": [person.to_dict() for person in people_of(record)],
        }
        return strict_json(line, record) + b"\n"


class CsvSink(LineSink):
    """Writes `frame,time,id,x1,y1,x2,y2,score,quality,refined`, then `NAME_x,NAME_y,NAME_score` for each keypoint.

    By RFC 4180: a header, lines that end in CR LF. `frame` counts from 0; `id` is empty without tracking and while a
    track is tentative; `refined` is `true` or `false`. A frame without people has no row. With picture files,
    `file_name` follows `frame`, and `time` is empty unless the source is an animation alone.

    Args:
        path: See `LineSink`.
        skeleton: Names the keypoints.
        clock: See `LineSink`.
    """

    def __init__(self, path: str | Path, *, skeleton: Skeleton, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(path, clock=clock)
        self._skeleton = skeleton

    def header(self, record: FrameRecord) -> bytes:
        """The names of the columns."""
        return csv_rows([[*_frame_columns(record), *table_columns(self._skeleton)]])

    def lines(self, record: FrameRecord) -> bytes:
        """One row per person. Raises `SinkError` where the poses aren't of the skeleton."""
        _check_keypoints(self.path, record, self._skeleton)
        return csv_rows(
            [
                *_frame_values(record),
                person.track_id or None,
                *person.xyxy,
                person.score,
                person.quality,
                "true" if person.refined else "false",
                *[number for point in person.keypoints for number in point],
            ]
            for person in people_of(record)
        )


class AnglesSink(LineSink):
    """Writes `frame,time,id,person`, then a column for each joint angle of `sharpose.angles.ANGLES`, in degrees.

    As `CsvSink` writes it. `person` counts the people of the frame from 0, in the order of the other results. Angles
    have 2 decimals, and are empty where a keypoint scores too low.

    Args:
        path: See `LineSink`.
        skeleton: Names the keypoints.
        keypoint_threshold: Lowest score of a keypoint that is used.
        facing: Where people face; see `sharpose.angles.facing_of`.
        say: Called with a line about what is missing.
        clock: See `LineSink`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        skeleton: Skeleton,
        keypoint_threshold: float = 0.3,
        facing: Facing = "auto",
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(path, clock=clock)
        self._skeleton, self._threshold, self._facing = skeleton, keypoint_threshold, facing
        self._feet, self._say, self._closed = FeetSeen(skeleton, facing), say, False

    def header(self, record: FrameRecord) -> bytes:
        """The names of the columns."""
        return csv_rows([[*_frame_columns(record), "id", "person", *angles_of(self._skeleton)]])

    def lines(self, record: FrameRecord) -> bytes:
        """One row per person. Raises `SinkError` where the poses aren't of the skeleton."""
        _check_keypoints(self.path, record, self._skeleton)
        ratio = float(record.frame.sample_aspect_ratio)
        angles = joint_angles(record.poses.keypoints, self._skeleton, self._threshold, ratio, self._facing)
        self._feet.add(angles)
        return csv_rows(
            [
                *_frame_values(record),
                person.track_id or None,
                index,
                *[None if np.isnan(angle[index]) else round(float(angle[index]), 2) + 0.0 for angle in angles.values()],
            ]
            for index, person in enumerate(people_of(record))
        )

    def close(self) -> None:
        """Closes the file, and says where no flexion could be told. May be called twice."""
        super().close()
        if not self._closed and (line := self._feet.warning(self.name)) is not None:
            self._say(line)
        self._closed = True


def _frame_columns(record: FrameRecord) -> list[str]:
    return ["frame", *([] if record.frame.file_name is None else ["file_name"]), "time"]


def _frame_values(record: FrameRecord) -> list[int | str | float | None]:
    frame = record.frame
    file_name = [] if frame.file_name is None else [frame.file_name]
    return [frame.index, *file_name, round(frame.time, 6) if frame.timed else None]


def _check_keypoints(path: Path, record: FrameRecord, skeleton: Skeleton) -> None:
    found = record.poses.keypoints.shape[1]
    if found != skeleton.num_keypoints:
        raise SinkError(f"{path}: expected the {skeleton.num_keypoints} keypoints of {skeleton.name}, got {found}")


def csv_rows(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows by RFC 4180; None is empty."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")  # the bytes of a file name


class MotSink(LineSink):
    """Writes `frame,id,left,top,width,height,score,-1,-1,-1`.

    As in the challenge, frames, ids and pixels count from 1: the picture's top left pixel is 1, 1. People whose track
    is tentative have no line.

    Args:
        path: See `LineSink`.
        tracked: Whether people have ids.
        clock: See `LineSink`.

    Raises:
        InputError: they have none.
    """

    def __init__(self, path: str | Path, *, tracked: bool, clock: Callable[[], float] = time.monotonic) -> None:
        if not tracked:
            raise InputError(f"{path}: MOT text needs track ids; add --track")
        super().__init__(path, clock=clock)

    def write(self, record: FrameRecord) -> None:
        """Adds the frame's lines. Raises `SinkError` where they can't be written or people have no ids."""
        if record.poses.track_ids is None:
            raise SinkError(f"{self.path}: frame {record.frame.index}: expected people with ids, got none")
        super().write(record)

    def lines(self, record: FrameRecord) -> bytes:
        """One line per person."""
        text = ""
        for person in people_of(record):
            if person.track_id:
                left, top, width, height = person.bbox
                box = round(left + 1, 3), round(top + 1, 3), width, height
                row = (record.frame.index + 1, person.track_id, *box, person.score, -1, -1, -1)
                text += ",".join(map(str, row)) + "\n"
        return text.encode()

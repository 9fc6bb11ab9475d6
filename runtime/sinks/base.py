"""What sinks of text have in common: a frame's poses as plain numbers, and files of lines."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sharpose.errors import SinkError
from sharpose.files import GrowingFile
from sharpose.runtime.frames import FrameRecord

__all__ = ["LineSink", "Person", "people_of", "strict_json"]

_PIXEL_DECIMALS = 3
_SCORE_DECIMALS = 5


@dataclass(frozen=True)
class Person:
    """One person of a frame.

    Attributes:
        xyxy: Left, top, right, bottom in picture pixels.
        bbox: Left, top, width, height in picture pixels.
        score: The box's score times the mean of the keypoint scores that count.
        keypoints: `[x, y, score]` for each keypoint.
        quality: Predicted quality of the coarse pose.
        refined: Whether the fine stage looked again.
        wanted: Whether the gate wanted it to; None without a deadline.
        track_id: Who it is from frame to frame, from 1 up; 0 while the track is not yet sure; None without tracking.
    """

    xyxy: list[float]
    bbox: list[float]
    score: float
    keypoints: list[list[float]]
    quality: float
    refined: bool
    wanted: bool | None = None
    track_id: int | None = None


def people_of(record: FrameRecord) -> list[Person]:
    """The people of a record, in its order.

    Raises:
        SinkError: a number in it is not finite; no format has a word for that.
    """
    poses = record.poses
    arrays = (poses.keypoints, poses.quality, poses.scores)
    if not all(np.isfinite(array).all() for array in arrays):
        raise _not_finite(record)
    keypoints = np.concatenate(
        [_rounded(poses.keypoints[:, :, :2], _PIXEL_DECIMALS), _rounded(poses.keypoints[:, :, 2:], _SCORE_DECIMALS)],
        axis=2,
    )
    nothing = [None] * len(poses)
    return [
        Person(xyxy, bbox, score, points, quality, refined, wanted, track_id)
        for xyxy, bbox, score, points, quality, refined, wanted, track_id in zip(
            _rounded(poses.boxes.xyxy, _PIXEL_DECIMALS).tolist(),
            _rounded(poses.boxes.xywh, _PIXEL_DECIMALS).tolist(),
            _rounded(poses.scores, _SCORE_DECIMALS).tolist(),
            keypoints.tolist(),
            _rounded(poses.quality, _SCORE_DECIMALS).tolist(),
            poses.refined.tolist(),
            nothing if poses.wanted is None else poses.wanted.tolist(),
            nothing if poses.track_ids is None else poses.track_ids.tolist(),
            strict=True,
        )
    ]


def strict_json(value: object, record: FrameRecord) -> bytes:
    """`value` as one line of JSON as the standard has it.

    Raises:
        SinkError: a number in it is not finite; JSON has no word for that.
    """
    try:
        return json.dumps(value, allow_nan=False, separators=(", ", ": ")).encode()
    except ValueError:
        raise _not_finite(record) from None


def _not_finite(record: FrameRecord) -> SinkError:
    return SinkError(
        f"frame {record.frame.index}: expected finite numbers in its poses, found NaN or infinity; not written"
    )


def _rounded(array: npt.NDArray[np.float32], decimals: int) -> npt.NDArray[np.float64]:
    # In float64: a rounded float32 prints with its own error again. Adding 0 turns -0.0 into 0.0.
    return np.asarray(np.round(array.astype(np.float64), decimals) + 0.0, np.float64)


class LineSink(ABC):
    """A file that gets the lines of a frame in one write, so that a kill loses none that was written before.

    Args:
        path: The file, or a pipe. Without a record it is never made.
        clock: Seconds; a file that was removed is noticed within one.
    """

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = Path(path)
        self.name = str(self.path)
        self._file = GrowingFile(self.path, clock=clock)
        self._begun = False

    def write(self, record: FrameRecord) -> None:
        """Adds the frame's lines. Raises `SinkError` where they can't be written or a number is not finite."""
        text = self.lines(record)
        if not self._begun:
            text = self.header() + text
        if text or not self._begun:
            self._file.append(text)
        self._begun = True

    def close(self) -> None:
        """Closes the file. May be called twice."""
        self._file.close()

    def abandon(self) -> Path | None:
        """Closes the file of a failed run and marks it as partial; its new path, or None where nothing was written."""
        return self._file.abandon()

    def header(self) -> bytes:
        """What stands before the first line."""
        return b""

    @abstractmethod
    def lines(self, record: FrameRecord) -> bytes:
        """The lines of one frame, each with its end."""

"""Poses as JSON Lines: one line a frame, there as soon as the frame is done."""

from __future__ import annotations

import contextlib
from pathlib import Path

from sharpose.errors import SinkError
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.sinks.growing import GrowingFile
from sharpose.runtime.sinks.partial import mark_partial
from sharpose.runtime.sinks.people import people_of, strict_json

__all__ = ["JsonLinesSink"]


class JsonLinesSink:
    """Writes `{"frame", "time", "width", "height", "people": [{"bbox", "score", "keypoints", "quality", "refined"}]}`.

    Args:
        path: The file, or a pipe. Without a record it is never made.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(self.path)
        self._file = GrowingFile(self.path)

    def write(self, record: FrameRecord) -> None:
        """Adds a line. Raises `SinkError` where it can't be written or a number in it is not finite."""
        frame = record.frame
        line = {
            "frame": frame.index,
            "time": round(frame.time, 6),
            "width": frame.width,
            "height": frame.height,
            "people": [
                {
                    "bbox": person.bbox,
                    "score": person.score,
                    "keypoints": person.keypoints,
                    "quality": person.quality,
                    "refined": person.refined,
                }
                for person in people_of(record)
            ],
        }
        self._file.append(strict_json(line, record) + b"\n")

    def close(self) -> None:
        """Closes the file. May be called twice."""
        self._file.close()

    def abandon(self) -> Path | None:
        """Closes the file of a failed run and marks it as partial; its new path, or None where nothing was written."""
        with contextlib.suppress(SinkError):  # what led here was reported
            self._file.close()
        return mark_partial(self.path) if self._file.made else None

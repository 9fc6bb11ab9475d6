"""Poses as COCO keypoint results, as `pycocotools` loads them."""

from __future__ import annotations

from pathlib import Path

from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.sinks.people import people_of, strict_json
from sharpose.runtime.sinks.twin_file import TwinFile

__all__ = ["CocoSink"]

_PERSON = 1  # COCO's category


class CocoSink:
    """Writes `[{"image_id", "category_id", "keypoints", "score", "bbox"}, …]`, a whole array at every moment.

    People with an id have it as `"track_id"`.

    Args:
        path: The file. A run without people leaves an empty array.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(self.path)
        self._file = TwinFile(self.path, tail=b"\n]\n")
        self._closed = False

    def write(self, record: FrameRecord) -> None:
        """Adds one entry a person. Raises `SinkError` where they can't be written or a number is not finite."""
        entries = [
            {
                "image_id": record.frame.image_id,
                "category_id": _PERSON,
                "keypoints": [number for point in person.keypoints for number in point],
                "score": person.score,
                "bbox": person.bbox,
            }
            | ({"track_id": person.track_id} if person.track_id else {})
            for person in people_of(record)
        ]
        text = b",\n".join(strict_json(entry, record) for entry in entries)
        if text:
            self._file.append((b",\n" if self._file.made else b"[\n") + text)

    def close(self) -> None:
        """Closes the file, and makes it where there was nobody to write. May be called twice."""
        if not self._closed and not self._file.made:
            self._file.append(b"[")
        self._closed = True
        self._file.close()

    def abandon(self) -> Path | None:
        """Closes the file of a failed run and marks it as partial; its new path, or None where nothing was written."""
        self._closed = True
        return self._file.abandon()

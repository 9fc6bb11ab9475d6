"""Poses as JSON Lines: one line a frame, there as soon as the frame is done."""

from __future__ import annotations

from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.sinks.lines import LineSink
from sharpose.runtime.sinks.people import Person, people_of, strict_json

__all__ = ["JsonLinesSink"]


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

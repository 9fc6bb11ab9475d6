"""Poses as OpenPose writes them: one JSON file a frame."""

from __future__ import annotations

from pathlib import Path

from sharpose.errors import InputError
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.sinks.folder import ResultFolder
from sharpose.runtime.sinks.people import Person, people_of, strict_json
from sharpose.skeleton import COCO17, Skeleton

__all__ = ["OPENPOSE_COCO18", "OpenPoseSink"]

OPENPOSE_COCO18 = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
"""The order of OpenPose's COCO model."""

_OTHER_PARTS = (
    "face_keypoints_2d",
    "hand_left_keypoints_2d",
    "hand_right_keypoints_2d",
    "pose_keypoints_3d",
    "face_keypoints_3d",
    "hand_left_keypoints_3d",
    "hand_right_keypoints_3d",
)
_ABSENT = [0.0, 0.0, 0.0]


class OpenPoseSink:
    """Writes `STEM_000000000000_keypoints.json`, version 1.3, a file a frame, also where it has nobody.

    `pose_keypoints_2d` is `x, y, score` of the 18 points of OpenPose's COCO model, not the 25 of BODY_25: COCO's 17
    keypoints fill those but for the neck, while nothing of ours knows where a foot's six points are. The neck is the
    middle of the shoulders, with the lower of their scores. A point whose score isn't positive is `0, 0, 0`, and so is
    the neck where a shoulder is. `person_id` is `[id]`, or `[-1]` without one.

    Args:
        path: The folder.
        stem: What file names begin with.
        skeleton: Of the poses.

    Raises:
        InputError: the skeleton isn't COCO's, or the folder holds such files already.
    """

    def __init__(self, path: str | Path, *, stem: str, skeleton: Skeleton = COCO17) -> None:
        if skeleton.name != COCO17.name:
            raise InputError(
                f"{path}: OpenPose JSON is made from the keypoints of {COCO17.name}, this bundle has those of "
                f"{skeleton.name}; write --json or --csv"
            )
        self._folder = ResultFolder(path, stem=stem, ending="_keypoints.json")
        self.path = Path(path)
        self.name = str(self.path)

    def write(self, record: FrameRecord) -> None:
        """Writes the frame's file. Raises `SinkError` where it can't be written or a number is not finite."""
        people = [_entry(person) for person in people_of(record)]
        self._folder.write(record.frame.index, strict_json({"version": 1.3, "people": people}, record) + b"\n")

    def close(self) -> None:
        """Does nothing: every file is whole. May be called twice."""

    def abandon(self) -> Path | None:
        """Marks the folder of a failed run as partial; its new path, or None where nothing was written."""
        return self._folder.abandon()


def _entry(person: Person) -> dict[str, object]:
    points = dict(zip(COCO17.keypoints, person.keypoints, strict=True))
    points["neck"] = _middle(points["left_shoulder"], points["right_shoulder"])
    ordered = [points[name] if points[name][2] > 0 else _ABSENT for name in OPENPOSE_COCO18]
    entry: dict[str, object] = {
        "person_id": [person.track_id or -1],
        "pose_keypoints_2d": [number for point in ordered for number in point],
    }
    return entry | {name: [] for name in _OTHER_PARTS}


def _middle(one: list[float], other: list[float]) -> list[float]:
    return [round((one[0] + other[0]) / 2, 3), round((one[1] + other[1]) / 2, 3), min(one[2], other[2])]

"""Results as one file per frame: OpenPose JSON, and annotated pictures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sharpose.errors import InputError, SinkError, counted
from sharpose.file_locks import HeldFolder, hold_folder
from sharpose.files import removed_error, replacing, write_all
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.sinks.people import Person, people_of, strict_json
from sharpose.skeleton import Skeleton, plain_name


@dataclass(frozen=True)
class FolderSettings:
    """How the files of a folder are named, and what becomes of those of an earlier run.

    Attributes:
        stem: What file names begin with: `STEM_000000000000ENDING`, numbered by frame.
        names: What they begin with instead, by frame: the names of picture files, no two alike.
        overwrite: Whether files of an earlier run are replaced; no others are ever removed.
        note: Called with a line about how many were, or what else is worth knowing.
    """

    stem: str
    names: Sequence[str] | None = None
    overwrite: bool = False
    note: Callable[[str], None] = lambda line: None


class FolderSink:
    """A folder with a file per frame; sinks write one per record.

    Args:
        path: The folder; created, with its parents, at the first file.
        settings: How files are named.
        ending: What their names end with.

    Raises:
        InputError: the folder holds such files already (two runs would be mixed) and they aren't to be replaced, or is
            no folder.
    """

    def __init__(self, path: str | Path, settings: FolderSettings, *, ending: str) -> None:
        self.path = Path(path)
        self.name = str(self.path)
        self._settings, self._ending = settings, ending
        self._names = frozenset(f"{name}{ending}" for name in settings.names or ())
        self._old: set[str] = set()
        self._files = 0
        self._begun = self._ours = self._removed = False
        self._held: HeldFolder | None = None
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: expected a folder, found a file; give another name")
        if self.path.is_dir():
            try:
                with os.scandir(self.path) as entries:
                    found = {entry.name: entry.is_file() for entry in entries if self._is_ours(entry.name)}
            except OSError as error:
                raise InputError(f"{self.path}: expected a folder that can be read: {error.strerror}") from None
            if found and not settings.overwrite:
                raise InputError(
                    f"{self.path}: already holds files of this kind ({min(found)}), which would be mixed with the new "
                    "ones; give another folder, or --overwrite to replace them"
                )
            self._old = {name for name, is_file in found.items() if is_file}

    def _is_ours(self, name: str) -> bool:
        start = f"{self._settings.stem}_"
        number = name.removeprefix(start).removesuffix(self._ending)
        numbered = len(number) == 12 and number.isdigit() and name == f"{start}{number}{self._ending}"
        return numbered or name in self._names

    def _file_name(self, index: int) -> str:
        names = self._settings.names
        return (f"{self._settings.stem}_{index:012d}" if names is None else names[index]) + self._ending

    def begin(self) -> None:
        """Makes the folder, if it isn't there, and keeps other runs out. Raises `SinkError` where it can't."""
        if self._begun:
            return
        try:
            self._ours = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            self._hold()
        except OSError as error:
            raise SinkError(f"{self.path}: can't be written: {error.strerror}") from None
        self._begun = True

    def write_file(self, index: int, data: bytes) -> None:
        """Writes the file of frame `index`. Raises `SinkError` where it can't; no half of it is left then."""
        self.write_named(self._file_name(index), data)

    def write_named(self, name: str, data: bytes) -> None:
        """Writes a file. Raises `SinkError` where it can't; no half of it is left then."""
        self.begin()
        try:
            with replacing(self.path / name, sync=False) as part, part.open("wb") as file:
                write_all(file.fileno(), data)
            if not self._files and self._old:
                for old in self._old - {name}:
                    (self.path / old).unlink(missing_ok=True)
                self._settings.note(f"{self.path}: replaced {counted(len(self._old), 'file')} of an earlier run")
        except OSError as error:
            if not self.path.is_dir():
                self._removed = True
                raise removed_error(self.path) from None
            if not self._files and self._ours:
                self.close()
                with contextlib.suppress(OSError):
                    self.path.rmdir()
                self._begun = False
            raise SinkError(f"{self.path / name}: can't be written: {error.strerror}") from None
        self._files += 1

    def _hold(self) -> None:
        if self._held is None:
            self._held = hold_folder(self.path)

    def close(self) -> None:
        """Lets other runs write here; every file is complete. May be called twice."""
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def abandon(self) -> Path | None:
        """Renames the folder of a failed run to `NAME.partial`, or where that is taken `NAME.partial2` and so on.

        Returns:
            Its new path; its own where it had been there before the run; None where nothing was written.

        Raises:
            SinkError: it can't be renamed.
        """
        self.close()
        if not self._files or self._removed:
            if self._begun and self._ours and not self._files:
                with contextlib.suppress(OSError):
                    self.path.rmdir()
            return None
        if not self._ours:
            return self.path
        for number in range(1, 10_000):
            partial = self.path.with_name(f"{self.path.name}.partial{number if number > 1 else ''}")
            if not partial.exists():
                break
        try:
            self.path.replace(partial)
        except OSError as error:
            raise SinkError(
                f"{self.path}: expected to rename this incomplete folder to {partial}: {error.strerror}"
            ) from None
        self._files = 0
        return partial


OPENPOSE_BODY25 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "hip",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe",
    "right_heel",
)  # fmt: skip
"""The order of OpenPose's model BODY_25, whose `MidHip` is called `hip` here."""

_LIMBS = OPENPOSE_BODY25[2:8] + OPENPOSE_BODY25[9:15]  # shoulders to wrists and hips to ankles
_MIDWAY = {"neck": ("left_shoulder", "right_shoulder"), "hip": ("left_hip", "right_hip")}
_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
_HANDS = {
    f"hand_{side}_keypoints_2d": (
        f"{side}_hand_root",
        *(f"{side}_{finger}{joint}" for finger in _FINGERS for joint in range(1, 5)),
    )
    for side in ("left", "right")
}
_PARTS: dict[str, tuple[str, ...]] = {
    "pose_keypoints_2d": OPENPOSE_BODY25,
    "face_keypoints_2d": (*(f"face_{number}" for number in range(68)), "right_pupil", "left_pupil"),
    **_HANDS,
    "pose_keypoints_3d": (),
    "face_keypoints_3d": (),
    "hand_left_keypoints_3d": (),
    "hand_right_keypoints_3d": (),
}
"""Keypoints of the lists of a person, in OpenPose's order, as the built-in skeletons name them."""


class OpenPoseSink(FolderSink):
    """Writes `STEM_000000000000_keypoints.json`, version 1.3, one file per frame, also where it has no people.

    For picture files it is `NAME_keypoints.json`, as OpenPose writes it.

    `pose_keypoints_2d` is `x, y, score` of the 25 points of BODY_25, by their names. Where a skeleton has no neck or
    middle of the hips, it is the middle of the shoulders or hips, with the lower of their scores. `face_keypoints_2d`
    (70 points) and `hand_left_keypoints_2d`, `hand_right_keypoints_2d` (21) are filled from a skeleton that has faces
    and hands, as COCO-WholeBody; else they are empty. A point whose score isn't positive, or that the skeleton lacks,
    is `0, 0, 0`, as OpenPose writes what it doesn't find. `person_id` is `[id]`, or `[-1]` without one.

    Args:
        path: The folder.
        settings: How files are named. Its `note` gets a line about the points that the skeleton lacks.
        skeleton: Of the poses.

    Raises:
        InputError: the skeleton lacks one of the joints from shoulders to wrists and from hips to ankles, or the folder
            holds such files already.
    """

    def __init__(self, path: str | Path, settings: FolderSettings, *, skeleton: Skeleton) -> None:
        self._index = {plain_name(name): index for index, name in enumerate(skeleton.keypoints)}
        if missing := [name for name in _LIMBS if name not in self._index]:
            raise InputError(
                f"{path}: OpenPose's BODY_25 needs shoulders, elbows, wrists, hips, knees and ankles; skeleton "
                f"{skeleton.name} has no {', '.join(missing)}; write --json or --csv"
            )
        super().__init__(path, settings, ending="_keypoints.json")
        known = {*self._index, *_MIDWAY}
        self._parts = {
            part: names if part == "pose_keypoints_2d" or set(names) & known else () for part, names in _PARTS.items()
        }
        if absent := [name for names in self._parts.values() for name in names if name not in known]:
            settings.note(f"{self.path}: skeleton {skeleton.name} has no {', '.join(absent)}: zeros in OpenPose's JSON")

    def write(self, record: FrameRecord) -> None:
        """Writes the frame's file. Raises `SinkError` where it can't be written or a number is not finite."""
        people = [self._entry(person) for person in people_of(record)]
        self.write_file(record.frame.index, strict_json({"version": 1.3, "people": people}, record) + b"\n")

    def _entry(self, person: Person) -> dict[str, object]:
        points = {name: person.keypoints[index] for name, index in self._index.items()}
        for name, (left, right) in _MIDWAY.items():
            if name not in points:
                (x1, y1, first), (x2, y2, second) = points[left], points[right]
                points[name] = [round((x1 + x2) / 2, 3), round((y1 + y2) / 2, 3), min(first, second)]
        nothing = [0.0, 0.0, 0.0]
        shown = {name: point if point[2] > 0 else nothing for name, point in points.items()}
        lists = {
            part: [number for name in names for number in shown.get(name, nothing)]
            for part, names in self._parts.items()
        }
        return {"person_id": [person.track_id or -1], **lists}


_PICTURE_FORMATS = {  # with OpenCV's parameters
    "jpg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    "png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
}


class PicturesSink(FolderSink):
    """Writes the annotated picture as `STEM_000000000000.jpg`, or `.png`, one file per frame.

    Args:
        path: The folder.
        settings: How files are named.
        kind: `jpg` or `png`.

    Raises:
        InputError: another kind, or the folder holds such files already.
    """

    def __init__(self, path: str | Path, settings: FolderSettings, *, kind: str = "jpg") -> None:
        if kind not in _PICTURE_FORMATS:
            raise InputError(f"expected pictures of the kind {' or '.join(_PICTURE_FORMATS)}, got {kind!r}")
        self._kind = kind
        super().__init__(path, settings, ending=f".{kind}")

    def write(self, record: FrameRecord) -> None:
        """Writes the frame's picture. Raises `SinkError` where it can't be encoded or written."""
        why = ""
        try:
            done, encoded = cv2.imencode(f".{self._kind}", record.picture, _PICTURE_FORMATS[self._kind])
        except cv2.error as error:
            done, encoded, why = False, np.zeros(0, np.uint8), f": {error.err}"
        if not done:
            height, width = record.picture.shape[:2]
            raise SinkError(f"{self.path}: a picture of {width}x{height} can't be made a {self._kind}{why}")
        self.write_file(record.frame.index, encoded.tobytes())

"""Where a frame's boxes come from: a COCO file, a detector, the source itself, or nowhere (the full frame)."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from sharpose.errors import BoxesError
from sharpose.runtime.frames import Frame
from sharpose.runtime.result import Boxes, PoseResult

if TYPE_CHECKING:
    from sharpose.runtime.detectors.onnx import Detector

__all__ = ["PERSON_CATEGORY", "BoxSource", "BoxesFile", "DetectorBoxes", "FileBoxes", "FullFrame", "SourceBoxes"]

PERSON_CATEGORY = 1
"""COCO's category id for people."""

_FORMAT = '[{"image_id": 0, "category_id": 1, "bbox": [x, y, width, height], "score": 0.9}, …]'
_NUMBER_TYPES = frozenset({int, float})  # exact types: bool is an int to isinstance


class BoxesFile:
    """The people's boxes of all pictures of a source, by image id.

    The file is COCO detection-results JSON: a list of `{"image_id": int, "category_id": 1, "bbox": [x, y, width,
    height], "score": s}`. A COCO annotation file (a dict with `annotations`) is taken as well; its crowd regions are
    left out. `image_id` is the 0-based frame index of a video; for a picture file, its stem where that is all digits.

    Entries of other categories than people are ignored. An entry without `category_id` counts as a person, one without
    `score` as certain (1.0), as in ground truth. A box of zero width or height is kept.

    Attributes:
        path: Where it was read from.
        image_ids: Ids of the pictures with boxes, and of those that an annotation file lists without.
    """

    def __init__(self, path: Path, boxes: dict[int, Boxes], listed: Iterable[int] = ()) -> None:
        self.path = path
        self._boxes = boxes
        self.image_ids: frozenset[int] = frozenset(boxes).union(listed)

    @classmethod
    def load(cls, path: str | Path) -> BoxesFile:
        """Read and check a whole file.

        Raises:
            BoxesError: the file can't be read, is not such JSON, holds an entry with a missing key, a wrong type, a
                number that is not finite or a negative size, or holds entries but not one person.
        """
        path = Path(path)
        entries, listed = _read_entries(path)
        people = list(_people(entries, path))
        others = {entry["category_id"] for entry in entries if "category_id" in entry} - {PERSON_CATEGORY}
        if others and not people:
            raise BoxesError(
                f"{path}: none of its {len(entries)} entries is a person: expected category_id {PERSON_CATEGORY}, "
                f"found {reprlib.repr(sorted(others))}; number the categories as COCO does"
            )
        boxes = _check_numbers(people, entries, path)
        rows: dict[int, list[int]] = {}
        for row, index in enumerate(people):
            rows.setdefault(entries[index]["image_id"], []).append(row)
        return cls(path, {image: Boxes(boxes.xyxy[of], boxes.scores[of]) for image, of in rows.items()}, listed)

    def __len__(self) -> int:
        """How many boxes there are in all."""
        return sum(len(boxes) for boxes in self._boxes.values())

    def for_image(self, image_id: int) -> Boxes:
        """The boxes of one picture, in the file's order, if it has any."""
        return self._boxes.get(image_id) or Boxes.empty()

    def check_image_ids(self, expected: frozenset[int]) -> None:
        """Make sure that the file belongs to the source whose pictures have the ids `expected`.

        An empty file passes: nobody was detected.

        Raises:
            BoxesError: none of the file's image ids is in `expected`.
        """
        if self.image_ids and self.image_ids.isdisjoint(expected):
            raise BoxesError(
                f"{self.path}: none of its image ids occurs in the source: the file has {_span(self.image_ids)}, the "
                f"source {_span(expected)}; image_id is a video's 0-based frame index, or a picture's all-digit stem"
            )


def _read_entries(path: Path) -> tuple[list[Any], frozenset[int]]:
    """The file's entries, unchecked, and the ids that an annotation file lists under `images`."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise BoxesError(f"{path}: can't read the boxes file: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # also bad UTF-8, an integer of thousands of digits
        raise BoxesError(f"{path}: expected JSON, a list {_FORMAT}; it does not parse: {error}") from error
    if isinstance(document, dict):
        entries, images = document.get("annotations"), document.get("images", [])
        if not isinstance(images, list):
            raise BoxesError(f'{path}: "images": expected a list, got a JSON {_json_type(images)}')
        if not isinstance(entries, list):
            raise BoxesError(
                f"{path}: expected a list {_FORMAT} or a COCO annotation file, got a dict without a list "
                f'"annotations"; keys found: {reprlib.repr(sorted(document))}'
            )
    elif isinstance(document, list):
        entries, images = document, []
    else:
        raise BoxesError(f"{path}: expected a list {_FORMAT}, got a JSON {_json_type(document)}")
    for index, image in enumerate(images):
        if not isinstance(image, dict) or type(image.get("id")) is not int:
            raise BoxesError(f'{path}: image {index}: expected a dict with an integer "id", got {reprlib.repr(image)}')
    return entries, frozenset(image["id"] for image in images)


def _people(entries: list[Any], path: Path) -> Iterator[int]:
    """Indices of the entries that are people, their keys and types checked (not yet their numbers)."""
    for index, entry in enumerate(entries):
        if type(entry) is not dict:
            raise _entry_error(path, index, f"expected a dict as in {_FORMAT}, got a JSON {_json_type(entry)}")
        category = entry.get("category_id", PERSON_CATEGORY)
        if type(category) is not int:
            raise _entry_error(path, index, f'"category_id": expected an integer, got {reprlib.repr(category)}')
        if category != PERSON_CATEGORY or entry.get("iscrowd"):
            continue
        for key in ("image_id", "bbox"):
            if key not in entry:
                raise _entry_error(path, index, f'no "{key}"; keys found: {reprlib.repr(sorted(entry))}')
        if type(entry["image_id"]) is not int:
            raise _entry_error(path, index, f'"image_id": expected an integer, got {reprlib.repr(entry["image_id"])}')
        bbox = entry["bbox"]
        if type(bbox) is not list or len(bbox) != 4 or not _NUMBER_TYPES.issuperset(map(type, bbox)):
            raise _entry_error(
                path, index, f'"bbox": expected four numbers [x, y, width, height], got {reprlib.repr(bbox)}'
            )
        if type(entry.get("score", 1.0)) not in _NUMBER_TYPES:
            raise _entry_error(path, index, f'"score": expected a number, got {reprlib.repr(entry["score"])}')
        yield index


def _check_numbers(people: list[int], entries: list[dict[str, Any]], path: Path) -> Boxes:
    """The boxes of the entries at `people`; refuses what is not finite (as float32) or negative."""
    xywh = _as_float64([entries[index]["bbox"] for index in people]).reshape(-1, 4)
    scores = _as_float64([entries[index].get("score", 1.0) for index in people])
    with np.errstate(over="ignore", invalid="ignore"):
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(np.float32)
        score32 = scores.astype(np.float32)
    for key, bad, expected in (
        ("bbox", ~np.isfinite(xyxy).all(axis=1), "finite numbers"),
        ("score", ~np.isfinite(score32), "a finite number"),
        ("bbox", (xywh[:, 2:] < 0).any(axis=1), "[x, y, width, height] with width and height not negative"),
    ):
        if bad.any():
            index = people[int(np.argmax(bad))]
            raise _entry_error(path, index, f'"{key}": expected {expected}, got {reprlib.repr(entries[index][key])}')
    return Boxes(xyxy, score32)


def _as_float64(values: list[Any]) -> npt.NDArray[np.float64]:
    """`values` as an array, with infinity for integers beyond a float's range."""
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        exact = np.array(values, dtype=object)
        return np.array([v if abs(v) < 1e300 else np.inf for v in exact.flat], np.float64).reshape(exact.shape)


def _entry_error(path: Path, index: int, problem: str) -> BoxesError:
    return BoxesError(f"{path}: entry {index}: {problem}")


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _span(ids: frozenset[int]) -> str:
    """`3 ids from 0 to 9`, for messages."""
    if not ids:
        return "none"
    if len(ids) == 1:
        return f"only {min(ids)}"
    return f"{len(ids)} ids from {min(ids)} to {max(ids)}"


class BoxSource(Protocol):
    """Says where the people of a frame are. One per stream, as it may have memory."""

    def boxes_for(self, frame: Frame) -> Boxes:
        """The people's boxes in the frame's pixels."""
        ...

    def observe(self, frame: Frame, poses: PoseResult) -> None:
        """Called with the poses of each frame that it gave boxes for, before the next `boxes_for`."""
        ...


class _Memoryless:
    def observe(self, frame: Frame, poses: PoseResult) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class FileBoxes(_Memoryless):
    """The boxes of a file for the frame's `image_id`; those that score less than `conf` are left out."""

    file: BoxesFile
    conf: float | None = None

    def boxes_for(self, frame: Frame) -> Boxes:
        """The file's boxes for this frame, if it has any."""
        boxes = self.file.for_image(frame.image_id)
        if self.conf is None:
            return boxes
        sure = boxes.scores >= self.conf
        return Boxes(boxes.xyxy[sure], boxes.scores[sure])


@dataclass(frozen=True)
class FullFrame(_Memoryless):
    """One box that covers the whole picture, score 1.0: for pictures of one person."""

    def boxes_for(self, frame: Frame) -> Boxes:
        """The box `0, 0, width, height`."""
        return Boxes.from_xyxy(np.array([[0, 0, frame.width, frame.height]], np.float32))


@dataclass(frozen=True)
class SourceBoxes(_Memoryless):
    """The boxes that the source itself brings, as the built-in scene does."""

    def boxes_for(self, frame: Frame) -> Boxes:
        """The frame's own boxes. Raises `BoxesError` where it has none to say."""
        if frame.boxes is None:
            raise BoxesError(
                f"frame {frame.index}: the source brings no boxes of its own: give a boxes file (--boxes FILE), a "
                "detector (--detector FILE.onnx) or --full-frame"
            )
        return frame.boxes


@dataclass(frozen=True)
class DetectorBoxes(_Memoryless):
    """The people that a detector finds in the frame."""

    detector: Detector

    def boxes_for(self, frame: Frame) -> Boxes:
        """What the detector finds, best first."""
        return self.detector(frame.image)

"""A file of people's boxes, by image id: COCO detection results or annotations."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.errors import BoxesError, counted
from sharpose.files import LABELS_LIMIT, read_json
from sharpose.runtime.frames import ImageId
from sharpose.runtime.result import Boxes
from sharpose.skeleton import PERSON_NAMES

PERSON_CATEGORY = 1
"""COCO's category id for people."""

_FORMAT = '[{"image_id": 0, "category_id": 1, "bbox": [x, y, width, height], "score": 0.9}, …]'
_LARGEST = 1e6  # pixels; float32 holds a sixteenth of one up to there
_ID_TYPES = frozenset({int, str})
_NUMBER_TYPES = frozenset({int, float})  # exact types: bool is an int to isinstance


class BoxesFile:
    """The people's boxes of all pictures of a source, by image id.

    The file is COCO detection-results JSON: a list of `{"image_id": id, "category_id": 1, "bbox": [x, y, width,
    height], "score": s}`. A COCO annotation file (a dict with `annotations`) is taken as well; its crowd regions are
    left out. Where its `images` have a `file_name`, that says which picture an id is; else the id is the 0-based frame
    index of a video, or a picture file's number: its stem where that is all digits. Ids may be strings.

    Entries of other categories than people are ignored. An entry without `category_id` counts as a person, one without
    `score` as certain (1.0), as in ground truth. A box of zero width or height is kept.

    Attributes:
        path: Where it was read from.
        image_ids: Ids of the pictures with boxes, and of those that an annotation file lists without.
        left_out: How many entries are no boxes of people, by reason.
        note: What was assumed about the ids of a source's pictures, if anything.
    """

    def __init__(
        self, path: Path, boxes: Boxes, rows: dict[ImageId, list[int]], names: Mapping[ImageId, str | None]
    ) -> None:
        self.path = path
        self.left_out: Counter[str] = Counter()
        self.note: str | None = None
        self._boxes, self._rows, self._names = boxes, rows, names
        self.image_ids: frozenset[ImageId] = frozenset(rows).union(names)
        self._spellings: dict[int, set[ImageId]] = {}  # of the numbers that are not, or not only, written as numbers
        for image_id in self.image_ids:
            if isinstance(image_id, str) and re.fullmatch("[0-9]{1,100}", image_id):
                self._spellings.setdefault(int(image_id), {image_id}).add(image_id)
        for number, spellings in self._spellings.items():
            spellings |= self.image_ids & {number}
        self._frames: dict[int, ImageId] = {}  # of videos, where the names count from 0 and the ids from 1
        numbers = {image_id: re.findall("[0-9]{1,100}", Path(name or "").stem)[-1:] for image_id, name in names.items()}
        if all(found and int(found[0]) + 1 == image_id for image_id, found in numbers.items()):
            self._frames = {int(found[0]): image_id for image_id, found in numbers.items()}

    @classmethod
    def load(cls, path: str | Path) -> BoxesFile:
        """Read and check a whole file.

        Raises:
            BoxesError: the file can't be read, is not such JSON, holds an entry with a missing key, a wrong type, a
                number that is not finite, a negative size or a score outside of 0 to 1, or holds entries but not one
                person.
        """
        path = Path(path)
        entries, names, person = _read_entries(path)
        people = list(_people(entries, path, person))
        others = {entry["category_id"] for entry in entries if "category_id" in entry} - {person}
        if others and not people:
            raise BoxesError(
                f"{path}: no person among its {counted(len(entries), 'entry')}: expected category_id {person}, "
                f"found {reprlib.repr(sorted(others))}; number the categories as COCO does"
            )
        boxes = _check_numbers(people, entries, path)
        rows: dict[ImageId, list[int]] = {}
        for row, index in enumerate(people):
            rows.setdefault(entries[index]["image_id"], []).append(row)
        found = cls(path, boxes, rows, names)
        categories = sum(entry.get("category_id", person) != person for entry in entries)
        crowds = len(entries) - len(people) - categories
        found.left_out = +Counter({"of other categories": categories, "crowd": crowds})
        return found

    @property
    def has_names(self) -> bool:
        """Whether it says which files its pictures are."""
        return any(name is not None for name in self._names.values())

    def __len__(self) -> int:
        """How many boxes there are in all."""
        return len(self._boxes)

    def for_image(self, image_id: ImageId) -> Boxes:
        """The boxes of one picture, in the file's order, if it has any."""
        rows = self._rows.get(self.id_of(image_id))
        return Boxes.empty() if rows is None else Boxes(self._boxes.xyxy[rows], self._boxes.scores[rows])

    @property
    def counts_from_one(self) -> bool:
        """Whether its names of a video's frames count from 0, as tools write them, but its ids from 1."""
        return bool(self._frames)

    def id_of_frame(self, index: int) -> ImageId:
        """The id of a video's frame, as the file writes it. Raises `BoxesError` as `id_of` does."""
        return self._frames.get(index, index + 1) if self._frames else self.id_of(index)

    def id_of(self, image_id: ImageId) -> ImageId:
        """A picture's id as the file writes it: `"007"` for 7. Raises `BoxesError` where it writes one in two ways."""
        spellings = self._spellings.get(image_id) if isinstance(image_id, int) else None
        if not spellings:
            return image_id
        if len(spellings) > 1:
            found = " and ".join(sorted(map(repr, spellings)))
            raise BoxesError(f"{self.path}: image_id: expected one way to write {image_id}, got {found}")
        return next(iter(spellings))

    def ids_of(self, pictures: Mapping[Path, int]) -> list[ImageId]:
        """The ids of picture files, as the file writes them; one that it doesn't know gets a number that is free.

        Args:
            pictures: The files, and the numbers that they have where no file name says another.

        Raises:
            BoxesError: none of the pictures is in the file, or it isn't clear which one an id is.
        """
        found = self._ids_by_name(list(pictures))
        if found is None:
            if self.image_ids.isdisjoint(name for path in pictures for name in (path.stem, path.name)):
                self.check_image_ids(frozenset(pictures.values()))
            found = {}
            for path, number in pictures.items():
                own = next((name for name in (path.stem, path.name) if name in self.image_ids), None)
                is_clear = own is not None and not (own.isdecimal() and int(own) in self.image_ids)
                found[path] = own if own is not None and is_clear else self.id_of(number)
        elif len(found) < len(pictures):
            lost = next(path for path in pictures if path not in found)
            lacking = counted(len(pictures) - len(found), "picture")
            self.note = f"{self.path}: {lacking} not in it, such as {lost}: nobody is there"
        taken = {*self.image_ids, *found.values()}
        free = max((number for number in taken if isinstance(number, int)), default=-1)
        ids: list[ImageId] = []
        for path, number in pictures.items():
            if path not in found and number in taken:
                number = free = free + 1
            ids.append(found.get(path, number))
            taken.add(ids[-1])
        return ids

    def _ids_by_name(self, pictures: Sequence[Path]) -> dict[Path, ImageId] | None:
        """The ids of pictures by `file_name`: the whole path where names repeat. None where the names say nothing."""
        listed: dict[str, list[tuple[list[str], ImageId]]] = {}
        for image_id, name in self._names.items():
            if name is not None:
                parts = re.split(r"[/\\]", name)
                for key in {parts[-1], Path(parts[-1]).stem}:
                    listed.setdefault(key, []).append((parts, image_id))
        if not listed:
            return None
        owners: dict[ImageId, Path] = {}
        for path in pictures:
            same = listed.get(path.name) or listed.get(path.stem, [])
            depths = [_common_tail(path.parts, parts) for parts, _ in same]
            best = [image_id for (_, image_id), depth in zip(same, depths, strict=True) if depth == max(depths)]
            if not best:
                continue
            if len(best) > 1 or best[0] in owners:
                what = f"the ids {best}" if len(best) > 1 else f"the id {best[0]!r}, as {owners[best[0]]} has"
                raise BoxesError(f"{self.path}: file_name: expected one id for each picture, got {what} for {path}")
            owners[best[0]] = path
        if owners:
            return {path: image_id for image_id, path in owners.items()}
        if all(path.stem.isdecimal() and int(path.stem) in self.image_ids for path in pictures):
            self.note = f"{self.path}: its file names are of other pictures: those here go by their numbers"
            return None
        names = [name for name in self._names.values() if name is not None]
        raise BoxesError(
            f"{self.path}: none of the pictures that it lists is in the source: it lists {reprlib.repr(names)}, "
            f"the source has {reprlib.repr([path.name for path in pictures])}"
        )

    def check_image_ids(self, expected: Collection[ImageId]) -> None:
        """Make sure that the file belongs to the source whose pictures have the ids `expected`.

        An empty file passes: nobody was detected.

        Raises:
            BoxesError: none of the file's image ids is in `expected`.
        """
        known = self.image_ids | self._spellings.keys() | self._frames.keys()
        in_range = isinstance(expected, range)
        if known and not any((not in_range or isinstance(one, int)) and one in expected for one in known):
            raise BoxesError(
                f"{self.path}: none of its image ids occurs in the source: the file has {_span(self.image_ids)}, the "
                f"source {_span(expected)}; image_id is a video's 0-based frame index, or a picture's all-digit stem"
            )


def _common_tail(path: Sequence[str], other: Sequence[str]) -> int:
    """How many names two paths share, from the last one."""
    pairs = zip(reversed(path), reversed(other), strict=False)
    return next((depth for depth, (one, two) in enumerate(pairs) if one != two), min(len(path), len(other)))


def _read_entries(path: Path) -> tuple[list[Any], dict[ImageId, str | None], int]:
    """The file's entries, unchecked, the file names by id that an annotation file lists, and the category of people."""

    def failure(reason: str) -> BoxesError:
        return BoxesError(f"{path}: can't read the boxes file: {reason}; expected JSON, a list {_FORMAT}")

    document = read_json(path, failure, LABELS_LIMIT)
    if isinstance(document, list):
        return document, {}, PERSON_CATEGORY
    if not isinstance(document, dict):
        raise BoxesError(f"{path}: expected a list {_FORMAT}, got a JSON {_json_type(document)}")
    entries, images = document.get("annotations"), document.get("images", [])
    if not isinstance(images, list):
        raise BoxesError(f'{path}: "images": expected a list, got a JSON {_json_type(images)}')
    if not isinstance(entries, list):
        raise BoxesError(
            f"{path}: expected a list {_FORMAT} or a COCO annotation file, got a dict without a list "
            f'"annotations"; keys found: {reprlib.repr(sorted(document))}'
        )
    names: dict[ImageId, str | None] = {}
    for index, image in enumerate(images):
        if not isinstance(image, dict) or type(image.get("id")) not in _ID_TYPES:
            raise BoxesError(f'{path}: image {index}: expected a dict with an "id", got {reprlib.repr(image)}')
        name = image.get("file_name")
        if not isinstance(name, str | None):
            raise BoxesError(f'{path}: image {index}: "file_name": expected a string, got {reprlib.repr(name)}')
        if names.setdefault(image["id"], name) != name:
            raise BoxesError(
                f'{path}: image {index}: "id": expected one file for an id, got {names[image["id"]]} and {name}'
            )
    categories = document.get("categories")
    named = [
        item["id"]
        for item in (categories if isinstance(categories, list) else [])
        if isinstance(item, dict) and type(item.get("id")) is int and str(item.get("name")).lower() in PERSON_NAMES
    ]
    return entries, names, named[0] if len(named) == 1 else PERSON_CATEGORY


def _people(entries: list[Any], path: Path, person: int) -> Iterator[int]:
    """Indices of the entries that are people, their keys and types checked (not yet their numbers)."""
    for index, entry in enumerate(entries):
        if type(entry) is not dict:
            raise _entry_error(path, index, f"expected a dict as in {_FORMAT}, got a JSON {_json_type(entry)}")
        category = entry.get("category_id", person)
        if type(category) is not int:
            raise _entry_error(path, index, f'"category_id": expected an integer, got {reprlib.repr(category)}')
        if category != person or entry.get("iscrowd"):
            continue
        for key in ("image_id", "bbox"):
            if key not in entry:
                raise _entry_error(path, index, f'no "{key}"; keys found: {reprlib.repr(sorted(entry))}')
        if type(entry["image_id"]) not in _ID_TYPES:
            found = reprlib.repr(entry["image_id"])
            raise _entry_error(path, index, f'"image_id": expected an integer or a string, got {found}')
        bbox = entry["bbox"]
        if type(bbox) is not list or len(bbox) != 4 or not _NUMBER_TYPES.issuperset(map(type, bbox)):
            raise _entry_error(
                path, index, f'"bbox": expected four numbers [x, y, width, height], got {reprlib.repr(bbox)}'
            )
        if type(entry.get("score", 1.0)) not in _NUMBER_TYPES:
            raise _entry_error(path, index, f'"score": expected a number, got {reprlib.repr(entry["score"])}')
        yield index


def _check_numbers(people: list[int], entries: list[dict[str, Any]], path: Path) -> Boxes:
    """The boxes of the entries at `people`; refuses what is not finite (as float32) or out of its range."""
    xywh = _as_float64([entries[index]["bbox"] for index in people]).reshape(-1, 4)
    scores = _as_float64([entries[index].get("score", 1.0) for index in people])
    with np.errstate(over="ignore", invalid="ignore"):
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(np.float32)
        score32 = scores.astype(np.float32)
    for key, bad, expected in (
        ("bbox", ~np.isfinite(xyxy).all(axis=1), "finite numbers"),
        ("bbox", (np.abs(xyxy) > _LARGEST).any(axis=1), f"pixels within ±{_LARGEST:.0e}"),
        ("score", ~np.isfinite(score32), "a finite number"),
        ("score", (score32 < 0) | (score32 > 1), "a number from 0 to 1"),
        ("bbox", (xywh[:, 2:] < 0).any(axis=1), "[x, y, width, height] with width and height not negative"),
    ):
        if bad.any():
            index = people[int(np.argmax(bad))]
            raise _entry_error(path, index, f'"{key}": expected {expected}, got {reprlib.repr(entries[index][key])}')
    if xywh.size and 0 < xywh.max() <= 1 and (xywh % 1).any():
        raise BoxesError(f'{path}: "bbox": expected pixels, got numbers up to {xywh.max():g} (shares of the picture?)')
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


def _span(ids: Collection[ImageId]) -> str:
    """`3 ids from 0 to 9`, for messages."""
    if not ids:
        return "none"
    if len(ids) == 1:
        return f"only {next(iter(ids))!r:.80}"
    strings = sorted(one for one in ids if isinstance(one, str)) if not isinstance(ids, range) else []
    if strings:
        return f"{counted(len(ids), 'id')} such as {strings[0]!r:.80}"
    first, last = (ids[0], ids[-1]) if isinstance(ids, range) else (min(ids), max(ids))  # a range may be only claimed
    return f"{len(ids)} ids from {first} to {last}"

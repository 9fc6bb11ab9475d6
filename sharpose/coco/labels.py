"""COCO keypoint labels, read strictly once for every tool: finite numbers, known pictures, whole boxes. Torch-free.

pycocotools takes what it is given and scores nonsense with a number, so nothing else reads such a file. Who is left out
(another category, no keypoints, no box) is counted with the reason; what can't be meant is refused with its place.
"""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sharpose.errors import SourceError, counted, describe_problem
from sharpose.files import LABELS_LIMIT, read_json
from sharpose.similarity import BODY_SHARE
from sharpose.skeleton import PERSON_NAMES, Skeleton, plain_name

_PERSON = 1  # COCO's category id, for files that name no categories
_MOST = 1e12  # pixels, far below what float32 holds
_WEAK = 1  # COCO visibility of labels that are hidden, or that come from a model


@dataclass(frozen=True)
class LabelledPicture:
    """A picture of the file.

    Attributes:
        image_id: As in the file.
        file_name: Path below the folder of pictures.
        width: Pixels; None where the file doesn't say.
        height: Likewise.
    """

    image_id: int
    file_name: str
    width: int | None
    height: int | None


@dataclass(frozen=True)
class LabelledPerson:
    """A person of the file.

    Attributes:
        annotation_id: As in the file, where ids may repeat.
        image_id: The picture's.
        bbox_xywh: `x, y, width, height` in picture pixels, neither size negative.
        box_xyxy: float32 [4], the box cut to its picture (where the size of that is known); None if nothing is left.
        keypoints: float64 [J, 3]: `x, y` in picture pixels and COCO visibility; all 0 where it is 0.
        area: Square pixels of the picture that the person covers.
        is_crowd: Whether the box holds many people that nobody told apart.
    """

    annotation_id: int
    image_id: int
    bbox_xywh: tuple[float, float, float, float]
    box_xyxy: npt.NDArray[np.float32] | None
    keypoints: npt.NDArray[np.float64]
    area: float
    is_crowd: bool

    @property
    def num_keypoints(self) -> int:
        """How many keypoints have a label."""
        return int((self.keypoints[:, 2] > 0).sum())

    @property
    def is_labelled(self) -> bool:
        """Whether the person can be trained on and scored: one person with keypoints and a box."""
        return not self.is_crowd and self.num_keypoints > 0 and self.box_xyxy is not None


@dataclass(frozen=True)
class CocoLabels:
    """The people of a file.

    Attributes:
        path: Where it was read from.
        category_id: The file's number for people.
        pictures: By image id, in the file's order.
        people: All of the person category who have keypoints, crowds and unlabelled ones too (evaluation ignores
            poses that are found in them).
        left_out: How many annotations were left out, by reason.
        notes: What was assumed, a line each.
    """

    path: Path
    category_id: int
    pictures: dict[int, LabelledPicture]
    people: list[LabelledPerson]
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def labelled(self) -> list[LabelledPerson]:
        """The people to train on and to score."""
        return [person for person in self.people if person.is_labelled]

    @property
    def not_used(self) -> Counter[str]:
        """How many annotations are not of people to train on or to score, by reason."""
        return self.left_out + Counter(_why(person) for person in self.people if not person.is_labelled)

    @property
    def summary(self) -> str:
        """One line: `labels.json: 44 people used, 3 left out (2 crowd, 1 without keypoints)`."""
        return usage_line(self.path.name, len(self.labelled), self.not_used)

    def document(self, *, ignore_weak: bool = False) -> dict[str, Any]:
        """The labels as pycocotools takes them, with every key that it reads.

        Args:
            ignore_weak: Labels of visibility 1 count as missing.
        """
        annotations = []
        for number, person in enumerate(self.people, 1):  # ids may repeat, or be 0, which pycocotools miscounts
            keypoints = person.keypoints
            if ignore_weak:
                keypoints = np.where(keypoints[:, 2:] == _WEAK, 0, keypoints)
            annotations.append(
                {
                    "id": number,
                    "image_id": person.image_id,
                    "category_id": self.category_id,
                    "iscrowd": int(person.is_crowd),
                    "bbox": list(person.bbox_xywh),
                    "area": person.area,
                    "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                    "keypoints": keypoints.ravel().tolist(),
                }
            )
        images = [
            {"id": item.image_id, "file_name": item.file_name, "width": item.width, "height": item.height}
            for item in self.pictures.values()
        ]
        return {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": self.category_id, "name": "person"}],
        }


def read_coco_labels(path: Path, skeleton: Skeleton) -> CocoLabels:
    """Read and check a COCO keypoint file.

    People are the category named person; animals, all categories that list the skeleton's keypoints. Annotations of
    other categories, and people without `keypoints`, are left out and counted. An `area`
    that is missing or 0 becomes 0.53 of the box, and a `num_keypoints` that disagrees with the keypoints is passed
    over, both with a note.

    Args:
        path: COCO `person_keypoints` JSON.
        skeleton: What its keypoints must be.

    Raises:
        SourceError: the file can't be read, its category names other keypoints than the skeleton, or an entry can't be
            meant: the message names the annotation and its key.
    """
    document = _parse(path)
    pictures = _pictures(path, document["images"])
    categories, listed = _categories(path, document, skeleton)
    person_category = categories[0]
    _check_names(path, document, person_category, skeleton)
    people: list[LabelledPerson] = []
    left_out: Counter[str] = Counter()
    ids: Counter[int] = Counter()
    without_area = miscounted = 0
    for index, entry in enumerate(document["annotations"]):
        place = f"{path}: annotation {_name_of(entry, index)}"
        if not isinstance(entry, dict):
            raise SourceError(f"{place}: expected an object, got {reprlib.repr(entry)}")
        category = entry.get("category_id", person_category)
        if type(category) is not int or (listed and category not in listed):
            what = f"one of {sorted(listed)}" if listed else "an integer"
            raise SourceError(f"{place}: category_id: expected {what}, got {reprlib.repr(category)}")
        if category not in categories:
            left_out["of other categories"] += 1
            continue
        if entry.get("keypoints") in (None, []):
            left_out["without keypoints"] += 1
            continue
        item = checked_entry(_Annotation, entry, place)
        picture = pictures.get(item.image_id)
        if picture is None:
            raise SourceError(f"{place}: image_id: expected the id of a listed picture, got {item.image_id}")
        if item.num_keypoints == 0 and not item.iscrowd and not any(item.keypoints[2::3]):
            keypoints = np.zeros((skeleton.num_keypoints, 3))
        else:
            keypoints = _keypoints(item, place, skeleton)
        if item.num_keypoints is not None and not item.iscrowd:
            miscounted += item.num_keypoints != (keypoints[:, 2] > 0).sum()
        ids[item.id] += 1
        width, height = item.bbox[2:]
        if min(width, height) < 0:
            raise SourceError(f"{place}: bbox: expected a width and height of 0 or more, got {width} x {height}")
        without_area += not item.area
        people.append(
            LabelledPerson(
                annotation_id=item.id,
                image_id=item.image_id,
                bbox_xywh=(item.bbox[0], item.bbox[1], width, height),
                box_xyxy=clean_box(item.bbox, picture.width or math.inf, picture.height or math.inf),
                keypoints=keypoints,
                area=item.area or width * height * BODY_SHARE,
                is_crowd=bool(item.iscrowd),
            )
        )
    placed = np.array([person.keypoints for person in people if person.is_labelled])[..., :2]
    if placed.size and placed.max() <= 1:
        raise SourceError(
            f"{path}: keypoints: expected pixels, got numbers up to {placed.max():g} (shares of the picture?)"
        )
    notes = []
    if len(categories) > 1:
        notes.append(f"{path.name}: {len(categories)} categories have the keypoints of {skeleton.name}: taken as one")
    elif (name := listed.get(person_category, "")) and name.lower() not in PERSON_NAMES:
        notes.append(f"{path.name}: no category is named person: {name!r:.80} is taken for people")
    if miscounted:
        people_of = counted(miscounted, "person")
        notes.append(f"{path.name}: num_keypoints disagrees with the keypoints of {people_of}: the keypoints count")
    if without_area:
        share = f"{BODY_SHARE:g} of the box"
        notes.append(f"{path.name}: area is missing or 0 in {counted(without_area, 'annotation')}: taken as {share}")
    if repeated := sum(count for count in ids.values() if count > 1):
        notes.append(f"{path.name}: {repeated} annotations share their ids with others: renumbered")
    return CocoLabels(path, person_category, pictures, people, left_out, notes)


def clean_box(bbox_xywh: Sequence[float], width: float, height: float) -> npt.NDArray[np.float32] | None:
    """A labelled box, cut to its picture: float32 [4] xyxy, or None where nothing is left of it."""
    x, y, w, h = (float(value) for value in bbox_xywh)
    x1, y1 = max(0.0, x), max(0.0, y)
    x2, y2 = min(width - 1.0, x1 + max(0.0, w)), min(height - 1.0, y1 + max(0.0, h))
    if x2 <= x1 or y2 <= y1:
        return None
    return np.array([x1, y1, x2, y2], np.float32)


def usage_line(name: str, used: int, left_out: Counter[str], noun: str = "person") -> str:
    """`labels.json: 44 people used, 3 left out (2 crowd, 1 without keypoints)`."""
    line = f"{name}: {counted(used, noun)} used"
    if left_out:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        line += f", {left_out.total()} left out ({why})"
    return line


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("expected a finite number")
    if abs(value) >= _MOST:
        raise ValueError(f"expected a number below {_MOST:g}")
    return value


def _whole(value: object) -> object:
    """640.0 and "640" as 640, as other tools write sizes."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value


Finite = Annotated[float, AfterValidator(_finite)]
"""A number that is neither infinite nor NaN."""

_Size = Annotated[int, BeforeValidator(_whole), Field(gt=0, lt=1_000_000)]


class LabelEntry(BaseModel):
    """Base of what stands in a label file; keys that nobody knows are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Picture(LabelEntry):
    id: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    file_name: Annotated[str, Field(min_length=1)]
    width: _Size | None = None
    height: _Size | None = None


class _Annotation(LabelEntry):
    id: int
    image_id: int
    bbox: Annotated[list[Finite], Field(min_length=4, max_length=4)]
    keypoints: list[float | None]
    area: Annotated[Finite, Field(ge=0)] | None = None
    iscrowd: Annotated[int, Field(ge=0, le=1)] | bool = 0
    num_keypoints: int | None = None


def _parse(path: Path) -> dict[str, Any]:

    def failure(reason: str) -> SourceError:
        return SourceError(f"{path}: can't read the labels: {reason}; expected COCO keypoint JSON")

    document = read_json(path, failure, LABELS_LIMIT)
    for key in ("images", "annotations"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise SourceError(f"{path}: expected COCO keypoint labels, an object with the lists images and annotations")
    assert isinstance(document, dict)
    return document


def _pictures(path: Path, entries: list[Any]) -> dict[int, LabelledPicture]:
    pictures: dict[int, LabelledPicture] = {}
    for index, entry in enumerate(entries):
        place = f"{path}: picture {_name_of(entry, index)}"
        item = checked_entry(_Picture, entry, place)
        other = pictures.get(item.id)
        if other is not None and other.file_name != item.file_name:
            raise SourceError(
                f"{place}: id: expected one file for each picture id, got {other.file_name} and {item.file_name}"
            )
        pictures[item.id] = LabelledPicture(item.id, item.file_name, item.width, item.height)
    return pictures


def _categories(path: Path, document: dict[str, Any], skeleton: Skeleton) -> tuple[list[int], dict[int, str]]:
    """The categories that mean people, and the names of all that the file lists.

    It is the one named person, else those that list the skeleton's keypoints (each species of animals), else the only
    one there is, else COCO's.
    """
    listed = document.get("categories") or []
    if not isinstance(listed, list):
        raise SourceError(f"{path}: categories: expected a list, got {reprlib.repr(listed)}")
    names: dict[int, str] = {}
    for index, entry in enumerate(listed):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:
            raise SourceError(
                f"{path}: category {_name_of(entry, index)}: expected an object with an integer id, "
                f"got {reprlib.repr(entry)}"
            )
        names[entry["id"]] = str(entry.get("name") or "")
    named = [number for number, name in names.items() if name.lower() in PERSON_NAMES]
    if len(named) > 1:
        raise SourceError(f"{path}: categories: expected one named person, got the ids {named}")
    wanted = [plain_name(name) for name in skeleton.keypoints]
    alike = [entry["id"] for entry in listed if _plain_names(entry.get("keypoints")) == wanted]
    if alike and not named:
        return alike, names
    used = [entry.get("category_id") for entry in document["annotations"] if isinstance(entry, dict)]
    found = named or list(names) or list({number for number in used if type(number) is int})
    if len(found) > 1 and _PERSON not in found:
        raise SourceError(
            f"{path}: expected people of one category, got category ids {sorted(found)}; name one person in categories"
        )
    return [found[0] if len(found) == 1 else _PERSON], names


def _plain_names(names: object) -> list[str] | None:
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return [plain_name(name) for name in names]
    return None


def _check_names(path: Path, document: dict[str, Any], category: int, skeleton: Skeleton) -> None:
    """Refuse a category of people whose keypoints have other names than the skeleton's, or another order."""
    for entry in document.get("categories") or []:
        found = entry.get("keypoints") if entry["id"] == category else None
        if not found:
            continue
        place = f"{path}: category {category}: keypoints"
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise SourceError(f"{place}: expected a list of names, got {reprlib.repr(found)}")
        if len(found) != skeleton.num_keypoints:
            raise SourceError(f"{place}: expected {skeleton.num_keypoints} ({skeleton.name}), got {len(found)}")
        for number, (name, expected) in enumerate(zip(found, skeleton.keypoints, strict=True), 1):
            if plain_name(name) != plain_name(expected):
                raise SourceError(
                    f"{place}: expected the names of {skeleton.name} in its order, got {name!r:.80} as number "
                    f"{number}, where {expected} belongs; reorder the keypoints, or correct or leave out their names"
                )


def _keypoints(item: _Annotation, place: str, skeleton: Skeleton) -> npt.NDArray[np.float64]:
    """float64 [J, 3], 0 where there is no label."""
    joints = skeleton.num_keypoints
    if len(item.keypoints) != 3 * joints:
        raise SourceError(
            f"{place}: keypoints: expected {joints} keypoints ({skeleton.name}), got {len(item.keypoints) / 3:g}"
        )
    points = np.array([np.nan if value is None else value for value in item.keypoints], np.float64).reshape(-1, 3)
    visibility = points[:, 2]
    known = np.isin(visibility, (0, 1, 2))
    usable = known & ((np.abs(points[:, :2]) < _MOST).all(axis=1) | (visibility == 0))
    if not usable.all():
        joint = int(np.argmin(usable))
        x, y, v = item.keypoints[3 * joint : 3 * joint + 3]
        raise SourceError(
            f"{place}: keypoints: {skeleton.keypoints[joint]}: expected finite x, y and a visibility of 0, 1 or 2, "
            f"got {x}, {y}, {v}"
        )
    points[visibility == 0] = 0
    return points


Model = TypeVar("Model", bound=LabelEntry)


def checked_entry(model: type[Model], entry: object, place: str) -> Model:
    """An entry of a label file as `model`. Raises `SourceError` with its place and the first key that is wrong."""
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        raise SourceError(f"{place}: {describe_problem(error.errors(include_url=False)[0])}") from None


def _why(person: LabelledPerson) -> str:
    if person.is_crowd:
        return "crowd"
    if person.num_keypoints == 0:
        return "without labelled keypoints"
    return "with a box without area" if min(person.bbox_xywh[2:]) <= 0 else "with a box outside of the picture"


def _name_of(entry: object, index: int) -> str:
    number = entry.get("id") if isinstance(entry, dict) else None
    return str(number) if type(number) is int else f"number {index} (no id)"

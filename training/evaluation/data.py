"""Evaluation data: finding and reading labels in COCO's or MPII's format, or the built-in scene."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.coco.labels import CocoLabels
from sharpose.errors import InputError, SourceError
from sharpose.files import LABELS_LIMIT, found_at, read_json
from sharpose.scene import Scene, parse_scene
from sharpose.similarity import BODY_SHARE
from sharpose.skeleton import MPII16, Skeleton
from sharpose.training.data.coco import CocoDataset
from sharpose.training.data.mpii import MpiiDataset, head_segment
from sharpose.training.data.sample import NAMED, Person, missing_files

_LAYOUTS = (
    ("annotations/person_keypoints_val2017.json", "val2017"),
    ("person_keypoints_val.json", "images"),
    ("annotations/mpii_val.json", "images"),
    ("annotations/valid.json", "images"),
)
_AFTER_LIMIT = "in pictures after the limit"
_NOT_LABELLED = "in pictures without labelled people"  # where there is a limit, which is of the others
_WEAK = 1


@dataclass(frozen=True)
class People:
    """n boxes, those of a picture next to each other, and the labels in them.

    Attributes:
        image_ids: int64 [n].
        boxes_xyxy: float32 [n, 4], picture pixels.
        box_scores: float32 [n]; 1 for labelled boxes.
        keypoints: float32 [n, J, 3], `x, y` in picture pixels and COCO visibility: the label of the person in the box.
        areas: float64 [n], square pixels that the person covers.
        head_sizes: float64 [n], PCKh's unit in pixels; NaN where it isn't known.
        labelled: Whether boxes are labelled people; if not (detections), `keypoints` is all zeros.
    """

    image_ids: npt.NDArray[np.int64]
    boxes_xyxy: npt.NDArray[np.float32]
    box_scores: npt.NDArray[np.float32]
    keypoints: npt.NDArray[np.float32]
    areas: npt.NDArray[np.float64]
    head_sizes: npt.NDArray[np.float64]
    labelled: bool

    @classmethod
    def of(cls, people: Sequence[Person], *, labelled: bool = True) -> People:
        """The table of one or more people, in their order."""
        sizes = [np.nan if person.head_size is None else person.head_size for person in people]
        return cls(
            image_ids=np.array([person.image_id for person in people], np.int64),
            boxes_xyxy=np.stack([person.box_xyxy for person in people]),
            box_scores=np.array([person.score for person in people], np.float32),
            keypoints=np.stack([person.keypoints for person in people]),
            areas=np.array([person.area for person in people], np.float64),
            head_sizes=np.array(sizes, np.float64),
            labelled=labelled,
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def only(self, rows: npt.NDArray[np.bool_]) -> People:
        """Those of some rows, bool [n]."""
        arrays = {name: value[rows] for name, value in vars(self).items() if name != "labelled"}
        return replace(self, **arrays)


@dataclass(frozen=True)
class EvaluationData:
    """Labelled pictures.

    Attributes:
        name: For reports.
        skeleton: Skeleton of the labels.
        people: The boxes and their labels.
        image_ids: The pictures that count, with people or without.
        document: COCO keypoint labels, as pycocotools takes them; None where there is no AP (MPII).
        read: Reads a picture by id: uint8 [H, W, 3] BGR; raises `SourceError` where it can't be decoded.
        head_unit: Definition of `people.head_sizes`, for reports.
        left_out: How many people (or boxes) of the file are not in `people`, by reason.
        notes: What was assumed in reading the labels, a line each.
        lost: How many pictures with people are missing or can't be used, of those asked for.
    """

    name: str
    skeleton: Skeleton
    people: People
    image_ids: tuple[int, ...]
    document: dict[str, Any] | None
    read: Callable[[int], npt.NDArray[np.uint8]]
    head_unit: str = ""
    left_out: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()
    lost: int = 0

    def without(self, unreadable: Mapping[int, str]) -> EvaluationData:
        """The data but for the pictures that can't be read, whose messages are given by image id.

        Raises:
            SourceError: nobody is left.
        """
        if not unreadable:
            return self
        lost = np.isin(self.people.image_ids, list(unreadable))
        if lost.all():
            raise SourceError(f"{self.name}: expected pictures that can be read; {next(iter(unreadable.values()))}")
        return replace(
            self,
            people=self.people.only(~lost),
            image_ids=tuple(number for number in self.image_ids if number not in unreadable),
            left_out=self.left_out + Counter({"whose picture can't be used": int(lost.sum())}),
            notes=(*self.notes, *islice(unreadable.values(), NAMED)),
            lost=self.lost + len(unreadable),
        )


@dataclass(frozen=True)
class DataFiles:
    """Labels and the folder of their pictures."""

    annotations: Path
    images: Path


def find_data(folder: Path) -> DataFiles:
    """The validation labels in a folder of COCO's, our own or MPII's layout. Raises `SourceError` for another one."""
    if not folder.is_dir():
        raise SourceError(f"--data {folder}: expected a folder, found {found_at(folder)}")
    found = [DataFiles(folder / labels, folder / images) for labels, images in _LAYOUTS if (folder / labels).is_file()]
    if len(found) != 1 or not found[0].images.is_dir():
        known = "; ".join(f"{labels} and {images}/" for labels, images in _LAYOUTS)
        what = f"{len(found)} of them" if len(found) > 1 else "none"
        raise SourceError(f"--data {folder}: expected one of {known}, found {what}; or give --annotations and --images")
    return found[0]


def load_data(
    where: DataFiles | str,
    skeleton: Skeleton,
    *,
    boxes: Path | None = None,
    limit: int | None = None,
    ignore_weak: bool = False,
    head_boxes: Path | None = None,
) -> EvaluationData:
    """Read labels of any known kind.

    Args:
        where: Label files, a folder as for `find_data`, or a scene such as `scene:people=3,frames=50`.
        skeleton: The model's; the labels must be of the same.
        boxes: A COCO detections file (COCO-format labels only); None for labelled boxes.
        limit: Number of pictures with labelled people, from the first (of a scene: of frames); None for all. With
            `boxes`, too, so that people whom the detector missed count.
        ignore_weak: Whether to leave out labels of visibility 1 (COCO-format labels only).
        head_boxes: `mpii_gt_val.mat` (MPII only).

    Raises:
        SourceError: the labels can't be read or are of another skeleton.
        InputError: an option doesn't go with these labels, or the scene lacks a keypoint of the skeleton.
    """
    files = files_of(where)
    if files is None:
        _refuse("the scene", {"boxes": boxes, "ignore-weak": ignore_weak, "head-boxes": head_boxes})
        return _load_scene(str(where), skeleton, limit)
    if _holds_a_list(files.annotations):
        _check_list(files.annotations)
        _refuse("MPII labels", {"boxes": boxes, "ignore-weak": ignore_weak})
        return _load_mpii(files, skeleton, limit=limit, head_boxes=head_boxes)
    _refuse("COCO labels", {"head-boxes": head_boxes})
    return _load_coco(files, skeleton, boxes=boxes, limit=limit, ignore_weak=ignore_weak)


def files_of(where: DataFiles | str) -> DataFiles | None:
    """The files of labels as `load_data` takes them; None for the scene. Raises as `find_data` does."""
    if isinstance(where, DataFiles):
        return where
    return None if where == "scene" or where.startswith("scene:") else find_data(Path(where))


def has_coco_labels(where: DataFiles | str) -> bool:
    """Whether labels as `load_data` takes them are COCO's, or the scene's, which are made so; else they are MPII's."""
    files = files_of(where)
    return files is None or not _holds_a_list(files.annotations)


def _holds_a_list(labels: Path) -> bool:
    """Whether a JSON file begins as MPII's do; one that can't be read doesn't: COCO's reader raises the error."""
    try:
        with labels.open("rb") as file:
            return file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    except (OSError, ValueError):
        return False


def _check_list(labels: Path) -> None:
    """Refuse a list that is not MPII's for what it is, before anything is said about MPII."""

    def failure(reason: str) -> SourceError:
        return SourceError(f"{labels}: can't read the labels: {reason}")

    entries = read_json(labels, failure, LABELS_LIMIT)
    strange = [entry for entry in entries if not isinstance(entry, dict) or "joints" not in entry]
    if strange or not entries:
        kind = f"a list with {reprlib.repr(strange[0])}" if strange else "an empty list"
        raise SourceError(
            f"{labels}: expected COCO's labels, an object with images and annotations, or MPII's, a list of objects "
            f"with joints; got {kind}"
        )


def _load_coco(
    where: DataFiles, skeleton: Skeleton, *, boxes: Path | None, limit: int | None, ignore_weak: bool
) -> EvaluationData:
    dataset = CocoDataset(where.annotations, where.images, skeleton, boxes=boxes)
    people = sorted(dataset.people, key=lambda person: person.image_id)  # stable: the file's order in a picture
    if ignore_weak:
        for person in people:
            person.keypoints[person.keypoints[:, 2] == _WEAK] = 0
    by_picture = {person.image_id: person for person in people}
    labelled = [] if limit is None else _labelled_pictures(dataset.labels, where.images)
    with_people = list(by_picture) if limit is None else labelled[:limit]
    counted, everywhere = set(with_people), set(labelled)
    missing = {
        number for number, item in dataset.labels.pictures.items() if where.images / item.file_name in dataset.missing
    }
    every = sorted(set(dataset.labels.pictures) - missing)
    used = [person for person in people if person.image_id in counted]
    unlabelled = 0 if limit is None else sum(item.image_id not in everywhere for item in people)
    if not used:
        raise SourceError(
            f"{boxes}: expected boxes in the first {'picture' if limit == 1 else f'{limit} pictures'} with labelled "
            "people, found none; give a higher --limit"
        )
    return EvaluationData(
        name=where.annotations.stem,
        skeleton=skeleton,
        people=People.of(used, labelled=boxes is None),
        image_ids=tuple(every if limit is None else with_people),
        document=dataset.labels.document(ignore_weak=ignore_weak),
        read=lambda image_id: by_picture[image_id].read(),
        left_out=dataset.left_out
        + Counter({_NOT_LABELLED: unlabelled, _AFTER_LIMIT: len(people) - len(used) - unlabelled}),
        notes=tuple(dataset.notes),
        lost=0 if len(with_people) == limit else len(dataset.missing),
    )


def _labelled_pictures(labels: CocoLabels, images: Path) -> list[int]:
    """The ids, ascending, of the pictures with labelled people whose file is there."""
    files = {
        number: images / labels.pictures[number].file_name for number in {item.image_id for item in labels.labelled}
    }
    missing = missing_files(set(files.values()))
    return sorted(number for number, file in files.items() if file not in missing)


def _load_mpii(where: DataFiles, skeleton: Skeleton, *, limit: int | None, head_boxes: Path | None) -> EvaluationData:
    """Where not all head boxes are known, PCKh's unit is the neck-to-head-top segment."""
    if skeleton != MPII16:
        raise SourceError(
            f"{where.annotations}: MPII labels need a model of {MPII16.name}, this one is {skeleton.name}"
        )
    dataset = MpiiDataset(where.annotations, where.images, head_boxes=head_boxes)
    by_picture = {person.image_id: person for person in dataset.people}
    counted = set(list(by_picture)[:limit])
    people = sorted((item for item in dataset.people if item.image_id in counted), key=lambda item: item.image_id)
    exact = all(person.head_size is not None for person in people)
    if not exact:
        people = [replace(person, head_size=head_segment(person.keypoints)) for person in people]
    return EvaluationData(
        name=where.annotations.stem,
        skeleton=skeleton,
        people=People.of(people),
        image_ids=tuple(dict.fromkeys(person.image_id for person in people)),
        document=None,
        read=lambda image_id: by_picture[image_id].read(),
        head_unit="0.6 of the head box's diagonal" if exact else "neck to head top (no head boxes given: not official)",
        left_out=dataset.left_out + Counter({_AFTER_LIMIT: len(dataset.people) - len(people)}),
        notes=tuple(dataset.notes),
        lost=0 if len(counted) == limit else len(dataset.missing),
    )


def _load_scene(spec: str, skeleton: Skeleton, limit: int | None) -> EvaluationData:
    """Frames of the built-in scene, with the people who have a keypoint in the picture."""
    scene = Scene(parse_scene(spec), skeleton)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    people: list[Person] = []
    for frame in islice(scene, limit):
        name = f"frame {frame.index}"
        images.append({"id": frame.index, "file_name": name})
        for box, points in zip(frame.boxes_xyxy, frame.keypoints, strict=True):
            size = box[2:] - box[:2]
            labelled = points[:, 2] > 0
            if size.min() < 1 or not labelled.any():
                continue
            keypoints = points * labelled[:, None]
            area = float(np.prod(size)) * BODY_SHARE
            number = len(people) + 1
            placed = np.concatenate([box[:2], box[:2] + size])
            people.append(Person(frame.index, number, Path(name), placed, keypoints, area))
            annotations.append(
                {
                    "id": number,
                    "image_id": frame.index,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [float(value) for value in (*box[:2], *size)],
                    "area": area,
                    "num_keypoints": int(labelled.sum()),
                    "keypoints": keypoints.ravel().tolist(),
                }
            )
    if not people:
        raise SourceError(f"{spec}: expected people in view, found none")
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    image_ids = tuple(item["id"] for item in images)
    return EvaluationData(
        spec, skeleton, People.of(people), image_ids, document, lambda index: scene.frame(index).image
    )


def _refuse(what: str, options: Mapping[str, Path | bool | None]) -> None:
    for name, value in options.items():
        if value:
            raise InputError(f"--{name} doesn't go with {what}")

"""COCO-format keypoints: people with labels, in boxes from the labels or from a detections file."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from pathlib import Path

import numpy as np

from sharpose.coco.labels import CocoLabels, LabelledPicture, read_coco_labels
from sharpose.errors import SourceError
from sharpose.runtime.boxes.file import BoxesFile
from sharpose.runtime.boxes.sources import OUTSIDE, lie_outside
from sharpose.runtime.frames import ImageId
from sharpose.similarity import BODY_SHARE
from sharpose.skeleton import Skeleton
from sharpose.training.data.sample import FileDataset, Person, PictureSizeError, UndecodableImageError, read_image

_NOBODY = -1  # annotation id of a detection


class CocoDataset(FileDataset):
    """People of a COCO keypoint file.

    Left out, as in the released evaluation: crowd regions, people without labelled keypoints, boxes without area.

    Args:
        annotations: COCO `person_keypoints` JSON.
        images: Folder of its pictures.
        skeleton: Skeleton of its keypoints.
        boxes: A COCO detections file, whose people have no labels; None for labelled boxes.
        weak_weight: Trust in labels of visibility 1; as in others if None. 0 leaves them out.

    Attributes:
        labels: The file's content.

    Raises:
        SourceError: the file can't be read or isn't COCO keypoints of this skeleton, nobody in it can be used, or a box
            lies outside of its picture only because the labels give the picture another size than it has.
        BoxesError: the detections file can't be used.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        skeleton: Skeleton,
        *,
        boxes: Path | None = None,
        weak_weight: float | None = None,
    ) -> None:
        self.labels = read_coco_labels(Path(annotations), skeleton)
        files = {number: Path(images) / item.file_name for number, item in self.labels.pictures.items()}
        if boxes is None:
            people, left_out = _labelled_people(self.labels, files), self.labels.not_used
        else:
            people, left_out = _detected_people(boxes, self.labels, files, skeleton.num_keypoints)
        super().__init__(
            self.labels.path.stem,
            skeleton,
            people,
            weak_weight,
            path=boxes or self.labels.path,
            left_out=left_out,
            notes=self.labels.notes,
        )


def _labelled_people(labels: CocoLabels, files: dict[int, Path]) -> list[Person]:
    people = []
    outside = {
        person.image_id
        for person in labels.people
        if person.box_xyxy is None and min(person.bbox_xywh[2:]) > 0 and person.num_keypoints and not person.is_crowd
    }
    for image_id in outside:
        _check_size(labels.pictures[image_id], files[image_id])
    for person in labels.labelled:
        picture = labels.pictures[person.image_id]
        if picture.width is None or picture.height is None:
            key = "height" if picture.height is None else "width"
            raise SourceError(
                f"{labels.path}: picture {picture.image_id}: {key}: expected pixels, which boxes are cut to, found none"
            )
        assert person.box_xyxy is not None
        keypoints = person.keypoints.astype(np.float32)
        people.append(
            Person(
                person.image_id,
                person.annotation_id,
                files[person.image_id],
                person.box_xyxy,
                keypoints,
                person.area,
                picture_size=(picture.width, picture.height),
            )
        )
    return people


def _check_size(picture: LabelledPicture, file: Path) -> None:
    """Raise `PictureSizeError` where the file has another size than the labels say; one that can't be read passes."""
    size = _size_of(picture)
    nobody = np.zeros((0, 3), np.float32)
    with contextlib.suppress(UndecodableImageError):
        try:
            Person(picture.image_id, _NOBODY, file, nobody, nobody, 0, picture_size=size).read()
        except PictureSizeError as error:
            raise SourceError(str(error)) from None


def _size_of(picture: LabelledPicture) -> tuple[int, int] | None:
    return None if picture.width is None or picture.height is None else (picture.width, picture.height)


def _detected_people(
    boxes_file: Path, labels: CocoLabels, files: dict[int, Path], joints: int
) -> tuple[list[Person], Counter[str]]:
    detections = BoxesFile.load(boxes_file)
    ids: list[ImageId] = list(files)
    if detections.has_names:  # its ids need not be those of the labels
        by_file = dict(zip(files.values(), files, strict=True))
        own = dict(zip(by_file, detections.ids_of(by_file), strict=True))
        ids = [own[file] for file in files.values()]
    else:
        detections.check_image_ids(frozenset(files))
    people, listed, left_out = [], 0, Counter(detections.left_out)
    for own_id, (image_id, file) in zip(ids, files.items(), strict=True):
        boxes = detections.for_image(own_id)
        listed += len(boxes)
        size = _size_of(labels.pictures[image_id])
        if size is None and len(boxes):
            with contextlib.suppress(UndecodableImageError):
                height, width = read_image(file).shape[:2]
                size = width, height
        outside = lie_outside(boxes.xyxy, *(size or (math.inf, math.inf)))
        if outside.any():
            _check_size(labels.pictures[image_id], file)
            left_out[OUTSIDE] += int(outside.sum())
        for box, score in zip(boxes.xyxy[~outside], boxes.scores[~outside], strict=True):
            area = float(np.prod(box[2:] - box[:2])) * BODY_SHARE
            nobody = np.zeros((joints, 3), np.float32)
            people.append(Person(image_id, _NOBODY, file, box, nobody, area, float(score), picture_size=size))
    left_out["in pictures that the labels don't list"] += len(detections) - listed
    return people, +left_out

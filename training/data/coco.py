"""COCO-format keypoints: people with labels, in boxes from the labels or from a detections file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from sharpose.coco_labels import CocoLabels, read_coco_labels
from sharpose.errors import SourceError
from sharpose.runtime.boxes import BoxesFile
from sharpose.runtime.frames import ImageId
from sharpose.similarity import BODY_SHARE
from sharpose.skeleton import Skeleton
from sharpose.training.data.sample import FileDataset, Person

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
        SourceError: the file can't be read or isn't COCO keypoints of this skeleton, or nobody in it can be used.
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
            people, left_out = _detected_people(boxes, files, skeleton.num_keypoints)
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


def _detected_people(boxes_file: Path, files: dict[int, Path], joints: int) -> tuple[list[Person], Counter[str]]:
    detections = BoxesFile.load(boxes_file)
    ids: list[ImageId] = list(files)
    if detections.has_names:  # its ids need not be those of the labels
        by_file = dict(zip(files.values(), files, strict=True))
        own = dict(zip(by_file, detections.ids_of(by_file), strict=True))
        ids = [own[file] for file in files.values()]
    else:
        detections.check_image_ids(frozenset(files))
    people = []
    for own_id, (image_id, file) in zip(ids, files.items(), strict=True):
        boxes = detections.for_image(own_id)
        for box, score in zip(boxes.xyxy, boxes.scores, strict=True):
            area = float(np.prod(box[2:] - box[:2])) * BODY_SHARE
            people.append(Person(image_id, _NOBODY, file, box, np.zeros((joints, 3), np.float32), area, float(score)))
    elsewhere = Counter({"in pictures that the labels don't list": len(detections) - len(people)})
    return people, +(detections.left_out + elsewhere)

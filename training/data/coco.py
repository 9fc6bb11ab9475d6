"""COCO-format keypoints: people with labels, in boxes from the labels or from a detections file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.errors import SourceError
from sharpose.runtime.boxes import BoxesFile
from sharpose.similarity import BODY_SHARE
from sharpose.skeleton import Skeleton
from sharpose.training.data.sample import FileDataset, Person

__all__ = ["CocoDataset", "clean_box"]

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
        document: The file's content.

    Raises:
        SourceError: the file can't be read, or isn't COCO keypoints of this skeleton.
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
        path = Path(annotations)
        self.document = _read(path, skeleton)
        files = {int(item["id"]): Path(images) / str(item["file_name"]) for item in self.document["images"]}
        if boxes is None:
            people = _labelled_people(self.document, files, path)
        else:
            people = _detected_people(boxes, files, skeleton.num_keypoints)
        if not people:
            raise SourceError(
                f"{path}: expected people with labelled keypoints, found none"
                if boxes is None
                else f"{boxes}: expected boxes, found none"
            )
        super().__init__(path.stem, skeleton, people, weak_weight)


def _read(path: Path, skeleton: Skeleton) -> dict[str, Any]:
    """A COCO keypoint document, checked."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise SourceError(f"{path}: can't read the labels ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: expected COCO keypoint JSON; it does not parse ({error})") from None
    joints = skeleton.num_keypoints
    try:
        images = {int(item["id"]) for item in document["images"] if item["file_name"]}
        for item in document["annotations"]:
            if len(item["keypoints"]) != 3 * joints:
                raise SourceError(
                    f"{path}: annotation {item['id']}: expected {joints} keypoints ({skeleton.name}), "
                    f"got {len(item['keypoints']) / 3:g}"
                )
            if len(item["bbox"]) != 4 or item["image_id"] not in images:
                raise SourceError(f"{path}: annotation {item['id']}: expected a box [x, y, w, h] in a listed picture")
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path}: expected COCO keypoints with images and annotations ({error!r})") from None
    assert isinstance(document, dict)
    return document


def clean_box(bbox_xywh: list[float], width: int, height: int) -> npt.NDArray[np.float32] | None:
    """A labelled box, cut to its picture: float32 [4] xyxy, or None where nothing is left of it."""
    x, y, w, h = (float(value) for value in bbox_xywh)
    x1, y1 = max(0.0, x), max(0.0, y)
    x2, y2 = min(width - 1.0, x1 + max(0.0, w)), min(height - 1.0, y1 + max(0.0, h))
    if x2 <= x1 or y2 <= y1:
        return None
    return np.array([x1, y1, x2, y2], np.float32)


def _labelled_people(document: dict[str, Any], files: dict[int, Path], path: Path) -> list[Person]:
    sizes = {int(item["id"]): (item.get("width"), item.get("height")) for item in document["images"]}
    people = []
    for item in document["annotations"]:
        keypoints = np.array(item["keypoints"], np.float32).reshape(-1, 3)
        if item.get("iscrowd") or item.get("num_keypoints") == 0 or not (keypoints[:, 2] > 0).any():
            continue
        width, height = sizes[item["image_id"]]
        if not isinstance(width, int) or not isinstance(height, int):
            raise SourceError(f"{path}: picture {item['image_id']}: expected its width and height, which boxes need")
        box = clean_box(item["bbox"], width, height)
        if box is None or item.get("area", 1) <= 0:
            continue
        area = float(item.get("area", item["bbox"][2] * item["bbox"][3] * BODY_SHARE))
        keypoints[keypoints[:, 2] <= 0] = 0
        people.append(Person(int(item["image_id"]), int(item["id"]), files[item["image_id"]], box, keypoints, area))
    return people


def _detected_people(boxes_file: Path, files: dict[int, Path], joints: int) -> list[Person]:
    detections = BoxesFile.load(boxes_file)
    detections.check_image_ids(frozenset(files))
    people = []
    for image_id, file in files.items():
        boxes = detections.for_image(image_id)
        for box, score in zip(boxes.xyxy, boxes.scores, strict=True):
            area = float(np.prod(box[2:] - box[:2])) * BODY_SHARE
            people.append(Person(image_id, _NOBODY, file, box, np.zeros((joints, 3), np.float32), area, float(score)))
    return people

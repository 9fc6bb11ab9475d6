"""Pictures to compare on: the user's, with or without labels, or the built-in scene. Torch-free."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.coco_ap import coco_scores
from sharpose.errors import ExportError
from sharpose.geometry import crop_frames, extract_crops
from sharpose.runtime.result import Boxes
from sharpose.runtime.sources import open_source
from sharpose.scene import Scene, SceneConfig
from sharpose.skeleton import Skeleton

if TYPE_CHECKING:
    from sharpose.runtime.pipeline import PoseEstimator

__all__ = [
    "MAX_CROPS",
    "LabelledPictures",
    "ParityPictures",
    "crop_people",
    "folder_pictures",
    "load_labels",
    "scene_pictures",
]

MAX_CROPS = 64
"""Most crops that are taken from a user's pictures."""


@dataclass(frozen=True)
class ParityPictures:
    """Crops and where they came from."""

    crops: npt.NDArray[np.uint8]  # uint8 [n, H, W, 3], RGB
    origin: str  # where they came from, for the report


def scene_pictures(crop_size: tuple[int, int], count: int = 16) -> ParityPictures:
    """`count` people of the built-in scene, from frames well apart."""
    crops: list[npt.NDArray[np.uint8]] = []
    scene = Scene(SceneConfig(seed=0, people=4, frames=25 * count))
    for index in range(0, len(scene), 25):
        frame = scene.frame(index)
        crops.extend(crop_people(frame.image, frame.boxes_xyxy, crop_size))
        if len(crops) >= count:
            break
    return ParityPictures(np.stack(crops[:count]), "the built-in scene")


def folder_pictures(folder: Path, crop_size: tuple[int, int]) -> ParityPictures:
    """Every picture of a folder as one crop, up to 64 of them.

    Raises:
        SourceError: the folder holds no picture, or one that can't be decoded.
        ExportError: it isn't a folder.
    """
    if not folder.is_dir():
        raise ExportError(f"--images {folder}: expected a folder of pictures")
    source = open_source(str(folder))
    crops: list[npt.NDArray[np.uint8]] = []
    try:
        for frame in source:
            box = np.array([[0, 0, frame.width, frame.height]], dtype=np.float32)
            crops.extend(crop_people(frame.image, box, crop_size))
            if len(crops) >= MAX_CROPS:
                break
    finally:
        source.close()
    return ParityPictures(np.stack(crops), f"{len(crops)} pictures of {folder.name}")


def crop_people(
    image: npt.NDArray[np.uint8], boxes_xyxy: npt.NDArray[np.float32], crop_size: tuple[int, int]
) -> list[npt.NDArray[np.uint8]]:
    """Crops uint8 [H, W, 3], RGB, of the boxes float32 [n, 4] xyxy in a picture uint8 [h, w, 3], BGR."""
    frames = crop_frames(boxes_xyxy, crop_size)
    out = np.empty((len(frames), *crop_size, 3), dtype=np.uint8)
    return list(extract_crops(image, frames, out))


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures whose people are labelled.

    Attributes:
        document: The labels, as COCO's file has them.
        pictures: File and labelled boxes, float32 [n, 4] xyxy, by image id; only pictures with labelled people.
        origin: Where they came from, for the report.
    """

    document: dict[str, Any]
    pictures: dict[int, tuple[Path, npt.NDArray[np.float32]]]
    origin: str

    def crops(self, crop_size: tuple[int, int]) -> ParityPictures:
        """The labelled people, up to 64 of them, as crops."""
        crops: list[npt.NDArray[np.uint8]] = []
        for path, boxes in self.pictures.values():
            crops.extend(crop_people(_read(path), boxes, crop_size))
            if len(crops) >= MAX_CROPS:
                break
        return ParityPictures(np.stack(crops[:MAX_CROPS]), self.origin)

    def average_precision(self, estimator: PoseEstimator) -> float:
        """COCO keypoint AP (OKS 0.50 to 0.95) of an estimator that is given the labelled boxes."""
        results = []
        for image_id, (path, boxes) in self.pictures.items():
            poses = estimator(_read(path), Boxes.from_xyxy(boxes))
            results += [
                {"image_id": image_id, "category_id": 1, "keypoints": keypoints.ravel().tolist(), "score": float(score)}
                for keypoints, score in zip(poses.keypoints, poses.scores, strict=True)
            ]
        return coco_scores(self.document, results, estimator.skeleton, list(self.pictures)).ap


def load_labels(labels: Path, images: Path, skeleton: Skeleton) -> LabelledPictures:
    """COCO keypoint labels and the pictures that they are for.

    Args:
        labels: COCO `person_keypoints` JSON.
        images: Folder of the pictures, by `file_name`.
        skeleton: What the labels must be of.

    Raises:
        ExportError: pycocotools is missing, the file is not COCO keypoints or of another skeleton, a picture is
            missing, or nobody is labelled.
    """
    try:
        import pycocotools.coco  # noqa: F401
    except ImportError:
        raise ExportError("--labels needs pycocotools: pip install pycocotools") from None
    try:
        content = json.loads(labels.read_text("utf-8"))
        files = {int(item["id"]): str(item["file_name"]) for item in content["images"]}
        people = [item for item in content["annotations"] if item["num_keypoints"] > 0 and not item.get("iscrowd")]
        counts = {len(item["keypoints"]) // 3 for item in people}
        boxes: dict[int, list[list[float]]] = {}
        for item in people:
            left, top, width, height = item["bbox"]
            boxes.setdefault(int(item["image_id"]), []).append([left, top, left + width, top + height])
    except OSError as error:
        raise ExportError(f"--labels {labels}: can't be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"--labels {labels}: expected COCO keypoint annotations ({error!r})") from error
    if not people:
        raise ExportError(f"--labels {labels}: nobody in it has labelled keypoints")
    if counts != {skeleton.num_keypoints}:
        found = ", ".join(map(str, sorted(counts)))
        raise ExportError(f"--labels {labels}: expected {skeleton.num_keypoints} keypoints a person, got {found}")
    pictures = {}
    for image_id, xyxy in boxes.items():
        path = images / files.get(image_id, "")
        if not path.is_file():
            raise ExportError(f"--labels {labels}: picture {path} is missing; give its folder as --images")
        pictures[image_id] = path, np.array(xyxy, np.float32)
    return LabelledPictures(content, pictures, f"the labelled people of {labels.name}")


def _read(path: Path) -> npt.NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ExportError(f"picture {path}: can't be decoded")
    return np.asarray(image, np.uint8)

"""Pictures to compare on: the user's, with or without labels, or the built-in scene. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.coco.ap import PictureMatches, match_pictures
from sharpose.coco.labels import CocoLabels, LabelledPerson, read_coco_labels, usage_line
from sharpose.config import ModelConfig
from sharpose.errors import ExportError, counted, require_packages
from sharpose.files import found_at
from sharpose.geometry import crop_frames, extract_crops
from sharpose.runtime.result import Boxes
from sharpose.runtime.sources.folder import list_files
from sharpose.runtime.sources.pictures import PictureSource
from sharpose.scene import Scene, SceneConfig
from sharpose.skeleton import Skeleton

if TYPE_CHECKING:
    from sharpose.runtime.pipeline import PoseEstimator

MAX_CROPS = 64
"""Most crops that are taken from a user's pictures to compare on."""
INT8_CROPS = 256
"""Most crops that int8 takes, half of them to calibrate on."""
LEAST_CROPS = 32
"""Fewest crops that int8 is calibrated on, and fewest that it is compared on."""
_UNREADABLE = "whose picture can't be read"


@dataclass(frozen=True)
class ParityPictures:
    """Crops and where they came from."""

    crops: npt.NDArray[np.uint8]  # uint8 [n, H, W, 3], RGB
    origin: str  # where they came from, for the report
    usage: Sequence[str] = ()  # how many pictures or people are used, how many are left out and why, a line each
    calibration: npt.NDArray[np.uint8] = field(
        default_factory=lambda: np.empty((0, 0, 0, 3), np.uint8)
    )  # for int8 alone


def choose_pictures(
    images: Path | None, labels: Path | None, config: ModelConfig, *, int8: bool = False
) -> tuple[ParityPictures, LabelledPictures | None]:
    """The labelled people, all pictures of a folder, or the built-in scene; and the labelled pictures.

    Args:
        images: The folder, if there is one.
        labels: COCO keypoints of its pictures, if there are any.
        config: Of the model.
        int8: Whether to take more crops, half of them to calibrate on.

    Raises:
        ExportError: see `load_labels` and `folder_pictures`.
        SourceError: likewise.
    """
    most, labelled = INT8_CROPS if int8 else MAX_CROPS, None
    if labels is not None and images is not None:
        labelled = load_labels(labels, images, config.skeleton)
        pictures = labelled.crops(config.crop_size, most)
    elif images is not None:
        pictures = folder_pictures(images, config.crop_size, most)
    else:
        pictures = scene_pictures(config.crop_size, **({"count": 2 * LEAST_CROPS} if int8 else {}))
    if int8:
        pictures = replace(pictures, crops=pictures.crops[::2], calibration=pictures.crops[1::2])
    return pictures, labelled


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


def folder_pictures(folder: Path, crop_size: tuple[int, int], most: int = MAX_CROPS) -> ParityPictures:
    """Every picture of a folder as one crop, up to `most` of them; those that can't be read are counted.

    Raises:
        SourceError: the folder holds no picture, or none that can be decoded.
        ExportError: it isn't a folder, or one of videos.
    """
    if not folder.is_dir():
        raise ExportError(f"--images {folder}: expected a folder of pictures, found {found_at(folder)}")
    listing = list_files(str(folder))
    if not listing.pictures:
        found = counted(len(listing.videos), "video")
        raise ExportError(f"--images {folder}: expected pictures, found {found}")
    source = PictureSource(str(folder))
    crops: list[npt.NDArray[np.uint8]] = []
    seen = len(source)
    for frame in source:
        box = np.array([[0, 0, frame.width, frame.height]], dtype=np.float32)
        crops.extend(crop_people(frame.image, box, crop_size))
        if len(crops) >= most:
            seen = frame.index + 1
            break
    left_out = Counter({"that can't be read": seen - len(crops), f"after the first {most}": len(source) - seen})
    usage = [f"warning: {line}" for line in source.info.warnings]
    usage.append(usage_line(str(folder), len(crops), +left_out, "picture"))
    return ParityPictures(np.stack(crops), f"{counted(len(crops), 'picture')} of {folder.name}", usage)


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
        labels: The labels.
        pictures: File and labelled boxes, float32 [n, 4] xyxy, by image id; only pictures with labelled people.
        origin: Where they came from, for the report.
        left_out: How many people of the file are not used, by reason.
    """

    labels: CocoLabels
    pictures: dict[int, tuple[Path, npt.NDArray[np.float32]]]
    origin: str
    left_out: Counter[str]

    @property
    def usage(self) -> list[str]:
        """What was assumed, and how many people are used, how many are left out and why; a line each."""
        used = sum(len(boxes) for _, boxes in self.pictures.values())
        return [*(f"note: {n}" for n in self.labels.notes), usage_line(self.labels.path.name, used, self.left_out)]

    def crops(self, crop_size: tuple[int, int], most: int = MAX_CROPS) -> ParityPictures:
        """The labelled people, up to `most` of them, as crops.

        Raises:
            ExportError: no picture can be decoded.
        """
        crops: list[npt.NDArray[np.uint8]] = []
        for _, image, boxes in self._decoded():
            crops.extend(crop_people(image, boxes, crop_size))
            if len(crops) >= most:
                break
        if not crops:
            raise ExportError(f"--labels {self.labels.path}: none of its pictures can be decoded")
        return ParityPictures(np.stack(crops[:most]), self.origin, self.usage)

    def _decoded(self) -> Iterator[tuple[int, npt.NDArray[np.uint8], npt.NDArray[np.float32]]]:
        """Image id, picture and boxes; a picture that can't be decoded is left out from then on, and counted."""
        for image_id, (path, boxes) in list(self.pictures.items()):
            image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)  # labels are in its pixels
            if image is None:
                del self.pictures[image_id]
                self.left_out[_UNREADABLE] += len(boxes)
                continue
            yield image_id, np.asarray(image, np.uint8), boxes

    def matches(self, estimator: PoseEstimator) -> dict[int, PictureMatches]:
        """How an estimator's poses match the labels, by picture; it is given the labelled boxes."""
        results = []
        for image_id, image, boxes in self._decoded():
            poses = estimator(image, Boxes.from_xyxy(boxes))
            results += [
                {
                    "image_id": image_id,
                    "category_id": self.labels.category_id,
                    "keypoints": keypoints.ravel().tolist(),
                    "score": float(score),
                }
                for keypoints, score in zip(poses.keypoints, poses.scores, strict=True)
            ]
        return match_pictures(self.labels.document(), results, estimator.skeleton, list(self.pictures))


def load_labels(labels: Path, images: Path, skeleton: Skeleton) -> LabelledPictures:
    """COCO keypoint labels and the pictures that they are for.

    Args:
        labels: COCO `person_keypoints` JSON.
        images: Folder of the pictures, by `file_name`.
        skeleton: What the labels must be of.

    Raises:
        ExportError: pycocotools is missing, or nobody is labelled in a picture that can be read.
        SourceError: the file is not COCO keypoints, or of another skeleton.
    """
    require_packages("--labels", ["pycocotools.coco"], "eval", ExportError)
    content = read_coco_labels(labels, skeleton)
    people: dict[int, list[LabelledPerson]] = {}
    for person in content.labelled:
        people.setdefault(person.image_id, []).append(person)
    left_out, pictures, lost = Counter(content.not_used), {}, ""
    for image_id, of_picture in people.items():
        path = images / content.pictures[image_id].file_name
        if not (path.is_file() and cv2.haveImageReader(str(path))):  # decoding all of them would take minutes
            lost = lost or _why_unreadable(path)
            left_out[_UNREADABLE] += len(of_picture)
            continue
        corners = np.array([person.bbox_xywh for person in of_picture])
        corners[:, 2:] += corners[:, :2]
        pictures[image_id] = path, corners.astype(np.float32)
    if not pictures:
        raise ExportError(f"--labels {labels}: {lost or 'nobody in it has labelled keypoints'}")
    return LabelledPictures(content, pictures, f"the labelled people of {labels.name}", left_out)


def _why_unreadable(path: Path) -> str:
    what = ": can't be decoded" if path.is_file() else " is missing; give its folder as --images"
    return f"picture {path}{what}"

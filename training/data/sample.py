"""One labelled person in a picture, and what a dataset of them is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.coco.labels import usage_line
from sharpose.errors import InputError, SourceError
from sharpose.skeleton import Skeleton

NAMED = 3  # pictures in messages, of all that can't be used
_WEAK = 1  # COCO visibility of labels that may come from a model


@dataclass(frozen=True)
class Sample:
    """A person in their picture. Raises `InputError` where shapes disagree."""

    image_bgr: npt.NDArray[np.uint8]  # uint8 [H, W, 3], the whole picture
    box_xyxy: npt.NDArray[np.float32]  # float32 [4], `x1, y1, x2, y2` in picture pixels
    # float32 [J, 3], `x, y` in picture pixels and COCO visibility (0 not labelled, 1 hidden, 2 seen)
    keypoints: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]  # float32 [J], trust in a label: 0 none (always where it is not labelled), 1 full
    image_id: int  # the dataset's number of the picture
    annotation_id: int  # the dataset's number of the person
    source: str  # origin of the picture, for messages: a file, or what drew it

    def __post_init__(self) -> None:
        if self.box_xyxy.shape != (4,):
            raise InputError(f"sample {self.source}: expected a box [4], got {list(self.box_xyxy.shape)}")
        if self.keypoints.ndim != 2 or self.keypoints.shape[1] != 3 or self.weights.shape != self.keypoints.shape[:1]:
            raise InputError(
                f"sample {self.source}: expected keypoints [J, 3] and weights [J], got {list(self.keypoints.shape)} "
                f"and {list(self.weights.shape)}"
            )


class PoseDataset(Protocol):
    """Labelled people. `load` must give the same sample for the same arguments, in any process."""

    name: str  # for messages and logs
    skeleton: Skeleton

    def __len__(self) -> int:
        """People in an epoch."""
        ...

    def load(self, index: int, epoch: int = 0) -> Sample:
        """Person `index`, 0 to len - 1. Raises `UndecodableImageError` where the picture can't be read.

        `epoch` is the number of the pass: a dataset that is endless, or a mixture, gives other people each time.
        """
        ...


@dataclass(frozen=True)
class Person:
    """A person whose picture isn't read yet; see `Sample` for the other attributes."""

    image_id: int
    annotation_id: int
    file: Path
    box_xyxy: npt.NDArray[np.float32]
    keypoints: npt.NDArray[np.float32]
    area: float  # square picture pixels that the person covers, for OKS
    score: float = 1.0  # score of the box; 1 for a labelled one
    head_size: float | None = None  # PCKh's unit in picture pixels; None where it isn't known
    picture_size: tuple[int, int] | None = None  # `(width, height)` that the labels are for; None where unknown

    def read(self) -> npt.NDArray[np.uint8]:
        """The picture: uint8 [H, W, 3], BGR. Raises `UndecodableImageError` where it can't be read or used."""
        image = read_image(self.file)
        height, width = image.shape[:2]
        if self.picture_size not in (None, (width, height)):
            raise PictureSizeError(
                f"picture {self.file}: expected {self.picture_size} pixels (width, height), which its labels are for, "
                f"got {(width, height)}"
            )
        return image


class FileDataset:
    """People whose pictures are files: the same in every epoch. Those whose picture is missing are left out.

    Args:
        name: For messages.
        skeleton: Skeleton of the keypoints.
        people: The people, in the dataset's order.
        weak_weight: Trust in labels of visibility 1; as in others if None.
        path: File that they were read from, for messages.
        left_out: How many people of the file are not in `people`, by reason.
        notes: What was assumed in reading them, a line each.

    Raises:
        SourceError: nobody is left.
    """

    def __init__(
        self,
        name: str,
        skeleton: Skeleton,
        people: Sequence[Person],
        weak_weight: float | None = None,
        *,
        path: Path,
        left_out: Counter[str] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.skeleton = skeleton
        self.path = path
        self.missing = missing_files({person.file for person in people})  # pictures
        self.people = [person for person in people if person.file not in self.missing]
        without_picture = len(people) - len(self.people)
        self.left_out = +(Counter(left_out) + Counter({"whose picture is missing": without_picture}))
        self.notes = [*notes, *(f"missing: {file}" for file in sorted(self.missing)[:NAMED])]
        self._weak_weight = weak_weight
        if not self.people:
            first = f"; the first picture that is missing: {min(self.missing)}" if self.missing else ""
            raise SourceError(f"{path}: expected people to use; {self.summary.partition(': ')[2]}{first}")

    @property
    def summary(self) -> str:
        """One line: how many people are used, how many are left out and why."""
        return usage_line(self.path.name, len(self.people), self.left_out)

    def __len__(self) -> int:
        return len(self.people)

    def load(self, index: int, epoch: int = 0) -> Sample:
        """See `PoseDataset.load`."""
        person = self.people[index]
        weights = (person.keypoints[:, 2] > 0).astype(np.float32)
        if self._weak_weight is not None:
            weights[person.keypoints[:, 2] == _WEAK] = self._weak_weight
        image = person.read()
        return Sample(
            image, person.box_xyxy, person.keypoints, weights, person.image_id, person.annotation_id, str(person.file)
        )


def missing_files(files: set[Path]) -> set[Path]:
    """Those that are not there; a folder is listed once, as asking for each file takes minutes over a network."""
    there: dict[Path, set[str]] = {}
    for folder in {file.parent for file in files}:
        try:
            there[folder] = {entry.name for entry in folder.iterdir()}
        except (OSError, ValueError):  # a null character in the name is a ValueError
            there[folder] = set()
    listed = {file for file in files if file.name in there[file.parent]}
    # a file system may take names in another case or form than it lists
    return {file for file in files - listed if not os.path.exists(file)}  # noqa: PTH110 (Path.exists can raise)


class UndecodableImageError(SourceError):
    """A picture is missing or can't be decoded; a loader may skip it and count."""


class PictureSizeError(UndecodableImageError):
    """A picture has another size than its labels say, so that they may be of another picture."""


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """A picture file as uint8 [H, W, 3], BGR, in the orientation of its pixels, as labels are.

    Raises `UndecodableImageError` where it is missing, or isn't a picture that can be decoded.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UndecodableImageError(f"picture {path}: can't be read ({error.strerror})") from None
    # Labels are in the file's own pixels: an orientation tag must not turn them.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(content, flags) if content.size else None
    except cv2.error:
        image = None
    if image is None:
        raise UndecodableImageError(f"picture {path}: can't be decoded")
    return np.asarray(image, np.uint8)

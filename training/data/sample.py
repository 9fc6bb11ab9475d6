"""One labelled person in a picture, and what a dataset of them is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError, SourceError
from sharpose.skeleton import Skeleton

__all__ = ["UNLABELLED_AREA_SHARE", "PoseDataset", "Sample", "UndecodableImageError", "read_image"]

UNLABELLED_AREA_SHARE = 0.53
"""Share of its box that a person is taken to cover where nobody has labelled the area, as COCO-style tools do."""


@dataclass(frozen=True)
class Sample:
    """A person.

    Attributes:
        image_bgr: uint8 [H, W, 3], the whole picture.
        box_xyxy: float32 [4], `x1, y1, x2, y2` in picture pixels.
        keypoints: float32 [J, 3], `x, y` in picture pixels and COCO visibility (0 not labelled, 1 hidden, 2 seen).
        weights: float32 [J], how far a label is trusted: 0 not at all (always where it is not labelled), 1 fully.
        area: Square pixels of the picture that the person covers, for OKS.
        image_id: The dataset's number of the picture.
        annotation_id: The dataset's number of the person.
        source: Where the picture came from, for messages: a file, or what drew it.
        head_size: PCKh's unit in picture pixels, where the dataset knows it.

    Raises:
        InputError: shapes disagree.
    """

    image_bgr: npt.NDArray[np.uint8]
    box_xyxy: npt.NDArray[np.float32]
    keypoints: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    area: float
    image_id: int
    annotation_id: int
    source: str
    head_size: float | None = None

    def __post_init__(self) -> None:
        if self.box_xyxy.shape != (4,):
            raise InputError(f"sample {self.source}: expected a box [4], got {list(self.box_xyxy.shape)}")
        if self.keypoints.ndim != 2 or self.keypoints.shape[1] != 3 or self.weights.shape != self.keypoints.shape[:1]:
            raise InputError(
                f"sample {self.source}: expected keypoints [J, 3] and weights [J], got {list(self.keypoints.shape)} "
                f"and {list(self.weights.shape)}"
            )


class UndecodableImageError(SourceError):
    """A picture is missing or can't be decoded; a loader may skip it and count."""


class PoseDataset(Protocol):
    """Labelled people. `load` must give the same sample for the same arguments, in any process.

    Attributes:
        name: For messages and logs.
        skeleton: What the keypoints are.
    """

    name: str
    skeleton: Skeleton

    def __len__(self) -> int:
        """How many people an epoch has."""
        ...

    def load(self, index: int, epoch: int = 0) -> Sample:
        """Person `index`, 0 to len - 1.

        Args:
            index: Which person.
            epoch: Which pass over the data it is: a dataset that is endless, or a mixture, gives others each time.

        Raises:
            UndecodableImageError: the picture can't be read.
        """
        ...


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """A picture file as uint8 [H, W, 3], BGR, in the orientation of its pixels, as labels are.

    Raises:
        UndecodableImageError: the file is missing, or isn't a picture that can be decoded.
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

"""What a dataset is: numbered, labelled people of one skeleton."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.errors import SourceError
from sharpose.skeleton import Skeleton
from sharpose.training.data.sample import Sample

__all__ = ["PoseDataset", "UndecodableImageError", "read_image"]


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

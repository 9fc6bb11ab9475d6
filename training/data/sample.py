"""One labelled person in a picture: what every dataset hands out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError

__all__ = ["UNLABELLED_AREA_SHARE", "Sample"]

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

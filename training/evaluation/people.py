"""What is evaluated on: pictures, the boxes to look at, and what is known of the people in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.skeleton import Skeleton

__all__ = ["EvaluationData", "People"]


@dataclass(frozen=True)
class People:
    """n boxes to look at, those of a picture next to each other, and the labels in them.

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

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True)
class EvaluationData:
    """Labelled pictures.

    Attributes:
        name: For reports.
        skeleton: What the labels are of.
        people: Where to look.
        image_ids: The pictures that count, with people or without.
        document: COCO keypoint labels, as pycocotools takes them; None where there is no AP (MPII).
        read: A picture, uint8 [H, W, 3] BGR, by id; raises `SourceError` where it can't be decoded.
        head_unit: What `people.head_sizes` are, for reports.
    """

    name: str
    skeleton: Skeleton
    people: People
    image_ids: tuple[int, ...]
    document: dict[str, Any] | None
    read: Callable[[int], npt.NDArray[np.uint8]]
    head_unit: str = ""

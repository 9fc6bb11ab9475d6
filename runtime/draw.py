"""Drawing poses onto pictures."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from sharpose.errors import InputError
from sharpose.runtime.drawing.colours import COLOURS
from sharpose.runtime.drawing.labels import LabelPlacer, draw_label, faces_of, mark_of
from sharpose.runtime.drawing.pen import Pen
from sharpose.runtime.drawing.places import inside
from sharpose.runtime.drawing.regions import draw_regions
from sharpose.runtime.drawing.skeletons import draw_skeletons
from sharpose.runtime.drawing.status import StatusLine, draw_status
from sharpose.runtime.frames import Image
from sharpose.runtime.result import PoseResult
from sharpose.skeleton import Skeleton

__all__ = ["COLOURS", "StatusLine", "draw_poses"]


def draw_poses(
    image: Image,
    poses: PoseResult,
    skeleton: Skeleton,
    *,
    keypoint_threshold: float = 0.3,
    show_boxes: bool = True,
    regions: bool = False,
    status: Callable[[PoseResult], str] | None = None,
) -> Image:
    """A copy of a picture with its people's poses drawn on it.

    The person's left is orange and their right is blue. A joint is larger the surer it is. Labels say the predicted
    quality (`q`). Without ids, boxes are green where the fine stage looked again, yellow where it should have and a
    deadline left no time, else violet. With ids, each has its own colour, labels begin with the id, and a small square
    in the label is green or yellow; people whose track isn't sure yet are grey and have no id.

    Args:
        image: uint8 [H, W, 3], BGR; not changed.
        poses: The poses of its people. What lies outside the picture or is not finite is not drawn.
        skeleton: Which keypoints are joined, and their sides.
        keypoint_threshold: Keypoints that score less are not drawn; a limb needs both of its ends.
        show_boxes: Whether to draw boxes and their labels.
        regions: Whether to tint the regions that the fine stage looked at.
        status: What to write into the upper left corner; what isn't printable ASCII becomes `?`.

    Returns:
        uint8 [H, W, 3], BGR.

    Raises:
        InputError: `image` is not such a picture, `skeleton` has another number of keypoints than `poses`, or `regions`
            are wanted of poses that were made without them.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"drawing: expected a picture uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    if poses.keypoints.shape[1] != skeleton.num_keypoints:
        raise InputError(
            f"drawing: expected {skeleton.num_keypoints} keypoints a person as skeleton {skeleton.name!r} has, "
            f"got {poses.keypoints.shape[1]}"
        )
    if regions and poses.regions_xyxy is None and len(poses):
        raise InputError("drawing: expected poses with regions_xyxy to draw their regions, got poses without")
    canvas = np.array(image, order="C")  # a copy that OpenCV can draw on, whatever the strides
    if not canvas.size:
        return canvas
    _draw_people(canvas, poses, skeleton, keypoint_threshold, show_boxes, regions, status)
    return canvas


def _draw_people(
    canvas: Image,
    poses: PoseResult,
    skeleton: Skeleton,
    threshold: float,
    show_boxes: bool,
    regions: bool,
    status: Callable[[PoseResult], str] | None,
) -> None:
    """In layers, so that nobody's box crosses out somebody's pose, and labels stay readable."""
    boxes, keypoints = poses.boxes_xyxy.astype(np.float64), poses.keypoints.astype(np.float64)
    pens = [Pen.for_person((int(canvas.shape[0]), int(canvas.shape[1])), box) for box in boxes]
    marks = [mark_of(poses, index, bool(deferred)) for index, deferred in enumerate(poses.deferred)]
    corners = inside(boxes, canvas)
    limit = np.array([canvas.shape[1], canvas.shape[0]])
    visible = np.flatnonzero((boxes[:, :2] < limit).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)).tolist()
    if regions and poses.regions_xyxy is not None:
        for index in np.flatnonzero(poses.refined).tolist():
            draw_regions(canvas, poses.regions_xyxy[index], marks[index].colour)
    if show_boxes:
        for index in visible:
            cv2.rectangle(canvas, corners[index][:2], corners[index][2:], marks[index].colour, pens[index].outline)
    draw_skeletons(canvas, keypoints, skeleton, threshold, pens)
    written = None if status is None else draw_status(canvas, status(poses))
    if show_boxes and visible:
        placer = LabelPlacer(canvas, faces_of(keypoints, skeleton, threshold))
        if written is not None:
            placer.take(written)
        for index in visible:
            draw_label(canvas, corners[index], marks[index], placer)

"""Draw poses onto a picture: regions, boxes, skeletons, labels, the status line and the legend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError
from sharpose.runtime.drawing.labels import (
    LabelPlacer,
    LegendEntry,
    draw_label,
    draw_legend,
    draw_status,
    faces_of,
    mark_of,
)
from sharpose.runtime.drawing.style import (
    DARK,
    SHIFT,
    Colour,
    Floats,
    Pen,
    clip_line,
    colour_of,
    fixed_point,
    inside,
    near,
)
from sharpose.runtime.result import Image, PoseResult
from sharpose.skeleton import Skeleton

_REGION_OPACITY = 0.35
# Of a skeleton with many keypoints, those labelled most exactly lie close together: a face's and the hands'.
_MANY, _EXACT, _THIN = 40, 0.05, 0.5


def draw_poses(
    image: Image,
    poses: PoseResult,
    skeleton: Skeleton,
    *,
    keypoint_threshold: float = 0.3,
    show_boxes: bool = True,
    regions: bool = False,
    status: Callable[[PoseResult], str] | None = None,
    legend: Sequence[LegendEntry] = (),
    copy: bool = True,
) -> Image:
    """A picture with its people's poses drawn on it.

    Joints and limbs have the skeleton's colours; where it has none, the person's left is orange and their right is
    blue. A joint is larger the surer it is. Labels say the predicted
    quality (`q`). Without ids, boxes are green where the pose was refined, yellow where it should have been and a
    deadline left no time, else violet. With ids, each has its own colour, labels begin with the id, and a small square
    in the label is green or yellow; people without an id (yet) are grey.

    Args:
        image: uint8 [H, W, 3], BGR; not changed, unless `copy` is false.
        poses: The poses of its people. What lies outside the picture or is not finite is not drawn.
        skeleton: Limbs of the keypoints, and their sides.
        keypoint_threshold: Lowest score of a keypoint that is drawn; a limb needs both of its ends.
        show_boxes: Whether to draw boxes and their labels.
        regions: Whether to tint the regions that the fine stage looked at.
        status: Text for the upper left corner; what isn't printable ASCII becomes `?`.
        legend: What colours and signs mean, for the lower left corner, from `legend_of`.
        copy: Whether to draw on a copy; else on `image` itself, which must be writeable and C-contiguous.

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
    canvas = np.array(image, order="C") if copy else image  # OpenCV can't draw on all strides
    if not canvas.size:
        return canvas
    # In layers, so that nobody's box crosses out somebody's pose, and labels stay readable.
    boxes, keypoints = poses.boxes_xyxy.astype(np.float64), poses.keypoints.astype(np.float64)
    pens = [Pen.for_person((int(canvas.shape[0]), int(canvas.shape[1])), box) for box in boxes]
    marks = [mark_of(poses, index) for index in range(len(poses))]
    corners = inside(boxes, canvas)
    limit = np.array([canvas.shape[1], canvas.shape[0]])
    visible = np.flatnonzero((boxes[:, :2] < limit).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)).tolist()
    if regions and poses.regions_xyxy is not None:
        for index in np.flatnonzero(poses.refined).tolist():
            draw_regions(canvas, poses.regions_xyxy[index], marks[index].colour)
    if show_boxes:
        for index in visible:
            cv2.rectangle(canvas, corners[index][:2], corners[index][2:], marks[index].colour, pens[index].outline)
    draw_skeletons(canvas, keypoints, skeleton, keypoint_threshold, pens)
    taken = [None if status is None else draw_status(canvas, status(poses))]
    taken.append(draw_legend(canvas, legend) if legend else None)
    if show_boxes and visible:
        placer = LabelPlacer(canvas, faces_of(keypoints, skeleton, keypoint_threshold))
        for place in filter(None, taken):
            placer.take(place)
        for index in visible:
            draw_label(canvas, corners[index], marks[index], placer)
    return canvas


def draw_regions(canvas: Image, regions_xyxy: npt.NDArray[np.float32], colour: Colour) -> None:
    """Tint one person's regions, float32 [K, 4] in picture pixels, but for those that are not finite.

    Neighbours keep a line of the picture between them, so that each can be told.
    """
    height, width = canvas.shape[:2]
    regions = regions_xyxy[np.isfinite(regions_xyxy).all(axis=1)].astype(np.float64)
    tiles = np.rint(np.clip(regions, 0, np.array([width, height, width, height]))).astype(int)
    tiles = tiles[(tiles[:, 2] > tiles[:, 0]) & (tiles[:, 3] > tiles[:, 1])]
    if not len(tiles):
        return
    left, top = tiles[:, :2].min(axis=0).tolist()
    right, bottom = tiles[:, 2:].max(axis=0).tolist()
    part = canvas[top:bottom, left:right]
    tinted = part.copy()
    line = max(round((height * width) ** 0.5 / 1000), 1)
    for x1, y1, x2, y2 in (tiles - [left, top, left, top]).tolist():
        end = (max(x2 - 1 - line, x1), max(y2 - 1 - line, y1))  # OpenCV's rectangles hold their last pixel
        cv2.rectangle(tinted, (x1, y1), end, colour, cv2.FILLED)
    cv2.addWeighted(tinted, _REGION_OPACITY, part, 1 - _REGION_OPACITY, 0, dst=part)


def draw_skeletons(canvas: Image, keypoints: Floats, skeleton: Skeleton, threshold: float, pens: Sequence[Pen]) -> None:
    """Everybody's limbs and joints; `keypoints` [n, J, 3]. A joint is larger the surer it is; faces, hands are thin."""
    limbs, joint_colours, groups, thin = _colour_table(skeleton, skeleton.keypoint_colours, skeleton.limb_colours)
    thin_limbs = thin[limbs].all(axis=1)
    points = keypoints[:, :, :2]
    seen = np.isfinite(keypoints).all(axis=2) & (keypoints[:, :, 2] >= threshold)
    close = near(points, canvas) & seen
    fixed = fixed_point(np.where(close[:, :, None], points, 0.0))
    drawn: npt.NDArray[np.bool_] = close[:, limbs[:, 0]] & close[:, limbs[:, 1]]
    lines = fixed[:, limbs]  # [n, limbs, 2, 2]
    for person, limb in np.argwhere(seen[:, limbs].all(axis=2) & ~drawn).tolist():  # those with a far end: few or none
        first, second = points[person, limbs[limb]].tolist()
        part = clip_line((first[0], first[1]), (second[0], second[1]), canvas)
        if part is not None:
            drawn[person, limb] = True
            lines[person, limb] = fixed_point(np.array(part))
    growth = 0.6 + 0.6 * np.clip(np.where(close, keypoints[:, :, 2], 0.0), 0.0, 1.0)
    for person, pen in enumerate(pens):
        fine = max(round(_THIN * pen.line), 1)
        _polylines(canvas, lines[person][drawn[person] & ~thin_limbs], DARK, pen.line + 2 * pen.outline)
        _polylines(canvas, lines[person][drawn[person] & thin_limbs], DARK, fine + 2)
        for colour, of_colour in groups:
            _polylines(canvas, lines[person][drawn[person] & of_colour & ~thin_limbs], colour, pen.line)
            _polylines(canvas, lines[person][drawn[person] & of_colour & thin_limbs], colour, fine)
        inner = np.rint(np.where(thin, _THIN, 1.0) * pen.joint * growth[person] * (1 << SHIFT)).astype(int).tolist()
        ring = round(0.8 * pen.outline * (1 << SHIFT))
        centres = fixed[person].tolist()
        for joint in np.flatnonzero(close[person]).tolist():
            centre, radius = centres[joint], inner[joint]
            if not thin[joint]:
                cv2.circle(canvas, centre, radius + ring, DARK, cv2.FILLED, cv2.LINE_AA, SHIFT)
            cv2.circle(canvas, centre, radius, joint_colours[joint], cv2.FILLED, cv2.LINE_AA, SHIFT)


def _polylines(canvas: Image, lines: npt.NDArray[np.int32], colour: Colour, thickness: int) -> None:
    if len(lines):
        cv2.polylines(canvas, list(lines), False, colour, thickness, cv2.LINE_AA, SHIFT)


@lru_cache(maxsize=16)
def _colour_table(
    skeleton: Skeleton, keypoint_colours: tuple[str, ...], limb_colours: tuple[str, ...]
) -> tuple[
    npt.NDArray[np.intp], tuple[Colour, ...], tuple[tuple[Colour, npt.NDArray[np.bool_]], ...], npt.NDArray[np.bool_]
]:
    """Limbs [L, 2], the colour of each joint, for each colour which limbs have it (bool [L]), and which joints are
    those of a face or hand among many (bool [J]).

    The skeleton's own colours are arguments too, since skeletons are equal whatever their colours.
    """
    joints, limbs = ([colour_of(text) for text in texts] for texts in skeleton.colours)
    groups = tuple((colour, np.array([one == colour for one in limbs])) for colour in dict.fromkeys(limbs))
    exact = np.array(skeleton.sigmas) < _EXACT
    thin = exact if skeleton.num_keypoints > _MANY else np.zeros_like(exact)
    return np.array(skeleton.limbs, np.intp).reshape(-1, 2), tuple(joints), groups, thin

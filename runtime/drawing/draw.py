"""Drawing poses onto pictures: regions, skeletons, boxes, labels and the status line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError
from sharpose.runtime.drawing.labels import LabelPlacer, Lettering, draw_label, draw_text, faces_of, mark_of, plain_text
from sharpose.runtime.drawing.style import (
    COLOURS,
    DARK,
    SHIFT,
    Colour,
    Floats,
    Pen,
    Rect,
    clip_line,
    fixed_point,
    inside,
    near,
)
from sharpose.runtime.frames import Image
from sharpose.runtime.result import PoseResult
from sharpose.skeleton import Skeleton

__all__ = ["COLOURS", "StatusLine", "draw_poses", "draw_regions", "draw_skeletons", "draw_status"]

_STRENGTH = 0.35


def draw_regions(canvas: Image, regions_xyxy: npt.NDArray[np.float32], colour: Colour) -> None:
    """Tint one person's regions, float32 [K, 4] in picture pixels; those with a number that is not finite are left out.

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
    cv2.addWeighted(tinted, _STRENGTH, part, 1 - _STRENGTH, 0, dst=part)


def draw_skeletons(canvas: Image, keypoints: Floats, skeleton: Skeleton, threshold: float, pens: Sequence[Pen]) -> None:
    """Everybody's limbs and joints; `keypoints` [n, J, 3]. A joint is larger the surer it is."""
    limbs, joint_colours, groups = _table(skeleton)
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
        _polylines(canvas, lines[person][drawn[person]], DARK, pen.line + 2 * pen.outline)
        for colour, of_colour in groups:
            _polylines(canvas, lines[person][drawn[person] & of_colour], colour, pen.line)
        inner = np.rint(pen.joint * growth[person] * (1 << SHIFT)).astype(int).tolist()
        ring = round(0.8 * pen.outline * (1 << SHIFT))
        centres = fixed[person].tolist()
        for joint in np.flatnonzero(close[person]).tolist():
            centre, radius = centres[joint], inner[joint]
            cv2.circle(canvas, centre, radius + ring, DARK, cv2.FILLED, cv2.LINE_AA, SHIFT)
            cv2.circle(canvas, centre, radius, joint_colours[joint], cv2.FILLED, cv2.LINE_AA, SHIFT)


def _polylines(canvas: Image, lines: npt.NDArray[np.int32], colour: Colour, thickness: int) -> None:
    if len(lines):
        cv2.polylines(canvas, list(lines), False, colour, thickness, cv2.LINE_AA, SHIFT)


_Groups = tuple[tuple[Colour, npt.NDArray[np.bool_]], ...]


@lru_cache(maxsize=16)
def _table(skeleton: Skeleton) -> tuple[npt.NDArray[np.intp], tuple[Colour, ...], _Groups]:
    """Its limbs [L, 2], the colour of each joint, and for each colour which limbs have it (bool [L])."""
    limbs = np.array(skeleton.limbs, np.intp).reshape(-1, 2)
    colours = [_limb_colour(skeleton, first, second) for first, second in skeleton.limbs]
    groups = tuple(
        (colour, np.array([one == colour for one in colours], np.bool_)) for colour in dict.fromkeys(colours)
    )
    return limbs, tuple(COLOURS[skeleton.side(index)] for index in range(skeleton.num_keypoints)), groups


def _limb_colour(skeleton: Skeleton, first: int, second: int) -> Colour:
    """The colour of the side that a limb belongs to; one that joins left and right belongs to neither."""
    sides = {skeleton.side(first), skeleton.side(second)} - {"centre"}
    return COLOURS[sides.pop() if len(sides) == 1 else "centre"]


class StatusLine:
    """Says `24.8 fps  5 people  2 refined  1 deferred`, for `draw_poses(…, status=…)`.

    Args:
        frame_rate: Gives the frames a second; they aren't counted here, since not every frame is drawn.
    """

    def __init__(self, frame_rate: Callable[[], float]) -> None:
        self._frame_rate = frame_rate

    def __call__(self, poses: PoseResult) -> str:
        """The line for one frame."""
        refined, deferred = int(poses.refined.sum()), int(poses.deferred.sum())
        parts = [f"{self._frame_rate():.1f} fps", f"{len(poses)} {'person' if len(poses) == 1 else 'people'}"]
        parts += [f"{refined} refined"] if refined else []
        parts += [f"{deferred} deferred"] if deferred else []
        return "  ".join(parts)


def draw_status(canvas: Image, text: str) -> Rect | None:
    """Write `text` into the upper left corner, smaller where it is too long; returns where, None for an empty line."""
    text = plain_text(text)
    if not text:
        return None
    height, width = canvas.shape[:2]
    scale = max((height * width) ** 0.5 / 1400, 0.4)
    wide, _ = Lettering(scale).size(text)
    lettering = Lettering(max(scale * min(width / wide, 1.0), 0.2))
    wide, tall = lettering.size(text)
    place = (0, 0, wide, tall)
    draw_text(canvas, text, place, lettering, DARK)
    return place


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

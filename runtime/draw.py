"""Drawing poses onto pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError
from sharpose.runtime.frames import Image
from sharpose.runtime.result import PoseResult
from sharpose.skeleton import Skeleton

__all__ = ["COLOURS", "draw_poses"]

Colour = tuple[int, int, int]
_Rect = tuple[int, int, int, int]  # x1, y1, x2, y2
_Point = tuple[float, float]
Floats = npt.NDArray[np.float64]

# BGR. Orange and blue stay apart for colour-blind eyes, and both stand out from skin and grass.
COLOURS: dict[str, Colour] = {"left": (0, 140, 255), "right": (255, 150, 40), "centre": (240, 240, 240)}
"""What is drawn for each side of the body, the person's own left and right."""

_DARK: Colour = (25, 25, 25)
_BOX: Colour = (240, 150, 220)
_REFINED: Colour = (90, 220, 90)
_FONT = cv2.FONT_HERSHEY_SIMPLEX

_SHIFT = 4  # OpenCV takes coordinates in sixteenths of a pixel
_MARGIN = 64.0  # how far outside the picture something may lie and still show, in pixels


@dataclass(frozen=True)
class _Pen:
    """Sizes in pixels, fit for one person in one picture."""

    line: int
    outline: int
    joint: float

    @classmethod
    def for_person(cls, picture: tuple[int, int], box: Floats) -> _Pen:
        """Thicker in a larger picture, thinner for a person who is small in it."""
        unit = max((picture[0] * picture[1]) ** 0.5 / 250, 1.0)
        person = max(box[2] - box[0], box[3] - box[1]) / 90
        unit = float(np.clip(person, 0.5 * unit, unit))
        return cls(line=max(round(unit), 1), outline=max(round(0.6 * unit), 1), joint=max(1.15 * unit, 1.5))


def draw_poses(
    image: Image, poses: PoseResult, skeleton: Skeleton, *, keypoint_threshold: float = 0.3, show_boxes: bool = True
) -> Image:
    """A copy of a picture with its people's poses drawn on it.

    The person's left is orange and their right is blue. A joint is larger the surer it is. Boxes are green where the
    fine stage looked again, else violet, and say the predicted quality (`q`).

    Args:
        image: uint8 [H, W, 3], BGR; not changed.
        poses: The poses of its people. What lies outside the picture or is not finite is not drawn.
        skeleton: Which keypoints are joined, and their sides.
        keypoint_threshold: Keypoints that score less are not drawn; a limb needs both of its ends.
        show_boxes: Whether to draw boxes and their labels.

    Returns:
        uint8 [H, W, 3], BGR.

    Raises:
        InputError: `image` is not such a picture, or `skeleton` has another number of keypoints than `poses`.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"drawing: expected a picture uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    if poses.keypoints.shape[1] != skeleton.num_keypoints:
        raise InputError(
            f"drawing: expected {skeleton.num_keypoints} keypoints a person as skeleton {skeleton.name!r} has, "
            f"got {poses.keypoints.shape[1]}"
        )
    canvas = np.array(image, order="C")  # a copy that OpenCV can draw on, whatever the strides
    if not len(poses) or not canvas.size:
        return canvas
    picture = (int(image.shape[0]), int(image.shape[1]))
    boxes = poses.boxes_xyxy.astype(np.float64)
    keypoints = poses.keypoints.astype(np.float64)
    pens = [_Pen.for_person(picture, box) for box in boxes]
    limit = np.array([picture[1], picture[0]])
    visible = np.flatnonzero((boxes[:, :2] < limit).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)).tolist()
    # In layers, so that nobody's box crosses out somebody's pose, and labels stay readable.
    if show_boxes:
        for index in visible:
            _draw_box(canvas, boxes[index], _REFINED if poses.refined[index] else _BOX, pens[index])
    for points, pen in zip(keypoints, pens, strict=True):
        _draw_pose(canvas, points, skeleton, keypoint_threshold, pen)
    if show_boxes:
        taken: list[_Rect] = []
        for index in visible:
            quality, refined = float(poses.quality[index]), bool(poses.refined[index])
            taken.append(_draw_label(canvas, boxes[index], quality, refined, taken))
    return canvas


def _draw_pose(canvas: Image, keypoints: Floats, skeleton: Skeleton, threshold: float, pen: _Pen) -> None:
    """One person's limbs and joints; `keypoints` [J, 3]."""
    seen = (np.isfinite(keypoints).all(axis=1) & (keypoints[:, 2] >= threshold)).tolist()
    points: list[_Point] = [(x, y) for x, y in keypoints[:, :2].tolist()]  # Python's floats: many small sums
    lines: dict[Colour, list[npt.NDArray[np.int32]]] = {}
    for first, second in skeleton.limbs:
        if seen[first] and seen[second]:
            part = _clip(points[first], points[second], canvas)
            if part is not None:
                colour = _limb_colour(skeleton, first, second)
                lines.setdefault(colour, []).append(np.array([_fixed_point(end) for end in part], np.int32))
    _draw_lines(canvas, (line for group in lines.values() for line in group), _DARK, pen.line + 2 * pen.outline)
    for colour, group in lines.items():
        _draw_lines(canvas, group, colour, pen.line)

    for index, point in enumerate(points):
        if seen[index] and _near(point, canvas):
            radius = pen.joint * (0.6 + 0.6 * min(max(float(keypoints[index, 2]), 0.0), 1.0))
            for colour, grown in ((_DARK, radius + 0.8 * pen.outline), (COLOURS[skeleton.side(index)], radius)):
                size = round(grown * (1 << _SHIFT))
                cv2.circle(canvas, _fixed_point(point), size, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _draw_lines(canvas: Image, lines: Iterable[npt.NDArray[np.int32]], colour: Colour, thickness: int) -> None:
    cv2.polylines(canvas, list(lines), False, colour, thickness, cv2.LINE_AA, _SHIFT)


def _draw_box(canvas: Image, box: Floats, colour: Colour, pen: _Pen) -> None:
    x1, y1, x2, y2 = _inside(box, canvas)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, max(pen.outline, 1))


def _draw_label(canvas: Image, box: Floats, quality: float, refined: bool, taken: list[_Rect]) -> _Rect:
    """A label at the box, whole inside the picture, where no label is yet if there is such a place; returns where."""
    height, width = canvas.shape[:2]
    x1, y1, x2, y2 = _inside(box, canvas)
    picture = (height * width) ** 0.5
    scale = max(picture / 1400 * min(max((y2 - y1) / (0.3 * picture), 0.65), 1.0), 0.32)
    thickness = max(round(1.6 * scale), 1)
    pad = max(round(5 * scale), 2)
    text = f"q {quality:.2f} refined" if refined else f"q {quality:.2f}"
    (wide, high), below = cv2.getTextSize(text, _FONT, scale, thickness)
    if refined and wide > 1.5 * (x2 - x1):  # in a crowd the colour says it
        text = f"q {quality:.2f}"
        (wide, high), below = cv2.getTextSize(text, _FONT, scale, thickness)
    wide, tall = wide + 2 * pad, high + below + pad

    left = max(min(x1, width - wide), 0)
    tops = [max(min(top, height - tall), 0) for top in (y1 - tall, y1, y2, y2 - tall)]
    places = [(left, top, left + wide, top + tall) for top in tops]
    free = (place for place in places if not any(_overlap(place, other) for other in taken))
    place = next(free, places[0])
    cv2.rectangle(canvas, place[:2], (place[2] - 1, place[3] - 1), _REFINED if refined else _BOX, cv2.FILLED)
    baseline = (left + pad, place[1] + high + pad // 2)
    cv2.putText(canvas, text, baseline, _FONT, scale, _DARK, thickness, cv2.LINE_AA)
    return place


def _overlap(one: _Rect, other: _Rect) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _limb_colour(skeleton: Skeleton, first: int, second: int) -> Colour:
    """The colour of the side that a limb belongs to; one that joins left and right belongs to neither."""
    sides = {skeleton.side(first), skeleton.side(second)} - {"centre"}
    return COLOURS[sides.pop() if len(sides) == 1 else "centre"]


def _fixed_point(point: _Point) -> tuple[int, int]:
    return round(point[0] * (1 << _SHIFT)), round(point[1] * (1 << _SHIFT))


def _near(point: _Point, canvas: Image) -> bool:
    """Whether what lies there can show in the picture; what lies far off would overflow OpenCV's integers."""
    height, width = int(canvas.shape[0]), int(canvas.shape[1])
    return -_MARGIN <= point[0] <= width + _MARGIN and -_MARGIN <= point[1] <= height + _MARGIN


def _inside(box: Floats, canvas: Image) -> _Rect:
    """The box in whole pixels, moved to the picture's edge where it reaches beyond."""
    limit = np.array([canvas.shape[1] - 1, canvas.shape[0] - 1] * 2)
    x1, y1, x2, y2 = np.clip(np.round(box), 0, limit).astype(int).tolist()
    return x1, y1, x2, y2


def _clip(start: _Point, end: _Point, canvas: Image) -> tuple[_Point, _Point] | None:
    """The part of a limb that lies near the picture, its direction kept; None where no part does.

    Moving a far end to the picture's edge would turn the limb; OpenCV's own clipping overflows on huge numbers.
    """
    if _near(start, canvas) and _near(end, canvas):
        return start, end
    low, high = -_MARGIN, (canvas.shape[1] + _MARGIN, canvas.shape[0] + _MARGIN)
    enter, leave = 0.0, 1.0  # the part of the limb that is inside the bounds of the axes so far
    for axis in (0, 1):
        step = end[axis] - start[axis]
        if step == 0:
            if not low <= start[axis] <= high[axis]:
                return None
            continue
        bounds = sorted(((low - start[axis]) / step, (high[axis] - start[axis]) / step))
        enter, leave = max(enter, bounds[0]), min(leave, bounds[1])
    if enter > leave:
        return None

    def at(part: float) -> _Point:
        # Clamped as well: at 1e30 a sum of floats misses the edge by more than a picture.
        x, y = (start[axis] + part * (end[axis] - start[axis]) for axis in (0, 1))
        return min(max(x, low), high[0]), min(max(y, low), high[1])

    return at(enter), at(leave)

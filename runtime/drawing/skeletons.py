"""Limbs and joints."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.runtime.drawing.colours import COLOURS, DARK, Colour
from sharpose.runtime.drawing.pen import Pen
from sharpose.runtime.drawing.places import SHIFT, Floats, clip_line, fixed_point, near
from sharpose.runtime.frames import Image
from sharpose.skeleton import Skeleton

__all__ = ["draw_skeletons"]


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

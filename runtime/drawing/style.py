"""Colours, sizes, and what of the drawing lies in the picture."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sharpose.runtime.result import Image
from sharpose.skeleton import SIDE_COLOURS

Colour = tuple[int, int, int]
"""Blue, green, red."""
Floats = npt.NDArray[np.float64]
Point = tuple[float, float]
Rect = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels, x2 and y2 left out."""


def colour_of(text: str) -> Colour:
    """The colour that `#rrggbb` names."""
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return blue, green, red


# Orange and blue stay apart for colour-blind eyes, and both stand out from skin and grass.
COLOURS: dict[str, Colour] = {side: colour_of(text) for side, text in SIDE_COLOURS.items()}
"""By side of the body, the person's own left and right."""
DARK: Colour = (25, 25, 25)
LIGHT: Colour = (250, 250, 250)
PLAIN: Colour = (240, 150, 220)
"""A person whose coarse pose was good enough."""
REFINED: Colour = (90, 220, 90)
DEFERRED: Colour = (60, 190, 250)
"""A person who should have been refined, had there been time."""
UNSURE: Colour = (185, 185, 185)
"""A person without a track id (yet)."""

SHIFT = 4
"""OpenCV takes coordinates in sixteenths of a pixel."""
MARGIN = 64.0
"""How far outside the picture something may lie and still show, in pixels."""

_GOLDEN = 0.618033988749895  # steps by it spread over the hues without ever meeting
# Saturation and value. Ids that are 13, 21 or 34 apart have nearly the same hue, but another tone.
_TONES = ((0.60, 1.0), (0.90, 0.90), (0.40, 0.85), (0.75, 1.0))


@lru_cache(maxsize=4096)
def track_colour(track_id: int) -> Colour:
    """The colour of a track: the same for the same id in every run, and far from those of the ids before and after."""
    if track_id <= 0:
        return UNSURE
    hue = (track_id * _GOLDEN) % 1.0
    saturation, value = _TONES[track_id % len(_TONES)]
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return blue, green, red


def text_colour(background: Colour) -> Colour:
    """Dark or light, whichever can be read on `background`."""
    blue, green, red = background
    return DARK if 0.114 * blue + 0.587 * green + 0.299 * red > 110 else LIGHT


@dataclass(frozen=True)
class Pen:
    """Sizes in pixels for one person in one picture: thickness of limbs and outlines, radius of joints."""

    line: int
    outline: int
    joint: float

    @classmethod
    def for_person(cls, picture: tuple[int, int], box: Floats) -> Pen:
        """Thicker in a larger picture (its height and width), thinner for a person who is small in it."""
        unit = max((picture[0] * picture[1]) ** 0.5 / 250, 1.0)
        person = max(box[2] - box[0], box[3] - box[1]) / 90
        unit = float(np.clip(person, 0.5 * unit, unit))
        return cls(line=max(round(unit), 1), outline=max(round(0.6 * unit), 1), joint=max(1.15 * unit, 1.5))


def near(points: Floats, canvas: Image) -> npt.NDArray[np.bool_]:
    """Whether what lies at each point [..., 2] can show in the picture; false where a number is not finite."""
    x, y = points[..., 0], points[..., 1]
    right, bottom = canvas.shape[1] + MARGIN, canvas.shape[0] + MARGIN
    return np.asarray((x >= -MARGIN) & (x <= right) & (y >= -MARGIN) & (y <= bottom))


def fixed_point(points: Floats) -> npt.NDArray[np.int32]:
    """Points [..., 2] near the picture as OpenCV takes them."""
    return np.rint(points * (1 << SHIFT)).astype(np.int32)


def inside(boxes: Floats, canvas: Image) -> list[Rect]:
    """Boxes [n, 4] in whole pixels, clipped to the picture; here x2 and y2 are in them."""
    limit = np.array([canvas.shape[1] - 1, canvas.shape[0] - 1] * 2)
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in np.clip(np.round(boxes), 0, limit).astype(int).tolist()]


def clip_line(start: Point, end: Point, canvas: Image) -> tuple[Point, Point] | None:
    """The part of a line that lies near the picture, its direction kept; None where no part does (Liang and Barsky).

    Moving a far end to the picture's edge would turn the line; OpenCV's own clipping overflows on huge numbers.
    """
    low, high = -MARGIN, (canvas.shape[1] + MARGIN, canvas.shape[0] + MARGIN)
    enter, leave = 0.0, 1.0  # the part of the line that is inside the bounds of the axes so far
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

    def at(part: float) -> Point:
        # Clamped as well: at 1e30 a sum of floats misses the edge by more than a picture.
        x, y = (start[axis] + part * (end[axis] - start[axis]) for axis in (0, 1))
        return min(max(x, low), high[0]), min(max(y, low), high[1])

    return at(enter), at(leave)

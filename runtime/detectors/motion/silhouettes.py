"""From a mask of the foreground to people's boxes: fragments are joined, and groups taken apart by usual size."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["FoundPeople", "PersonSize", "find_people"]

_KEPT = 2000  # samples
_ENOUGH = 40
_REFIT_EVERY = 25
_BANDS = 6
_ASPECTS = (1.6, 3.5)  # height to width of somebody who walks alone; two, one behind the other, are slimmer
_SHARE = 0.4  # of the weight lies below: groups are taller than people, and weigh more
_DEFAULT_ASPECT = 2.4
_NARROWEST = 0.5  # of the usual height: what the line may not fall below


class PersonSize:
    """A straight line from the y of the feet to the height in pixels, as a flat floor and a level camera give it.

    Until enough people have been seen nothing is known.
    """

    def __init__(self) -> None:
        self._feet: deque[float] = deque(maxlen=_KEPT)
        self._heights: deque[float] = deque(maxlen=_KEPT)
        self._widths: deque[float] = deque(maxlen=_KEPT)
        self._new = 0
        self._slope = 0.0
        self._at_zero = 0.0
        self._usual = 0.0
        self.aspect = _DEFAULT_ASPECT

    @property
    def known(self) -> bool:
        """Whether enough people were seen."""
        return self._usual > 0

    def height(self, feet: float) -> float:
        """How high, in pixels, somebody is whose feet are at y `feet`; 0 while nothing is known."""
        return max(self._at_zero + self._slope * feet, _NARROWEST * self._usual)

    def feet_below(self, head: float) -> float:
        """Where the feet are of somebody whose head is at y `head`, when they can't be seen."""
        return (head + self._at_zero) / max(1 - self._slope, 0.2)

    def see(self, feet: float, height: float, width: float) -> None:
        """Somebody who seems to walk alone, wholly in sight."""
        if not _ASPECTS[0] <= height / max(width, 1) <= _ASPECTS[1]:
            return
        self._feet.append(feet)
        self._heights.append(height)
        self._widths.append(width)
        self._new += 1
        if self._new >= _REFIT_EVERY and len(self._feet) >= _ENOUGH:
            self._new = 0
            self._fit()

    def _fit(self) -> None:
        """Through the medians of a few bands, by area: specks are many, but small."""
        feet, heights, widths = (np.array(values) for values in (self._feet, self._heights, self._widths))
        areas = heights * widths
        self._usual = _typical(heights, areas)
        self.aspect = _typical(heights / widths, areas)
        bands = np.array_split(np.argsort(feet), _BANDS)
        x = np.array([np.median(feet[band]) for band in bands])
        y = np.array([_typical(heights[band], areas[band]) for band in bands])
        # The median of all slopes between bands, which one odd band doesn't turn (Theil and Sen).
        first, second = np.triu_indices(_BANDS, 1)
        apart = x[second] - x[first] > 0.25 * self._usual
        slopes = (y[second] - y[first])[apart] / (x[second] - x[first])[apart]
        # Who is nearer looks larger, never smaller; and no floor is so steep that people grow faster than they come.
        self._slope = float(np.clip(np.median(slopes), 0.0, 0.8)) if slopes.size else 0.0
        self._at_zero = float(np.median(y - self._slope * x))


def _typical(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    """A little less than the weighted median."""
    order = np.argsort(values)
    passed = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(passed, _SHARE * passed[-1])])


_ALONE, _IN_GROUP, _FRAGMENT = 0.9, 0.6, 0.3  # scores
_SMALLEST = 14.0  # pixels: below it a body is a smear
_HEIGHTS = (0.62, 1.3)  # of the expected height, of somebody alone
_WIDE, _WIDEST = 1.3, 1.8  # of the expected width: may be two, can't be one
_LEAST_SEEN = 0.4  # of a silhouette
_ROUNDS = 2
_APART = (0.35, 0.6)  # of height and width: one of both, at least, lies between two people
_LEAST_FRAGMENT = 0.35
_HALF_SEEN = 0.5  # of the expected height
_LEAST_CUT = 0.22  # of the expected height, of somebody who comes in over the picture's border
_SILHOUETTES_NARROWEST = 0.35  # of the expected width
_LEAST_FILL = 0.25  # of a box, by a body
_FIRST_ASPECTS = (1.4, 5.0)  # height to width, while the size of people is unknown
_MATCH = 0.45  # of a silhouette's worth that must be in front, and not yet somebody else's
_MOST_IN_A_GROUP = 12

Mask = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FoundPeople:
    """Boxes in mask pixels.

    Attributes:
        xyxy: float32 [n, 4].
        scores: float32 [n]: 0.9 for somebody alone, 0.6 in a group, 0.3 for a part of somebody.
    """

    xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]


def find_people(front: Mask, visible: Mask, size: PersonSize) -> FoundPeople:
    """The people in a mask.

    Args:
        front: uint8 [H, W], 255 where something is in front; other values count as empty.
        visible: uint8 [H, W], 1 where the picture reaches, else 0.
        size: How large people are; learns from those who are alone.
    """
    mask = _joined(front, size)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    boxes: list[tuple[float, float, float, float]] = []
    scores: list[float] = []
    for label in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[label])
        if height < _LEAST_FRAGMENT * _SMALLEST or width < 3:
            continue
        sides = _cut_sides(visible, x, y, x + width, y + height)
        blob = _Blob(x, y, width, height, area, any(sides), sides[-1])
        # Learned from by its shape alone, never by the size that is believed: a wrong belief would feed itself.
        if blob.looks_like_one() and not blob.cut:
            size.see(y + height, height, width)
        if not size.known:
            if blob.looks_like_one():
                boxes.append(blob.xyxy)
                scores.append(_ALONE)
            continue
        expected = blob.expected_height(size)
        one = blob.is_one(expected, size.aspect)
        if height > _HEIGHTS[1] * expected or width > _WIDE * expected / size.aspect:
            own = labels[y : y + height, x : x + width] == label
            apart = _take_apart(own, blob, visible, size)
            if len(apart) > 1 or not one:
                boxes += [(x + left, y + top, x + right, y + bottom) for left, top, right, bottom in apart]
                scores += [_sure(_IN_GROUP, bottom - top, expected) for _, top, _, bottom in apart]
                continue
        if one:
            boxes.append(blob.xyxy)
            scores.append(_sure(_ALONE, height, expected))
        elif height >= _LEAST_FRAGMENT * expected:
            boxes.append(blob.xyxy)
            scores.append(_FRAGMENT)
    return FoundPeople(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32))


def _sure(score: float, height: float, expected: float) -> float:
    """The score of somebody of whom so much is in sight: legs below the picture's border are not yet somebody."""
    return score if height >= _HALF_SEEN * expected else _FRAGMENT


@dataclass(frozen=True)
class _Blob:
    x: int
    y: int
    width: int
    height: int
    area: int
    cut: bool  # by the picture's border
    bottom_cut: bool

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return self.x, self.y, self.x + self.width, self.y + self.height

    def looks_like_one(self) -> bool:
        """By its shape alone."""
        aspect = self.height / self.width
        return (
            self.height >= _SMALLEST
            and _FIRST_ASPECTS[0] <= aspect <= _FIRST_ASPECTS[1]
            and self.area >= _LEAST_FILL * self.width * self.height
        )

    def expected_height(self, size: PersonSize) -> float:
        feet = self.y + self.height
        return size.height(max(size.feet_below(self.y), feet) if self.bottom_cut else feet)

    def is_one(self, expected: float, aspect: float) -> bool:
        least = _LEAST_CUT if self.cut else _HEIGHTS[0]
        return (
            self.width >= _SILHOUETTES_NARROWEST * expected / aspect
            and least * expected <= self.height <= _HEIGHTS[1] * expected
            and self.width <= _WIDEST * expected / aspect
            and self.area >= _LEAST_FILL * self.width * self.height
        )


def _cut_sides(visible: Mask, x1: int, y1: int, x2: int, y2: int) -> tuple[bool, bool, bool, bool]:
    """Which sides of a blob lie at the picture's border: left, right, top, bottom."""
    rows, columns = visible.shape
    middle_x, middle_y = (x1 + x2) // 2, (y1 + y2) // 2
    return (
        x1 < 2 or not visible[middle_y, x1 - 2],
        x2 + 1 >= columns or not visible[middle_y, x2 + 1],
        y1 < 2 or not visible[y1 - 2, middle_x],
        y2 + 1 >= rows or not visible[y2 + 1, middle_x],
    )


def _joined(front: Mask, size: PersonSize) -> Mask:
    """Specks removed, and the pieces of a body joined: more across gaps one above the other than side by side."""
    mask = np.where(front == 255, np.uint8(255), np.uint8(0))
    mask = np.asarray(cv2.medianBlur(mask, 3), np.uint8)
    usual = size.height(0.5 * front.shape[0]) if size.known else 2 * _SMALLEST
    across, down = max(int(0.06 * usual) | 1, 3), max(int(0.2 * usual) | 1, 3)
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((down, across), np.uint8)), np.uint8)


def _take_apart(own: Bools, blob: _Blob, visible: Mask, size: PersonSize) -> list[tuple[float, float, float, float]]:
    """Boxes, in pixels of `own`, of the people that a group's mask is best explained by.

    A silhouette is laid everywhere; where most of it is in front, and least of its surroundings, somebody stands. The
    next one has to explain what is left. Then each is placed once more in the light of the others.
    """
    usual = size.height(blob.y + blob.height)
    high, wide = max(round(usual), 4), max(round(usual / size.aspect), 3)
    silhouette = _silhouette(high, wide)
    body = np.maximum(silhouette, 0)
    claim = cv2.dilate(body, np.ones((3, max(wide // 4, 1)), np.uint8))
    pad_y, pad_x = high // 2, wide // 2
    near_y, near_x = round(_APART[0] * high), round(_APART[1] * wide)
    left = np.pad(own.astype(np.float32), ((pad_y, pad_y), (pad_x, pad_x)))
    if left.shape[0] < high or left.shape[1] < wide:
        return []
    # Beyond the picture's border nothing is known, so nothing is missed there.
    known = np.zeros_like(left)
    seen = visible[
        max(blob.y - pad_y, 0) : blob.y + blob.height + pad_y, max(blob.x - pad_x, 0) : blob.x + blob.width + pad_x
    ]
    top, start = max(pad_y - blob.y, 0), max(pad_x - blob.x, 0)
    known[top : top + seen.shape[0], start : start + seen.shape[1]] = seen
    worth = np.maximum(cv2.matchTemplate(known, body, cv2.TM_CCORR), _LEAST_SEEN * body.sum())

    places: list[tuple[int, int]] = []

    def place() -> bool:
        match = cv2.matchTemplate(left, silhouette, cv2.TM_CCORR) / worth
        for x, y in places:  # two people can't stand on one spot
            match[max(y - near_y, 0) : y + near_y + 1, max(x - near_x, 0) : x + near_x + 1] = 0
        _, best, _, (x, y) = cv2.minMaxLoc(match)
        if best < _MATCH:
            return False
        places.append((x, y))
        left[y : y + high, x : x + wide] -= claim
        return True

    while len(places) < _MOST_IN_A_GROUP and place():
        pass
    for _ in range(_ROUNDS if len(places) > 1 else 0):
        for x, y in list(places):
            places.remove((x, y))
            left[y : y + high, x : x + wide] += claim
            place()
    while len(places) < _MOST_IN_A_GROUP and place():
        pass
    tight = (_tight(own, x - pad_x, y - pad_y, high, wide) for x, y in places)
    return [box for box in tight if box is not None]


def _tight(own: Bools, x: int, y: int, high: int, wide: int) -> tuple[float, float, float, float] | None:
    """The box of what is in front where somebody was found; None where nothing is."""
    x1, y1 = max(x, 0), max(y, 0)
    part = own[y1 : y + high, x1 : x + wide]
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    if not rows.size:
        return None
    return float(x1 + columns[0]), float(y1 + rows[0]), float(x1 + columns[-1] + 1), float(y1 + rows[-1] + 1)


def _silhouette(high: int, wide: int) -> npt.NDArray[np.float32]:
    """float32 [high, wide]: above 0 where a walker's body is, below where it isn't."""
    shape = np.zeros((96, 40), np.uint8)
    cv2.ellipse(shape, (20, 9), (6, 9), 0, 0, 360, 255, -1)
    cv2.ellipse(shape, (20, 36), (13, 23), 0, 0, 360, 255, -1)
    cv2.fillPoly(shape, [np.array([(9, 42), (31, 42), (29, 95), (11, 95)], np.int32)], 255)
    inside = cv2.resize(cv2.GaussianBlur(shape, (9, 9), 0), (wide, high), interpolation=cv2.INTER_AREA) / 255.0
    return np.asarray(1.8 * inside - 0.8, np.float32)

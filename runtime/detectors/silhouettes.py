"""From a foreground mask to people's boxes: fragments are joined, and groups split by the usual size of people."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.runtime.detectors.background import Mask

_ALONE, _IN_GROUP, _FRAGMENT = 0.9, 0.6, 0.3  # scores
_SMALLEST = 14.0  # pixels: below it a body is a smear
_HEIGHTS = (0.62, 1.3)  # of the expected height, of somebody alone
_NARROWEST, _WIDE, _WIDEST = 0.35, 1.3, 1.8  # of the expected width: must be, may be two, can't be one
_LEAST_FRAGMENT = 0.35
_HALF_SEEN = 0.5  # of the expected height
_LEAST_CUT = 0.22  # of the expected height, of somebody who comes in over the picture's border
_LEAST_FILL = 0.25  # of a box, by a body
_FIRST_ASPECTS = (1.4, 5.0)  # height to width, while the usual size is unknown

_LEAST_SEEN = 0.4  # of a silhouette
_MATCH = 0.45  # of a silhouette that must be in front, and not yet somebody else's
_APART = (0.35, 0.6)  # of height and width: one of both, at least, lies between two people
_ROUNDS = 2
_MOST_IN_A_GROUP = 12

_SAMPLES, _ENOUGH_SAMPLES = 2000, 40
_REFIT_EVERY = 25  # samples
_BANDS = 6
_ASPECTS = (1.6, 3.5)  # height to width of somebody who walks alone; two, one behind the other, are slimmer
_SHARE = 0.4  # of the weight lies below: groups are taller than people, and weigh more
_LOWEST = 0.5  # of the usual height: what the line may not fall below

_Box = tuple[float, float, float, float]
_Floats = npt.NDArray[np.float32]
_Values = npt.NDArray[np.float64]


class PersonSize:
    """The usual height of people by where they stand: a straight line, as a flat floor and a level camera give it."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float, float]] = deque(maxlen=_SAMPLES)  # y of the feet, height, width
        self._new = 0
        self._slope = self._at_zero = self._usual = 0.0
        self.known = False  # whether enough people were seen to tell
        self.aspect = 2.4  # usual height to width

    def height(self, feet: float) -> float:
        """Height in pixels of somebody whose feet are at y `feet`; 0 while nothing is known."""
        return max(self._at_zero + self._slope * feet, _LOWEST * self._usual)

    def feet_below(self, head: float) -> float:
        """Y of the hidden feet of somebody whose head is at y `head`."""
        return (head + self._at_zero) / max(1 - self._slope, 0.2)

    def add(self, feet: float, height: float, width: float) -> None:
        """Learn from somebody who seems to walk alone, wholly in sight."""
        if not _ASPECTS[0] <= height / max(width, 1) <= _ASPECTS[1]:
            return
        self._samples.append((feet, height, width))
        self._new += 1
        if self._new >= _REFIT_EVERY and len(self._samples) >= _ENOUGH_SAMPLES:
            self._new = 0
            self._fit()

    def _fit(self) -> None:
        """Through the medians of a few bands, by area: specks are many, but small."""
        feet, heights, widths = np.array(self._samples).T
        areas = heights * widths
        self.known, self._usual = True, _typical(heights, areas)
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


def _typical(values: _Values, weights: _Values) -> float:
    """A little less than the weighted median."""
    order = np.argsort(values)
    passed = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(passed, _SHARE * passed[-1])])


def find_people(
    front: Mask, visible: Mask, size: PersonSize
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The people in a foreground mask.

    `front` [H, W] is 255 where something is in front; other values count as empty. `visible` [H, W] is 1 where the
    picture reaches. `size` learns from those who are alone. Boxes [n, 4] are x1, y1, x2, y2 in mask pixels; scores [n]
    are 0.9 for somebody alone, 0.6 in a group, 0.3 for a fragment of somebody.
    """
    if not cv2.countNonZero(front):
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(_joined(front, size), connectivity=8)
    boxes: list[_Box] = []
    scores: list[float] = []
    for label in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[label])
        if height < _LEAST_FRAGMENT * _SMALLEST or width < 3:
            continue
        feet = y + height
        solid = area >= _LEAST_FILL * width * height
        cut, feet_cut = _cut_by_border(visible, x, y, x + width, feet)
        body = solid and height >= _SMALLEST and _FIRST_ASPECTS[0] <= height / width <= _FIRST_ASPECTS[1]
        # Learned from by its shape alone, never by the size that is believed: a wrong belief would feed itself.
        if body and not cut:
            size.add(feet, height, width)
        if not size.known:
            if body:
                boxes.append((x, y, x + width, feet))
                scores.append(_ALONE)
            continue
        tall = size.height(max(size.feet_below(y), feet) if feet_cut else feet)
        wide = tall / size.aspect
        least = _LEAST_CUT if cut else _HEIGHTS[0]
        one = solid and least * tall <= height <= _HEIGHTS[1] * tall and _NARROWEST * wide <= width <= _WIDEST * wide
        if height > _HEIGHTS[1] * tall or width > _WIDE * wide:
            own = labels[y:feet, x : x + width] == label
            people = _split(own, x, y, visible, size)
            if len(people) > 1 or not one:
                boxes += [(x + left, y + top, x + right, y + bottom) for left, top, right, bottom in people]
                scores += [_score(_IN_GROUP, bottom - top, tall) for _, top, _, bottom in people]
                continue
        if one or height >= _LEAST_FRAGMENT * tall:
            boxes.append((x, y, x + width, feet))
            scores.append(_score(_ALONE, height, tall) if one else _FRAGMENT)
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32)


def _score(score: float, height: float, expected: float) -> float:
    """Less for somebody of whom less than half is in sight, as legs below the picture's border."""
    return score if height >= _HALF_SEEN * expected else _FRAGMENT


def _cut_by_border(visible: Mask, x1: int, y1: int, x2: int, y2: int) -> tuple[bool, bool]:
    """Whether a region lies at the picture's border: on any side, at its bottom."""
    rows, columns = visible.shape
    middle_x, middle_y = (x1 + x2) // 2, (y1 + y2) // 2
    bottom = bool(y2 + 1 >= rows or not visible[y2 + 1, middle_x])
    left, right = x1 < 2 or not visible[middle_y, x1 - 2], x2 + 1 >= columns or not visible[middle_y, x2 + 1]
    return bool(left or right or y1 < 2 or not visible[y1 - 2, middle_x] or bottom), bottom


def _joined(front: Mask, size: PersonSize) -> Mask:
    """Specks removed, and the pieces of a body joined: more across gaps one above the other than side by side."""
    mask = np.where(front == 255, np.uint8(255), np.uint8(0))
    mask = np.asarray(cv2.medianBlur(mask, 3), np.uint8)
    usual = size.height(0.5 * front.shape[0]) if size.known else 2 * _SMALLEST
    across, down = max(int(0.06 * usual) | 1, 3), max(int(0.2 * usual) | 1, 3)
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((down, across), np.uint8)), np.uint8)


def _split(own: npt.NDArray[np.bool_], x0: int, y0: int, visible: Mask, size: PersonSize) -> list[_Box]:
    """Boxes of the people that best explain the mask `own` of a group, in its pixels; its corner lies at `x0`, `y0`.

    A silhouette is laid everywhere; where most of it is in front, and least of its surroundings, somebody stands. The
    next one has to explain what is left. Then each is placed once more, given the others.
    """
    usual = size.height(y0 + own.shape[0])
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
    seen = visible[max(y0 - pad_y, 0) : y0 + own.shape[0] + pad_y, max(x0 - pad_x, 0) : x0 + own.shape[1] + pad_x]
    top, start = max(pad_y - y0, 0), max(pad_x - x0, 0)
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
    found: list[_Box] = []
    for x, y in places:  # the bounds of what is in front there
        x1, y1 = max(x - pad_x, 0), max(y - pad_y, 0)
        part = own[y1 : y - pad_y + high, x1 : x - pad_x + wide]
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        if rows.size:
            found.append((x1 + columns[0], y1 + rows[0], x1 + columns[-1] + 1, y1 + rows[-1] + 1))
    return found


def _silhouette(high: int, wide: int) -> _Floats:
    """float32 [high, wide]: above 0 where a walker's body is, below where it isn't."""
    shape = np.zeros((96, 40), np.uint8)
    cv2.ellipse(shape, (20, 9), (6, 9), 0, 0, 360, 255, -1)
    cv2.ellipse(shape, (20, 36), (13, 23), 0, 0, 360, 255, -1)
    cv2.fillPoly(shape, [np.array([(9, 42), (31, 42), (29, 95), (11, 95)], np.int32)], 255)
    inside = cv2.resize(cv2.GaussianBlur(shape, (9, 9), 0), (wide, high), interpolation=cv2.INTER_AREA) / 255.0
    return np.asarray(1.8 * inside - 0.8, np.float32)

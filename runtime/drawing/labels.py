"""Labels at people's boxes: what they say, and where they are in nobody's way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from sharpose.runtime.drawing.style import (
    DARK,
    DEFERRED,
    PLAIN,
    REFINED,
    Colour,
    Floats,
    Rect,
    text_colour,
    track_colour,
)
from sharpose.runtime.frames import Image
from sharpose.runtime.result import PoseResult
from sharpose.skeleton import Skeleton

__all__ = ["LabelPlacer", "Lettering", "PersonMark", "draw_label", "draw_text", "faces_of", "mark_of", "plain_text"]

_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Lettering:
    """How large text is: OpenCV's font scale, and pixels."""

    scale: float

    @property
    def thickness(self) -> int:
        """Of the strokes."""
        return max(round(1.6 * self.scale), 1)

    @property
    def pad(self) -> int:
        """Between text and the background's edge."""
        return max(round(5 * self.scale), 2)

    def size(self, text: str) -> tuple[int, int]:
        """Width and height of the background that `text` needs."""
        wide, high, below = _text_size(text, self.scale, self.thickness)
        return wide + 2 * self.pad, high + below + self.pad


@lru_cache(maxsize=4096)  # measuring takes several times as long as drawing
def _text_size(text: str, scale: float, thickness: int) -> tuple[int, int, int]:
    (wide, high), below = cv2.getTextSize(text, _FONT, scale, thickness)
    return wide, high, below


def plain_text(text: str) -> str:
    """`text` with `?` for all that isn't printable ASCII: OpenCV's letters are no more, and some of it would fail."""
    return "".join(character if " " <= character <= "~" else "?" for character in text)


def draw_text(canvas: Image, text: str, place: Rect, lettering: Lettering, background: Colour) -> None:
    """Fill `place`, which is as large as `lettering.size(text)` says or wider, and write into it."""
    cv2.rectangle(canvas, place[:2], (place[2] - 1, place[3] - 1), background, cv2.FILLED)
    _, high, _ = _text_size(text, lettering.scale, lettering.thickness)
    baseline = (place[0] + lettering.pad, place[1] + high + lettering.pad // 2)
    colour = text_colour(background)
    cv2.putText(canvas, text, baseline, _FONT, lettering.scale, colour, lettering.thickness, cv2.LINE_AA)


_HEAD = {"nose", "eye", "ear", "head"}
# What a place costs by the pixel: hiding another label is worst, then a face; being the next best place is least.
_HIDES_LABEL, _HIDES_FACE, _NEXT_BEST = 4.0, 1.0, 0.02


@dataclass(frozen=True)
class PersonMark:
    """What a person's box and label show.

    Attributes:
        texts: What the label may say, the longest first.
        colour: Of the box and the label.
        chip: Of a small square in the label, where its colour alone doesn't tell how the pose was made; else None.
    """

    texts: tuple[str, ...]
    colour: Colour
    chip: Colour | None


def mark_of(poses: PoseResult, index: int, deferred: bool) -> PersonMark:
    """Without ids the colour says how a pose was made; with ids it says who it is, and the chip how it was made."""
    quality = f"q {float(poses.quality[index]):.2f}"
    refined = bool(poses.refined[index])
    how = " refined" if refined else " deferred" if deferred else ""
    status = REFINED if refined else DEFERRED if deferred else PLAIN
    if poses.track_ids is None:
        return PersonMark((quality + how, quality) if how else (quality,), status, None)
    track_id = int(poses.track_ids[index])
    name = f"#{track_id} " if track_id > 0 else ""
    texts = dict.fromkeys((name + quality + how, name + quality, name.strip() or quality))
    return PersonMark(tuple(texts), track_colour(track_id), status if how else None)


def faces_of(keypoints: Floats, skeleton: Skeleton, threshold: float) -> Floats:
    """Where heads are: [m, 4], x1, y1, x2, y2, from the head's joints that are seen; `keypoints` [n, J, 3]."""
    joints = [index for index, name in enumerate(skeleton.keypoints) if _HEAD & set(name.split("_"))]
    heads = keypoints[:, joints]
    seen = np.isfinite(heads).all(axis=2) & (heads[:, :, 2] >= threshold)
    faces = []
    for head, visible in zip(heads, seen, strict=True):
        if visible.any():
            low, high = head[visible, :2].min(axis=0), head[visible, :2].max(axis=0)
            more = 0.35 * float((high - low).max())  # forehead and chin have no joints
            faces.append([*(low - more), *(high + more)])
    return np.array(faces, np.float64).reshape(-1, 4)


class LabelPlacer:
    """Finds places inside the picture, best where neither faces nor earlier labels are.

    Args:
        canvas: The picture.
        faces: [m, 4], x1, y1, x2, y2.
    """

    def __init__(self, canvas: Image, faces: Floats) -> None:
        self._height, self._width = int(canvas.shape[0]), int(canvas.shape[1])
        self._avoided = [(*face, _HIDES_FACE) for face in faces.tolist()]

    def take(self, place: Rect) -> None:
        """Let no label lie there if it can lie elsewhere."""
        self._avoided.append((*place, _HIDES_LABEL))

    def place(self, size: tuple[int, int], box: Rect) -> Rect:
        """The best place for a label of `size` (width, height) at a box, taken from now on."""
        wide, tall = size
        best, lowest = (0, 0, wide, tall), float("inf")
        for order, (x, y) in enumerate(_corners(size, box)):
            preference = order * _NEXT_BEST * wide * tall
            if preference >= lowest:  # in plain numbers, since this is mostly the second or third one
                break
            left, top = max(min(x, self._width - wide), 0), max(min(y, self._height - tall), 0)
            place = (left, top, left + wide, top + tall)
            cost = preference + self._hidden(place)
            if cost < lowest:
                best, lowest = place, cost
        self.take(best)
        return best

    def _hidden(self, place: Rect) -> float:
        """What a label there would hide: pixels, weighed."""
        left, top, right, bottom = place
        cost = 0.0
        for x1, y1, x2, y2, weight in self._avoided:
            if x1 < right and left < x2 and y1 < bottom and top < y2:
                cost += weight * (min(x2, right) - max(x1, left)) * (min(y2, bottom) - max(y1, top))
        return cost


def _corners(size: tuple[int, int], box: Rect) -> Iterator[tuple[int, int]]:
    """Upper left corners of the places for a label at a box, the most liked first; they may lie outside the picture."""
    wide, tall = size
    x1, y1, x2, y2 = box
    above, below, low = y1 - tall, y2 + 1, y2 + 1 - tall
    for top in (above, below, low):
        yield x1, top
        yield x2 + 1 - wide, top
    for left in (x2 + 1, x1 - wide):
        yield left, y1
        yield left, low
    yield x1, y1
    yield x1, above - tall
    yield x1, below + tall


def draw_label(canvas: Image, corners: Rect, mark: PersonMark, placer: LabelPlacer) -> None:
    """A person's label at their box (`corners`); what there is no room for is left out."""
    height, width = canvas.shape[:2]
    picture = (height * width) ** 0.5
    tall = corners[3] - corners[1]
    scale = max(picture / 1400 * min(max(tall / (0.3 * picture), 0.65), 1.0), 0.32)
    lettering = Lettering(round(scale, 2))
    room = max(1.5 * (corners[2] - corners[0]), 1)
    text, size = _fitting(mark.texts, lettering, room)
    chip = size[1] // 2 + lettering.pad if mark.chip else 0
    place = placer.place((size[0] + chip, size[1]), corners)
    draw_text(canvas, text, place, lettering, mark.colour)
    if mark.chip:
        right, middle, half = place[2] - lettering.pad, (place[1] + place[3]) // 2, max(size[1] // 4, 1)
        corner, end = (right - 2 * half, middle - half), (right, middle + half)
        cv2.rectangle(canvas, corner, end, mark.chip, cv2.FILLED)
        cv2.rectangle(canvas, corner, end, DARK, 1)


def _fitting(texts: Sequence[str], lettering: Lettering, room: float) -> tuple[str, tuple[int, int]]:
    """The longest text that fits, else the shortest, and its size."""
    for text in texts:
        size = lettering.size(text)
        if size[0] <= room:
            break
    return text, size

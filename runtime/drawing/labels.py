"""Text: labels at people's boxes, placed where they hide least, the status line, and the legend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from sharpose.errors import counted
from sharpose.runtime.drawing import style
from sharpose.runtime.drawing.style import Colour, Floats, Rect
from sharpose.runtime.result import Image, PoseResult
from sharpose.skeleton import Skeleton

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_HEAD = {"nose", "eye", "ear", "head", "face"}
# Cost of a place per pixel: hiding another label is worst, then a face; being the next best place is least.
_HIDES_LABEL, _HIDES_FACE, _NEXT_BEST = 4.0, 1.0, 0.02


@dataclass(frozen=True)
class PersonMark:
    """What a person's box and label show."""

    texts: tuple[str, ...]  # what the label may say, the longest first
    colour: Colour  # of the box and the label
    chip: Colour | None  # of a small square in the label, where the label's colour says who it is


def mark_of(poses: PoseResult, index: int) -> PersonMark:
    """Without ids the colour says how a pose was made; with ids it says who it is, and the chip how it was made."""
    quality = f"q {float(poses.quality[index]):.2f}"
    refined, deferred = bool(poses.refined[index]), bool(poses.deferred[index])
    how = " refined" if refined else " deferred" if deferred else ""
    status = style.REFINED if refined else style.DEFERRED if deferred else style.PLAIN
    if poses.track_ids is None:
        return PersonMark((quality + how, quality) if how else (quality,), status, None)
    track_id = int(poses.track_ids[index])
    name = f"#{track_id} " if track_id > 0 else ""
    texts = dict.fromkeys((name + quality + how, name + quality, name.strip() or quality))
    return PersonMark(tuple(texts), style.track_colour(track_id), status if how else None)


def draw_label(canvas: Image, corners: Rect, mark: PersonMark, placer: LabelPlacer) -> None:
    """A person's label at their box (`corners`): the longest text that has room, else the shortest."""
    height, width = canvas.shape[:2]
    picture = (height * width) ** 0.5
    tall = corners[3] - corners[1]
    lettering = _Lettering(round(max(picture / 1400 * min(max(tall / (0.3 * picture), 0.65), 1.0), 0.32), 2))
    for text in mark.texts:
        size = lettering.size(text)
        if size[0] <= max(1.5 * (corners[2] - corners[0]), 1):
            break
    chip = size[1] // 2 + lettering.pad if mark.chip else 0
    place = placer.place((size[0] + chip, size[1]), corners)
    lettering.draw(canvas, text, place, mark.colour)
    if mark.chip:
        right, middle, half = place[2] - lettering.pad, (place[1] + place[3]) // 2, max(size[1] // 4, 1)
        corner, end = (right - 2 * half, middle - half), (right, middle + half)
        cv2.rectangle(canvas, corner, end, mark.chip, cv2.FILLED)
        cv2.rectangle(canvas, corner, end, style.DARK, 1)


class LabelPlacer:
    """Finds places inside the picture, best where neither `faces` [m, 4] (x1, y1, x2, y2) nor earlier labels are."""

    def __init__(self, canvas: Image, faces: Floats) -> None:
        self._height, self._width = int(canvas.shape[0]), int(canvas.shape[1])
        self._avoided = [(*face, _HIDES_FACE) for face in faces.tolist()]

    def take(self, place: Rect) -> None:
        """Keep later labels off this place if they can lie elsewhere."""
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
        """Weighted pixels that a label there would hide."""
        left, top, right, bottom = place
        cost = 0.0
        for x1, y1, x2, y2, weight in self._avoided:
            if x1 < right and left < x2 and y1 < bottom and top < y2:
                cost += weight * (min(x2, right) - max(x1, left)) * (min(y2, bottom) - max(y1, top))
        return cost


def _corners(size: tuple[int, int], box: Rect) -> list[tuple[int, int]]:
    """Upper left corners of the places for a label at a box, the best first; they may lie outside the picture."""
    wide, tall = size
    x1, y1, x2, y2 = box
    above, below, low = y1 - tall, y2 + 1, y2 + 1 - tall
    corners = [(left, top) for top in (above, below, low) for left in (x1, x2 + 1 - wide)]
    corners += [(left, top) for left in (x2 + 1, x1 - wide) for top in (y1, low)]
    return [*corners, (x1, y1), (x1, above - tall), (x1, below + tall)]


def faces_of(keypoints: Floats, skeleton: Skeleton, threshold: float) -> Floats:
    """Boxes of faces [m, 4], x1, y1, x2, y2, from the visible head keypoints of `keypoints` [n, J, 3]."""
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


class StatusLine:
    """`24.8 fps  5 people  2 refined  1 deferred`, for `draw_poses(status=)`; `frame_rate` gives frames per second,
    0 while they aren't known.
    """

    def __init__(self, frame_rate: Callable[[], float]) -> None:
        self._frame_rate = frame_rate

    def __call__(self, poses: PoseResult) -> str:
        """The line for one frame."""
        refined, deferred = int(poses.refined.sum()), int(poses.deferred.sum())
        rate = self._frame_rate()
        parts = [f"{rate:.1f} fps"] if rate > 0 else []
        parts += [f"{counted(len(poses), 'person')}"]
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
    lettering = _Lettering(max(scale * min(width / _Lettering(scale).size(text)[0], 1.0), 0.2))
    place = (0, 0, *lettering.size(text))
    lettering.draw(canvas, text, place, style.DARK)
    return place


@dataclass(frozen=True)
class LegendEntry:
    """What a colour, or a sign in a label, means; `colour` is None where the text begins with the sign."""

    text: str
    colour: Colour | None = None


def legend_of(
    *, tracked: bool, refining: bool, deadline: bool, skeleton: Skeleton | None = None
) -> tuple[LegendEntry, ...]:
    """The legend of `draw_poses`' pictures.

    Args:
        tracked: Whether people have ids, so that boxes have the ids' colours and small squares those of the stages.
        refining: Whether people may be refined.
        deadline: Whether people may be deferred.
        skeleton: Its colours of the left and right side, where a side has one; those of `style.COLOURS` without.
    """
    entries = [LegendEntry("q: predicted quality, 1 is best")]
    entries.append(LegendEntry("#: id, a colour each") if tracked else LegendEntry("coarse pose", style.PLAIN))
    entries += [LegendEntry("refined pose", style.REFINED)] if refining else []
    entries += [LegendEntry("no time to refine", style.DEFERRED)] if deadline else []
    for side in ("left", "right"):
        colours = {style.COLOURS[side]}
        if skeleton is not None:
            of_points = enumerate(skeleton.colours[0])
            colours = {style.colour_of(text) for index, text in of_points if skeleton.side(index) == side}
        if len(colours) == 1:
            entries.append(LegendEntry(f"{side} side of the body", colours.pop()))
    return tuple(entries)


def draw_legend(canvas: Image, entries: Sequence[LegendEntry]) -> Rect:
    """Write the entries into the lower left corner, in as many rows as they need; returns where."""
    height, width = canvas.shape[:2]
    scale = max((height * width) ** 0.5 / 1800, 0.35)
    widest = max(_entry_width(entry, _Lettering(scale)) for entry in entries)
    lettering = _Lettering(max(scale * min(width / widest, 1.0), 0.2))
    tall = lettering.size("q")[1]
    places: list[tuple[LegendEntry, int, int]] = []  # with the left edge and the row
    x = row = right = 0
    for entry in entries:
        wide = _entry_width(entry, lettering)
        if x and x + wide > width:
            x, row = 0, row + 1
        places.append((entry, x, row))
        x += wide
        right = max(right, x)
    top = height - (row + 1) * tall
    for entry, left, row in places:
        y = top + row * tall
        end = left + _entry_width(entry, lettering)
        cv2.rectangle(canvas, (left, y), (end - 1, y + tall - 1), style.DARK, cv2.FILLED)
        if entry.colour is not None:
            chip = (left + lettering.pad, y + tall // 4)
            cv2.rectangle(canvas, chip, (chip[0] + tall // 2, chip[1] + tall // 2), entry.colour, cv2.FILLED)
        text_left = end - lettering.size(entry.text)[0]
        lettering.draw(canvas, entry.text, (text_left, y, end, y + tall), style.DARK)
    return 0, top, min(right, width), height


def _entry_width(entry: LegendEntry, lettering: _Lettering) -> int:
    wide, tall = lettering.size(entry.text)
    return wide + (tall // 2 + lettering.pad if entry.colour is not None else 0)


def plain_text(text: str) -> str:
    """`text` with `?` for all that isn't printable ASCII, which OpenCV's font lacks."""
    return "".join(character if " " <= character <= "~" else "?" for character in text)


class _Lettering:
    """Text at an OpenCV font scale."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.thickness = max(round(1.6 * scale), 1)  # of the strokes, in pixels
        self.pad = max(round(5 * scale), 2)  # pixels between text and the background's edge

    def size(self, text: str) -> tuple[int, int]:
        """Width and height of the background that `text` needs."""
        wide, high, below = _text_size(text, self.scale, self.thickness)
        return wide + 2 * self.pad, high + below + self.pad

    def draw(self, canvas: Image, text: str, place: Rect, background: Colour) -> None:
        """Fill `place`, which is at least as large as `size(text)`, and write into it."""
        cv2.rectangle(canvas, place[:2], (place[2] - 1, place[3] - 1), background, cv2.FILLED)
        _, high, _ = _text_size(text, self.scale, self.thickness)
        baseline = (place[0] + self.pad, place[1] + high + self.pad // 2)
        colour = style.text_colour(background)
        cv2.putText(canvas, text, baseline, _FONT, self.scale, colour, self.thickness, cv2.LINE_AA)


@lru_cache(maxsize=4096)  # measuring takes several times as long as drawing
def _text_size(text: str, scale: float, thickness: int) -> tuple[int, int, int]:
    (wide, high), below = cv2.getTextSize(text, _FONT, scale, thickness)
    return wide, high, below

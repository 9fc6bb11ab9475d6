"""Text on a filled background."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2

from sharpose.runtime.drawing.colours import Colour, text_colour
from sharpose.runtime.drawing.places import Rect
from sharpose.runtime.frames import Image

__all__ = ["Lettering", "draw_text", "plain_text"]

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

"""One line in the picture's corner that says how the run is doing."""

from __future__ import annotations

from collections.abc import Callable

from sharpose.runtime.drawing.colours import DARK
from sharpose.runtime.drawing.places import Rect
from sharpose.runtime.drawing.text import Lettering, draw_text, plain_text
from sharpose.runtime.frames import Image
from sharpose.runtime.result import PoseResult

__all__ = ["StatusLine", "draw_status"]


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

"""Colours, in BGR."""

from __future__ import annotations

import colorsys
from functools import lru_cache

__all__ = [
    "COLOURS",
    "DARK",
    "DEFERRED",
    "LIGHT",
    "PLAIN",
    "REFINED",
    "UNSURE",
    "Colour",
    "text_colour",
    "track_colour",
]

Colour = tuple[int, int, int]

# Orange and blue stay apart for colour-blind eyes, and both stand out from skin and grass.
COLOURS: dict[str, Colour] = {"left": (0, 140, 255), "right": (255, 150, 40), "centre": (240, 240, 240)}
"""What is drawn for each side of the body, the person's own left and right."""

DARK: Colour = (25, 25, 25)
LIGHT: Colour = (250, 250, 250)
PLAIN: Colour = (240, 150, 220)
"""Somebody whose coarse pose was good enough."""
REFINED: Colour = (90, 220, 90)
"""Somebody whom the fine stage looked at."""
DEFERRED: Colour = (60, 190, 250)
"""Somebody whom the fine stage should have looked at, had there been time."""
UNSURE: Colour = (185, 185, 185)
"""Somebody whose track isn't sure yet."""

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

"""How thick lines are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharpose.runtime.drawing.places import Floats

__all__ = ["Pen"]


@dataclass(frozen=True)
class Pen:
    """Sizes in pixels, fit for one person in one picture."""

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

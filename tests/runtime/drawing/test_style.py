"""Colours of tracks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sharpose.runtime.drawing.style import COLOURS, DARK, LIGHT, UNSURE, text_colour, track_colour


def apart(one: tuple[int, int, int], other: tuple[int, int, int]) -> int:
    return int(np.abs(np.subtract(one, other)).max())


def test_neighbouring_ids_are_far_apart() -> None:
    colours = [track_colour(index) for index in range(1, 201)]
    assert min(apart(one, other) for one, other in pairwise(colours)) > 80
    first = colours[:30]  # as many as a crowd has
    assert min(apart(first[i], first[j]) for i in range(30) for j in range(i)) > 15


def test_an_unsure_track_is_grey_and_large_ids_are_colours() -> None:
    assert track_colour(0) == track_colour(-1) == UNSURE
    for track_id in (10**6, 2**62):
        assert all(0 <= part <= 255 for part in track_colour(track_id))
        assert apart(track_colour(track_id), UNSURE) > 40


@pytest.mark.parametrize("colour", [*COLOURS.values(), UNSURE, *(track_colour(index) for index in range(1, 60))])
def test_text_can_be_read(colour: tuple[int, int, int]) -> None:
    def luminance(bgr: tuple[int, int, int]) -> float:  # WCAG 2
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in bgr)]
        return 0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2]

    text = text_colour(colour)
    assert text in (DARK, LIGHT)
    low, high = sorted((luminance(text), luminance(colour)))
    assert (high + 0.05) / (low + 0.05) >= 3  # what WCAG asks of large text

"""Several pictures on one page: two columns to compare, a heading, a legend, captions and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sharpose.errors import InputError
from sharpose.runtime.draw import COLOURS
from sharpose.runtime.frames import Image

__all__ = ["SheetRow", "Tile", "draw_sheet"]

_Colour = tuple[int, int, int]

_PAPER: _Colour = (34, 28, 24)  # BGR
_INK: _Colour = (240, 236, 232)
_FAINT: _Colour = (176, 164, 154)
_RULE: _Colour = (92, 80, 70)
_FONT = cv2.FONT_HERSHEY_DUPLEX
_MARGIN, _GAP = 36, 14  # pixels
_COLUMN = 720
_CAPTION, _HEADING, _LEGEND, _LINE = 30, 96, 44, 28
_BLEED = 2  # text is drawn larger by so much and made smaller, for smooth edges


@dataclass(frozen=True)
class Tile:
    """A picture, uint8 [H, W, 3], BGR, and what stands under it."""

    image: Image
    caption: str


@dataclass(frozen=True)
class SheetRow:
    """Tiles from left to right, `per_column` of one shape for each of the two columns."""

    tiles: tuple[Tile, ...]
    per_column: int


def draw_sheet(title: str, columns: tuple[str, str], rows: Sequence[SheetRow], notes: Sequence[str]) -> Image:
    """The page: uint8 [height, width, 3], BGR.

    Args:
        title: At the top.
        columns: Headings of the two columns.
        rows: From top to bottom.
        notes: Lines at the foot.

    Raises:
        InputError: a row hasn't two columns' tiles.
    """
    for row in rows:
        if len(row.tiles) != 2 * row.per_column or row.per_column < 1:
            raise InputError(f"sheet: expected {2 * row.per_column} tiles in a row, got {len(row.tiles)}")
    width = 2 * _MARGIN + 2 * _COLUMN + _GAP
    heights = [_row_height(row) for row in rows]
    foot = len(notes) * _LINE + _GAP
    page = np.full((_HEADING + _LEGEND + sum(heights) + foot + _MARGIN, width, 3), _PAPER, np.uint8)
    _write(page, title, (_MARGIN, 58), 1.0, _INK)
    _legend(page, width - _MARGIN, 58)
    page[_HEADING - 14 : _HEADING - 13, _MARGIN : width - _MARGIN] = _RULE
    for index, heading in enumerate(columns):
        _write(page, heading, (_MARGIN + index * (_COLUMN + _GAP), _HEADING + 22), 0.68, _INK)
    top = _HEADING + _LEGEND
    for row, height in zip(rows, heights, strict=True):
        _place(page, row, top)
        top += height
    for number, note in enumerate(notes):
        _write(page, note, (_MARGIN, top + _GAP + (number + 1) * _LINE - 8), 0.6, _INK)
    return page


def _tile_width(row: SheetRow) -> int:
    return (_COLUMN - (row.per_column - 1) * _GAP) // row.per_column


def _tile_height(row: SheetRow) -> int:
    height, width = row.tiles[0].image.shape[:2]
    return round(_tile_width(row) * float(height) / float(width))


def _row_height(row: SheetRow) -> int:
    return _tile_height(row) + _CAPTION + _GAP


def _place(page: Image, row: SheetRow, top: int) -> None:
    width, height = _tile_width(row), _tile_height(row)
    for index, tile in enumerate(row.tiles):
        column, place = divmod(index, row.per_column)
        left = _MARGIN + column * (_COLUMN + _GAP) + place * (width + _GAP)
        shrinks = tile.image.shape[1] > width
        resized = cv2.resize(tile.image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        page[top : top + height, left : left + width] = resized
        _write(page, tile.caption, (left, top + height + 21), 0.5, _FAINT)


def _legend(page: Image, right: int, baseline: int) -> None:
    """The colours, from right to left."""
    for name, colour in (("their right", COLOURS["right"]), ("their left", COLOURS["left"])):
        (width, _), _ = cv2.getTextSize(name, _FONT, 0.55, 1)
        right -= width
        _write(page, name, (right, baseline - 2), 0.55, _INK)
        right -= 34
        cv2.line(page, (right, baseline - 8), (right + 22, baseline - 8), colour, 5, cv2.LINE_AA)
        right -= 26


def _write(page: Image, text: str, place: tuple[int, int], size: float, colour: _Colour) -> None:
    """A line of text whose baseline begins at `place`, on a plain ground."""
    (width, height), below = cv2.getTextSize(text, _FONT, size * _BLEED, _BLEED)
    strip = np.full((height + below + 4 * _BLEED, width + 4 * _BLEED, 3), _PAPER, np.uint8)
    cv2.putText(strip, text, (0, height + _BLEED), _FONT, size * _BLEED, colour, _BLEED, cv2.LINE_AA)
    small = cv2.resize(strip, None, fx=1 / _BLEED, fy=1 / _BLEED, interpolation=cv2.INTER_AREA)
    top = place[1] - (height + _BLEED) // _BLEED
    bottom, right = min(top + small.shape[0], page.shape[0]), min(place[0] + small.shape[1], page.shape[1])
    page[top:bottom, place[0] : right] = small[: bottom - top, : right - place[0]]

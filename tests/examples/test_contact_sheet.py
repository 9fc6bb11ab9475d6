import numpy as np
import pytest
from demo import SheetRow, Tile, draw_sheet

from sharpose.errors import InputError

RED, GREEN = (0, 0, 255), (0, 255, 0)


def tile(colour: tuple[int, int, int], height: int = 90, width: int = 160) -> Tile:
    return Tile(np.full((height, width, 3), colour, np.uint8), "caption")


def area(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a colour."""
    rows, columns = np.nonzero((sheet == colour).all(axis=2))
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def test_tiles_stand_in_their_columns_at_their_aspect() -> None:
    sheet = draw_sheet("title", ("one", "two"), [SheetRow((tile(RED), tile(GREEN)), 1)], ["a note"])
    red, green = area(sheet, RED), area(sheet, GREEN)
    assert red[:2] == green[:2]
    assert red[3] < green[2]
    height, width = red[1] - red[0] + 1, red[3] - red[2] + 1
    assert width / height == pytest.approx(160 / 90, abs=0.01)
    assert (sheet == RED).all(axis=2).sum() == height * width  # nothing is written across a picture


def test_a_row_may_hold_several_in_a_column() -> None:
    squares = [tile(RED, 50, 50), tile(RED, 50, 50), tile(GREEN, 50, 50), tile(GREEN, 50, 50)]
    sheet = draw_sheet("title", ("one", "two"), [SheetRow(tuple(squares), 2)], [])
    assert area(sheet, RED)[3] < area(sheet, GREEN)[2]
    top, bottom, left, right = area(sheet, RED)
    assert right - left > 2 * (bottom - top)


def test_a_longer_note_and_more_rows_make_it_longer() -> None:
    row = SheetRow((tile(RED), tile(GREEN)), 1)
    short = draw_sheet("title", ("one", "two"), [row], [])
    long = draw_sheet("title", ("one", "two"), [row, row], ["x", "y"])
    assert long.shape[0] > short.shape[0] + 300
    assert long.shape[1] == short.shape[1]


def test_a_row_of_another_number_is_refused() -> None:
    with pytest.raises(InputError, match="expected 4 tiles in a row, got 3"):
        draw_sheet("t", ("a", "b"), [SheetRow((tile(RED),) * 3, 2)], [])

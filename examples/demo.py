"""`make demo`'s contact sheet: the shipped bundle on the built-in scene and on two photographs.

`python examples/demo.py --output demo/sheet.jpg`; without PyTorch, like all of the runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click
import cv2
import numpy as np

from sharpose.cli import main as run_command
from sharpose.errors import InputError
from sharpose.runtime.drawing.draw import COLOURS, draw_poses
from sharpose.runtime.frames import Image
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.scene import Scene, SceneConfig

__all__ = ["PHOTOGRAPHS", "Photograph", "SheetRow", "Tile", "command", "draw_sheet", "main", "read_photograph"]

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


_FOLDER = Path(__file__).resolve().parent / "photographs"
_SCENE = SceneConfig(seed=0, people=3, frames=50, height=360, width=640)
_FRAMES = (12, 37)
_KEYPOINT_THRESHOLD = 0.2


@dataclass(frozen=True)
class Photograph:
    """A freely licensed photograph of one person; `photographs/ORIGIN.md` says where it is from.

    Attributes:
        file: Its name.
        box: `x1, y1, x2, y2` in its pixels, drawn by hand.
        credit: For the sheet.
    """

    file: str
    box: tuple[float, float, float, float]
    credit: str


PHOTOGRAPHS = (
    Photograph("astronaut.jpg", (18, 8, 500, 511), "NASA, public domain"),
    Photograph("cameraman.jpg", (0, 62, 335, 511), "Lav Varshney, CC0"),
)


def read_photograph(photograph: Photograph) -> Image:
    """uint8 [H, W, 3], BGR."""
    content = (_FOLDER / photograph.file).read_bytes()
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(image, np.uint8)


def demo_sheet(bundle: Path | None, notes: Sequence[str]) -> Image:
    """The sheet: on the left what the coarse stage says, on the right what the fine stage makes of it.

    Args:
        bundle: The package's own if None.
        notes: Lines at the foot.

    Raises:
        BundleError: the bundle can't be opened.
        EngineError: ONNX Runtime is missing or can't run it.
    """
    looks = [PoseEstimator.from_bundle(bundle, refine=refine) for refine in ("never", "always")]
    scene = Scene(_SCENE)
    rows = []
    for index in _FRAMES:
        frame = scene.frame(index)
        drawn = [_drawn(look, frame.image, frame.boxes_xyxy) for look in looks]
        caption = f"built-in scene, frame {index}"
        rows.append(SheetRow(tuple(Tile(image, caption) for image in drawn), per_column=1))
    tiles = []
    for look in looks:
        for photograph in PHOTOGRAPHS:
            image = _drawn(look, read_photograph(photograph), np.array([photograph.box], np.float32))
            tiles.append(Tile(image, f"photograph: {photograph.credit}"))
    rows.append(SheetRow(tuple(tiles), per_column=len(PHOTOGRAPHS)))
    name = looks[0].bundle.model.name
    for look in looks:
        look.close()
    return draw_sheet(f"SHaRPose  {name}", ("coarse pass alone", "refined by the fine pass"), rows, notes)


def _drawn(estimator: PoseEstimator, image: Image, boxes: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Image:
    poses = estimator(image, boxes)
    return draw_poses(image, poses, estimator.skeleton, keypoint_threshold=_KEYPOINT_THRESHOLD)


NOTES = (
    "These weights are a small model, trained for six hours on two CPU cores. On built-in scenes, over nine in ten",
    "keypoints are right; on photographs not quite five in ten, which is not good enough. See the model card.",
)
"""What must be said of the shipped weights wherever they are shown."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The sheet, .jpg or .png.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def command(output: Path, debug: bool) -> int:
    """Draw the demo's contact sheet with the bundle that comes with the package."""
    if output.suffix not in (".jpg", ".png"):
        raise click.UsageError(f"--output {output}: expected a name that ends in .jpg or .png")
    sheet = demo_sheet(None, NOTES)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 93] if output.suffix == ".jpg" else []
    content = cv2.imencode(output.suffix, sheet, quality)[1]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(content.tobytes())
    except OSError as error:
        raise click.UsageError(f"--output {output}: can't be written ({error.strerror})") from error
    click.echo(f"wrote {output}")
    return 0


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()

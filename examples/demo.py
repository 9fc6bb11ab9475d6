"""The contact sheet of `make demo`: the shipped bundle on two photographs and on the built-in scene.

`python examples/demo.py --output demo/sheet.jpg`; needs no PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click
import cv2
import numpy as np
import numpy.typing as npt

from sharpose.cli import main as run_command
from sharpose.runtime.drawing.draw import draw_poses
from sharpose.runtime.drawing.style import COLOURS
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.runtime.result import Image
from sharpose.scene import Scene, SceneConfig


@dataclass(frozen=True)
class Photograph:
    """A freely licensed photograph of one person; `photographs/ORIGIN.md` says where it is from."""

    file: str  # file name
    box: tuple[float, float, float, float]  # the person, `x1, y1, x2, y2` in pixels, drawn by hand
    credit: str  # caption


PHOTOGRAPHS = (
    Photograph("astronaut.jpg", (18, 8, 500, 511), "NASA, public domain"),
    Photograph("cameraman.jpg", (0, 62, 335, 511), "Lav Varshney, CC0"),
)
NOTES = (
    "These weights are a small model, trained for some eighteen hours on two CPU cores. On photographs that are new",
    "to it, six in ten keypoints are right; on built-in scenes, eight in ten. See the model card.",
)
_FOLDER = Path(__file__).resolve().parent / "photographs"
_SCENE = SceneConfig(seed=0, people=3, frames=50, height=360, width=640)
_FRAMES = (12, 37)
_KEYPOINT_THRESHOLD = 0.3

Floats = npt.NDArray[np.float32]
_Colour = tuple[int, int, int]  # BGR
_PAPER: _Colour = (34, 28, 24)
_INK: _Colour = (240, 236, 232)
_FAINT: _Colour = (176, 164, 154)
_RULE: _Colour = (92, 80, 70)
_FONT = cv2.FONT_HERSHEY_DUPLEX
_MARGIN, _GAP, _COLUMN = 36, 14, 720  # pixels
_CAPTION, _HEADING, _LEGEND, _LINE = 30, 96, 44, 28
_OVERSAMPLING = 2  # text is drawn this many times larger and shrunk, for smooth edges


@dataclass(frozen=True)
class Tile:
    """A picture, uint8 [H, W, 3], BGR, and its caption."""

    image: Image
    caption: str


@dataclass(frozen=True)
class SheetRow:
    """A tile in each of the two columns, of the same shape."""

    left: Tile
    right: Tile

    @property
    def tile_size(self) -> tuple[int, int]:
        """Width and height of a tile on the sheet, in pixels."""
        height, width = self.left.image.shape[:2]
        return _COLUMN, round(_COLUMN * height / width)

    @property
    def height(self) -> int:
        """Height of the row with its captions, in pixels."""
        return self.tile_size[1] + _CAPTION + _GAP


def draw_sheet(title: str, columns: tuple[str, str], rows: Sequence[SheetRow], notes: Sequence[str]) -> Image:
    """Draw a page, uint8 [height, width, 3], BGR: a title, headings of two columns, rows, and lines at the foot."""
    width = 2 * _MARGIN + 2 * _COLUMN + _GAP
    foot = len(notes) * _LINE + _GAP
    page = np.full((_HEADING + _LEGEND + sum(row.height for row in rows) + foot + _MARGIN, width, 3), _PAPER, np.uint8)
    _write(page, title, (_MARGIN, 58), 1.0, _INK)
    _legend(page, width - _MARGIN, 58)
    page[_HEADING - 14 : _HEADING - 13, _MARGIN : width - _MARGIN] = _RULE
    for index, heading in enumerate(columns):
        _write(page, heading, (_MARGIN + index * (_COLUMN + _GAP), _HEADING + 22), 0.68, _INK)
    top = _HEADING + _LEGEND
    for row in rows:
        _place(page, row, top)
        top += row.height
    for number, note in enumerate(notes):
        _write(page, note, (_MARGIN, top + _GAP + (number + 1) * _LINE - 8), 0.6, _INK)
    return page


def _place(page: Image, row: SheetRow, top: int) -> None:
    width, height = row.tile_size
    for column, tile in enumerate((row.left, row.right)):
        left = _MARGIN + column * (_COLUMN + _GAP)
        shrinks = tile.image.shape[1] > width
        resized = cv2.resize(tile.image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        page[top : top + height, left : left + width] = resized
        _write(page, tile.caption, (left, top + height + 21), 0.5, _FAINT)


def _legend(page: Image, right: int, baseline: int) -> None:
    """The colours of the two sides, from right to left."""
    for name, colour in (("their right", COLOURS["right"]), ("their left", COLOURS["left"])):
        (width, _), _ = cv2.getTextSize(name, _FONT, 0.55, 1)
        right -= width
        _write(page, name, (right, baseline - 2), 0.55, _INK)
        right -= 34
        cv2.line(page, (right, baseline - 8), (right + 22, baseline - 8), colour, 5, cv2.LINE_AA)
        right -= 26


def _write(page: Image, text: str, place: tuple[int, int], size: float, colour: _Colour) -> None:
    """Write a line whose baseline starts at `place`; the background is filled."""
    scale = _OVERSAMPLING
    (width, height), below = cv2.getTextSize(text, _FONT, size * scale, scale)
    strip = np.full((height + below + 4 * scale, width + 4 * scale, 3), _PAPER, np.uint8)
    cv2.putText(strip, text, (0, height + scale), _FONT, size * scale, colour, scale, cv2.LINE_AA)
    small = cv2.resize(strip, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
    top = place[1] - (height + scale) // scale
    bottom, right = min(top + small.shape[0], page.shape[0]), min(place[0] + small.shape[1], page.shape[1])
    page[top:bottom, place[0] : right] = small[: bottom - top, : right - place[0]]


def read_photograph(photograph: Photograph) -> Image:
    """The photograph, uint8 [H, W, 3], BGR."""
    content = (_FOLDER / photograph.file).read_bytes()
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def demo_sheet() -> Image:
    """The sheet of the shipped bundle: coarse poses on the left, refined ones on the right; uint8 [H, W, 3], BGR.

    Raises:
        EngineError: ONNX Runtime is missing or can't run the bundle.
    """
    estimators = [PoseEstimator(refine=refine) for refine in ("never", "always")]

    def row(image: Image, boxes: Floats, caption: str) -> SheetRow:
        poses = [estimator(image, boxes) for estimator in estimators]
        drawn = [draw_poses(image, one, skeleton, keypoint_threshold=_KEYPOINT_THRESHOLD) for one in poses]
        return SheetRow(*(Tile(picture, caption) for picture in drawn))

    skeleton = estimators[0].skeleton
    rows = []
    for photograph in PHOTOGRAPHS:
        boxes = np.asarray([photograph.box], np.float32)
        rows.append(row(read_photograph(photograph), boxes, f"photograph: {photograph.credit}"))
    for index in _FRAMES:
        frame = Scene(_SCENE).frame(index)
        rows.append(row(frame.image, frame.boxes_xyxy, f"built-in scene, frame {index}"))
    name = estimators[0].bundle.model.name
    for estimator in estimators:
        estimator.close()
    return draw_sheet(f"SHaRPose  {name}", ("coarse stage only", "refined by the fine stage"), rows, NOTES)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--output", type=click.Path(path_type=Path), required=True, help="File to write: .jpg or .png.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def command(output: Path, debug: bool) -> int:
    """Draw the contact sheet of the shipped bundle."""
    if output.suffix not in (".jpg", ".png"):
        raise click.UsageError(f"--output {output}: expected a name that ends in .jpg or .png")
    sheet = demo_sheet()
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

"""`make demo`'s contact sheet: the shipped bundle on the built-in scene and on two photographs.

`python -m sharpose.runtime.demo --output demo/sheet.jpg`; without PyTorch, like all of the runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NoReturn

import click
import cv2
import numpy as np

from sharpose.command import main as run_command
from sharpose.runtime.contact_sheet import SheetRow, Tile, draw_sheet
from sharpose.runtime.draw import draw_poses
from sharpose.runtime.frames import Image
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.scene import Scene, SceneConfig

__all__ = ["PHOTOGRAPHS", "Photograph", "command", "demo_sheet", "main", "read_photograph"]

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
    content = (resources.files("sharpose.runtime") / "photographs" / photograph.file).read_bytes()
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

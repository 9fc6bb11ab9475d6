"""Draw the figures of how_it_works.md with the shipped bundle and the built-in scene.

python docs/figures.py
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.bundle import Bundle, open_bundle, shipped_bundle
from sharpose.engines.stages import Arrays, fine_inputs, open_stages
from sharpose.geometry import crop_frames, extract_crops
from sharpose.runtime.drawing.draw import draw_poses
from sharpose.runtime.drawing.style import PLAIN, REFINED
from sharpose.runtime.result import Boxes, Image, PoseResult
from sharpose.scene import Scene, SceneConfig
from sharpose.tokens import REGION_SIZE

FOLDER = Path(__file__).resolve().parent / "images"
THRESHOLD = 0.695
"""Of predicted quality, in the figure of the gate: half of its people are below."""
_SCENE = SceneConfig(seed=0, people=6, frames=60, height=720, width=1280)
_FRAME = 30
_SCALE = 2  # screen pixels for a pixel of the crop
_GAP, _CAPTION = 16, 34  # pixels
_INK = (60, 60, 60)
_FONT = cv2.FONT_HERSHEY_DUPLEX


def main() -> None:
    """Write regions.jpg and gate.jpg."""
    bundle = open_bundle(shipped_bundle())
    frame = Scene(_SCENE).frame(_FRAME)
    boxes = frame.boxes_xyxy.astype(np.float32)
    frames = crop_frames(boxes, bundle.model.crop_size)
    crops = extract_crops(frame.image, frames, np.empty((len(boxes), *bundle.model.crop_size, 3), np.uint8))
    stages = open_stages(bundle)
    coarse = stages.coarse(crops)
    fine = stages.fine(fine_inputs(crops, coarse, bundle.model))
    stages.close()
    heights = boxes[:, 3] - boxes[:, 1]
    write(FOLDER / "regions.jpg", regions_figure(bundle, crops, coarse, fine, int(heights.argmax())))
    write(FOLDER / "gate.jpg", gate_figure(bundle, crops, coarse, fine))


def regions_figure(bundle: Bundle, crops: npt.NDArray[np.uint8], coarse: Arrays, fine: Arrays, person: int) -> Image:
    """The way of one crop through both stages, from left to right."""
    crop = np.ascontiguousarray(crops[person][..., ::-1])
    height, width = bundle.model.crop_size
    columns = bundle.model.region_grid[1]
    half = cv2.resize(crop, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    blurred = np.asarray(cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    seen = enlarged(blurred)
    selected = coarse["region_order"][person][: bundle.model.num_selected].tolist()
    sharp, side = enlarged(crop), REGION_SIZE * _SCALE
    for region in selected:
        top, left = (place * side for place in divmod(region, columns))
        seen[top : top + side, left : left + side] = sharp[top : top + side, left : left + side]
        cv2.rectangle(seen, (left, top), (left + side - 1, top + side - 1), REFINED, 1)
    ranked = enlarged(blurred)
    for rank, region in enumerate(coarse["region_order"][person].tolist()):
        top, left = (place * side for place in divmod(region, columns))
        cv2.rectangle(ranked, (left, top), (left + side - 1, top + side - 1), (200, 200, 200), 1)
        shade = REFINED if rank < len(selected) else (200, 200, 200)
        write_text(ranked, str(rank + 1), (left + 5, top + side - 7), 0.45, shade)
    return row(
        [
            (enlarged(crop), f"crop, {height}x{width}"),
            (posed(bundle, enlarged(blurred), coarse["keypoints"][person]), "coarse: half size"),
            (ranked, "regions by relevance"),
            (seen, f"fine stage's input: {len(selected)} sharp"),
            (posed(bundle, enlarged(crop), fine["keypoints"][person]), "refined"),
        ]
    )


def gate_figure(bundle: Bundle, crops: npt.NDArray[np.uint8], coarse: Arrays, fine: Arrays) -> Image:
    """Everybody in the frame from the lowest predicted quality to the highest, and what a gate does at `THRESHOLD`."""
    tiles = []
    for person in np.argsort(coarse["quality"]).tolist():
        quality = float(coarse["quality"][person])
        refined = quality < THRESHOLD
        keypoints = (fine if refined else coarse)["keypoints"][person]
        tile = posed(bundle, enlarged(np.ascontiguousarray(crops[person][..., ::-1])), keypoints)
        cv2.rectangle(tile, (0, 0), (tile.shape[1] - 1, tile.shape[0] - 1), REFINED if refined else PLAIN, 8)
        tiles.append((tile, f"{quality:.3f}: {'refined' if refined else 'kept'}"))
    return row(tiles)


def posed(bundle: Bundle, picture: Image, keypoints: npt.NDArray[np.generic]) -> Image:
    """An enlarged crop with a pose whose pixels are the crop's."""
    height, width = picture.shape[:2]
    points = keypoints[None].astype(np.float32) * np.array([_SCALE, _SCALE, 1], np.float32)
    one = np.ones(1, np.float32)
    pose = PoseResult(Boxes.from_xyxy([[0, 0, width - 1, height - 1]]), points, one, one.astype(bool))
    return draw_poses(picture, pose, bundle.model.skeleton, keypoint_threshold=0.2, show_boxes=False)


def enlarged(crop: Image) -> Image:
    """A crop at the size of the figure."""
    bigger = cv2.resize(crop, None, fx=_SCALE, fy=_SCALE, interpolation=cv2.INTER_NEAREST)
    return np.asarray(bigger, np.uint8)


def row(tiles: list[tuple[Image, str]]) -> Image:
    """Tiles of one size from left to right, captions below."""
    height, width = tiles[0][0].shape[:2]
    page = np.full((height + _CAPTION, len(tiles) * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for index, (tile, caption) in enumerate(tiles):
        left = index * (width + _GAP)
        page[:height, left : left + width] = tile
        write_text(page, caption, (left, height + 24), 0.7, _INK)
    return page


def write_text(page: Image, text: str, place: tuple[int, int], size: float, colour: tuple[int, int, int]) -> None:
    """A line whose baseline starts at `place`."""
    cv2.putText(page, text, place, _FONT, size, colour, 1, cv2.LINE_AA)


def write(path: Path, picture: Image) -> None:
    """Write a JPEG of at most 1,600 pixels across."""
    shrink = min(1600 / picture.shape[1], 1.0)
    small = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), small, [cv2.IMWRITE_JPEG_QUALITY, 82])
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

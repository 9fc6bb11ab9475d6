"""Contact sheets of an evaluation: predictions over labels, and the regions that the fine stage looked at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.skeleton import Skeleton
from sharpose.tokens import REGION_SIZE
from sharpose.training.atomic_file import atomic_file

__all__ = ["prediction_sheet", "region_sheet", "write_sheet"]

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# BGR
_SIDES = {"left": (0, 140, 255), "right": (255, 150, 40), "centre": (240, 240, 240)}
_LABEL = (80, 220, 80)
_SCALE = 2  # crops are small, lines are not
_COLUMNS = 8
_GAP = 4
_DIMMED = 0.3
_QUALITY = 88  # of the JPEG


def prediction_sheet(
    crops: Picture, labels: Floats, predictions: Floats, skeleton: Skeleton, threshold: float = 0.2
) -> Picture:
    """Crops with labels as green rings and predictions as coloured limbs (the person's left orange, right blue).

    Args:
        crops: uint8 [N, H, W, 3], RGB.
        labels: [N, J, 3], `x, y` in crop pixels and visibility.
        predictions: [N, J, 3], `x, y` in crop pixels and score.
        skeleton: Which keypoints are joined.
        threshold: Predictions that score less aren't drawn.

    Returns:
        uint8 [.., .., 3], BGR.
    """
    tiles = []
    for crop, label, prediction in zip(crops, labels, predictions, strict=True):
        tile = _enlarged(crop)
        shown = np.isfinite(prediction).all(axis=1) & (prediction[:, 2] >= threshold)
        for a, b in skeleton.limbs:
            if shown[a] and shown[b]:
                colour = _SIDES[skeleton.side(b)]
                cv2.line(tile, _point(prediction[a]), _point(prediction[b]), colour, 2, cv2.LINE_AA)
        for index in np.flatnonzero(shown):
            cv2.circle(tile, _point(prediction[index]), 3, _SIDES[skeleton.side(int(index))], -1, cv2.LINE_AA)
        for point in label[label[:, 2] > 0]:
            cv2.circle(tile, _point(point), 5, _LABEL, 1, cv2.LINE_AA)
        tiles.append(tile)
    return _grid(tiles)


def region_sheet(crops: Picture, region_order: Ints, selected: int) -> Picture:
    """Crops with the regions that the fine stage doesn't look at dimmed, and the rank of the five most relevant.

    Args:
        crops: uint8 [N, H, W, 3], RGB.
        region_order: int64 [N, R], most relevant first.
        selected: How many regions the fine stage looks at.

    Returns:
        uint8 [.., .., 3], BGR.
    """
    columns, side = crops.shape[2] // REGION_SIZE, REGION_SIZE * _SCALE
    tiles = []
    for crop, order in zip(crops, region_order, strict=True):
        tile = _enlarged(crop)
        shown = (tile * _DIMMED).astype(np.uint8)
        for rank, region in enumerate(order[:selected]):
            y, x = (int(place) * side for place in divmod(int(region), columns))
            shown[y : y + side, x : x + side] = tile[y : y + side, x : x + side]
            if rank < 5:
                place = (x + 6, y + 24)
                cv2.putText(shown, str(rank + 1), place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 4, cv2.LINE_AA)
                cv2.putText(shown, str(rank + 1), place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, _LABEL, 1, cv2.LINE_AA)
        tiles.append(shown)
    return _grid(tiles)


def write_sheet(path: Path, sheet: Picture) -> None:
    """Write a JPEG, whole or not at all; a `SinkError` where that fails."""
    encoded, content = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert encoded
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.tobytes())


def _enlarged(crop: Picture) -> Picture:
    size = (crop.shape[1] * _SCALE, crop.shape[0] * _SCALE)
    return np.asarray(cv2.resize(crop[..., ::-1], size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _point(keypoint: Floats) -> tuple[int, int]:
    # pixel centres: crop pixel x covers [2x, 2x + 2) of the enlarged crop
    x, y = np.clip(keypoint[:2] * _SCALE + (_SCALE - 1) / 2, -30_000, 30_000)
    return round(float(x)), round(float(y))


def _grid(tiles: list[Picture]) -> Picture:
    height, width = tiles[0].shape[:2]
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 32, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        y, x = row * (height + _GAP), column * (width + _GAP)
        sheet[y : y + height, x : x + width] = tile
    return sheet

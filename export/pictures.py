"""Crops to measure parity on: pictures of the user's, or the built-in scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sharpose.errors import ExportError
from sharpose.geometry import crop_frames, extract_crops
from sharpose.runtime.sources import open_source
from sharpose.scene import Scene, SceneConfig

__all__ = ["MAX_CROPS", "ParityPictures", "crop_people", "folder_pictures", "scene_pictures"]

MAX_CROPS = 64
"""Most crops that are taken from a user's pictures."""


class ParityPictures:
    """Crops and where they came from.

    Attributes:
        crops: uint8 [n, H, W, 3], RGB.
        origin: A few words for the report.
    """

    def __init__(self, crops: npt.NDArray[np.uint8], origin: str) -> None:
        self.crops = crops
        self.origin = origin


def scene_pictures(crop_size: tuple[int, int], count: int = 16) -> ParityPictures:
    """`count` people of the built-in scene, from frames well apart."""
    crops: list[npt.NDArray[np.uint8]] = []
    scene = Scene(SceneConfig(seed=0, people=4, frames=25 * count))
    for index in range(0, len(scene), 25):
        frame = scene.frame(index)
        crops.extend(crop_people(frame.image, frame.boxes_xyxy, crop_size))
        if len(crops) >= count:
            break
    return ParityPictures(np.stack(crops[:count]), "the built-in scene")


def folder_pictures(folder: Path, crop_size: tuple[int, int]) -> ParityPictures:
    """Every picture of a folder as one crop, up to 64 of them.

    Raises:
        SourceError: the folder holds no picture, or one that can't be decoded.
        ExportError: it isn't a folder.
    """
    if not folder.is_dir():
        raise ExportError(f"--images {folder}: expected a folder of pictures")
    source = open_source(str(folder))
    crops: list[npt.NDArray[np.uint8]] = []
    try:
        for frame in source:
            box = np.array([[0, 0, frame.width, frame.height]], dtype=np.float32)
            crops.extend(crop_people(frame.image, box, crop_size))
            if len(crops) >= MAX_CROPS:
                break
    finally:
        source.close()
    return ParityPictures(np.stack(crops), f"{len(crops)} pictures of {folder.name}")


def crop_people(
    image: npt.NDArray[np.uint8], boxes_xyxy: npt.NDArray[np.float32], crop_size: tuple[int, int]
) -> list[npt.NDArray[np.uint8]]:
    """Crops uint8 [H, W, 3], RGB, of the boxes float32 [n, 4] xyxy in a picture uint8 [h, w, 3], BGR."""
    frames = crop_frames(boxes_xyxy, crop_size)
    out = np.empty((len(frames), *crop_size, 3), dtype=np.uint8)
    return list(extract_crops(image, frames, out))

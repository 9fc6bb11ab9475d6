"""The people of several pictures in one row, so that they share batches whichever picture they are in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError
from sharpose.geometry import CropFrames, crop_frames, extract_crops
from sharpose.runtime.frames import Image
from sharpose.runtime.result import Boxes, PoseResult, StageTimings

__all__ = ["Crowd", "Picture"]


@dataclass(frozen=True)
class Picture:
    """A picture, the people in it, and by when their poses are wanted.

    Attributes:
        image: uint8 [H, W, 3], BGR.
        boxes: Its people; may reach outside the picture.
        stream: Index of its stream; the deadline scheduler's memory of people is kept per stream.
        time: Seconds of its stream, never decreasing.
        deadline: The `time.perf_counter()` by which the poses should be there; None for no limit.

    Raises:
        InputError: the picture has another type, dtype or shape, or a time or the deadline isn't a number.
    """

    image: Image
    boxes: Boxes
    stream: int = 0
    time: float = 0.0
    deadline: float | None = None

    def __post_init__(self) -> None:
        image = self.image
        if not isinstance(image, np.ndarray):
            raise InputError(f"image_bgr: expected a uint8 array [H, W, 3], got {type(image).__name__}")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InputError(f"image_bgr: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        if not math.isfinite(self.time):
            raise InputError(f"time: expected seconds, got {self.time}")
        if self.deadline is not None and math.isnan(self.deadline):
            raise InputError("deadline: expected a time.perf_counter() value, got NaN")


class Crowd:
    """All people of some pictures, picture by picture, and what is found out about them.

    Args:
        pictures: The pictures.
        crop_size: `(height, width)` of a crop.
        keypoints: J, how many keypoints a person has.
        regions: K, how many regions are kept a person; None to keep none.

    Attributes:
        pictures: As given.
        owners: int64 [n], each person's picture, ascending.
        boxes_xyxy: float32 [n, 4], picture pixels.
        frames: The n crop frames.
        keypoints: float32 [n, J, 3], to be filled: `x, y` in picture pixels, score.
        quality: float32 [n], to be filled.
        refined: bool [n], to be filled.
        regions_xyxy: float32 [n, K, 4], NaN until it is filled; or None.
        wanted: bool [n] where there is a deadline, to be filled; or None.
        carried: bool [n] where there is a deadline, to be filled; or None.
        timings: Of each picture.
    """

    def __init__(
        self, pictures: Sequence[Picture], crop_size: tuple[int, int], keypoints: int, regions: int | None = None
    ) -> None:
        self.pictures = pictures
        self.owners = np.repeat(np.arange(len(pictures)), [len(picture.boxes) for picture in pictures])
        boxes = [picture.boxes.xyxy for picture in pictures]
        self.boxes_xyxy: npt.NDArray[np.float32] = np.concatenate([np.zeros((0, 4), np.float32), *boxes])
        self.frames = crop_frames(self.boxes_xyxy, crop_size)
        people = len(self.owners)
        self.keypoints = np.zeros((people, keypoints, 3), dtype=np.float32)
        self.quality = np.zeros(people, dtype=np.float32)
        self.refined = np.zeros(people, dtype=np.bool_)
        self.wanted: npt.NDArray[np.bool_] | None = None
        self.carried: npt.NDArray[np.bool_] | None = None
        self.regions_xyxy = None if regions is None else np.full((people, regions, 4), np.nan, dtype=np.float32)
        self.timings = [StageTimings() for _ in pictures]

    def __len__(self) -> int:
        return len(self.owners)

    def frames_of(self, part: slice | npt.NDArray[np.integer]) -> CropFrames:
        """The crop frames of some of the people."""
        return CropFrames(self.frames.center[part], self.frames.size[part], self.frames.crop_size)

    def crop(self, part: slice, out: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Crop the people of `part` out of their pictures into the first rows of `out`; see `extract_crops`."""
        owners = self.owners[part]
        for picture in np.unique(owners):
            first, end = (int(place) for place in np.searchsorted(owners, [picture, picture + 1]))
            frames = self.frames_of(slice(part.start + first, part.start + end))
            extract_crops(self.pictures[picture].image, frames, out[first:])
        return out[: len(owners)]

    def charge(self, stage: str, people: slice | npt.NDArray[np.integer], seconds: float) -> None:
        """Share the time that a stage took among the pictures of the people who took part in it."""
        shares = np.bincount(self.owners[people], minlength=len(self.pictures))
        for picture in np.flatnonzero(shares):
            timings = self.timings[picture]
            share = seconds * float(shares[picture] / shares.sum())
            setattr(timings, stage, getattr(timings, stage) + share)

    def results(self) -> list[PoseResult]:
        """The poses, picture by picture."""
        ends = np.searchsorted(self.owners, np.arange(len(self.pictures)), side="right")
        starts = np.searchsorted(self.owners, np.arange(len(self.pictures)), side="left")
        return [
            PoseResult(
                picture.boxes,
                self.keypoints[start:end],
                self.quality[start:end],
                self.refined[start:end],
                timings,
                wanted=None if self.wanted is None else self.wanted[start:end],
                carried=None if self.carried is None else self.carried[start:end],
                regions_xyxy=None if self.regions_xyxy is None else self.regions_xyxy[start:end],
            )
            for picture, timings, start, end in zip(self.pictures, self.timings, starts, ends, strict=True)
        ]

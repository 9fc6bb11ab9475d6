"""All people of some pictures, and both stages for them, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from sharpose.engines.two_stage import TwoStage
from sharpose.errors import EngineError
from sharpose.geometry import CropFrames, crop_frames, extract_crops, keypoints_to_image
from sharpose.runtime.refinement.gate import region_boxes
from sharpose.runtime.result import Picture, PoseResult, StageTimings
from sharpose.scores.tables import ScoreCalibration
from sharpose.skeleton import Skeleton
from sharpose.tokens import gather_patches

if TYPE_CHECKING:
    from sharpose.runtime.refinement import RefinementPlan


class Crowd:
    """All people of some pictures, picture by picture, and what is found out about them.

    Args:
        pictures: The pictures.
        crop_size: `(height, width)` of a crop.
        skeleton: The J keypoints that a person has.
        regions: K, how many regions are kept a person; None to keep none.
        calibration: Makes scores probabilities; they stay raw if None.

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
        confidence: float32 [n], to be filled; or None where scores stay raw.
        timings: Of each picture.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        crop_size: tuple[int, int],
        skeleton: Skeleton,
        regions: int | None = None,
        calibration: ScoreCalibration | None = None,
    ) -> None:
        self.pictures = pictures
        self._skeleton, self._calibration = skeleton, calibration
        self.owners = np.repeat(np.arange(len(pictures)), [len(picture.boxes) for picture in pictures])
        boxes = [picture.boxes.xyxy for picture in pictures]
        self.boxes_xyxy: npt.NDArray[np.float32] = np.concatenate([np.zeros((0, 4), np.float32), *boxes])
        ratios = np.array([picture.sample_aspect_ratio for picture in pictures], np.float64)
        self.frames = crop_frames(self.boxes_xyxy, crop_size, sample_aspect_ratio=ratios[self.owners])
        people = len(self.owners)
        self.keypoints = np.zeros((people, skeleton.num_keypoints, 3), dtype=np.float32)
        self.quality = np.zeros(people, dtype=np.float32)
        self.refined = np.zeros(people, dtype=np.bool_)
        self.wanted: npt.NDArray[np.bool_] | None = None
        self.carried: npt.NDArray[np.bool_] | None = None
        self.confidence = None if calibration is None else np.zeros(people, dtype=np.float32)
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

    def keep(
        self,
        people: slice | npt.NDArray[np.integer],
        keypoints: npt.NDArray[np.float32],
        refined: npt.NDArray[np.bool_],
    ) -> None:
        """Keep the poses that a stage found, in picture pixels and with calibrated scores.

        Args:
            people: Whose.
            keypoints: float32 [m, J, 3], `x, y` in crop pixels and the heatmap's peak.
            refined: bool [m], whether the fine stage found them.
        """
        found = keypoints_to_image(keypoints, self.frames_of(people))
        if self._calibration is not None and self.confidence is not None:
            self.confidence[people] = self._calibration.apply(found, refined)
        self.keypoints[people], self.refined[people] = found, refined

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
                confidence=None if self.confidence is None else self.confidence[start:end],
                skeleton=self._skeleton,
                sample_aspect_ratio=picture.sample_aspect_ratio,
            )
            for picture, timings, start, end in zip(self.pictures, self.timings, starts, ends, strict=True)
        ]


class EstimateStopped(Exception):  # noqa: N818 (no error)
    """An estimate was given up, as its caller wanted."""


ChooseRows: TypeAlias = Callable[[slice, npt.NDArray[np.float32]], npt.NDArray[np.int32]]
"""From a chunk's people and their predicted quality [n] to the rows, from 0, that are wanted refined; ascending."""


class CrowdRunner:
    """Runs both stages for crowds, in chunks that fit the engines' buffers.

    Args:
        stages: The engines.
        selected: K, how many regions of a crop the fine stage sees at full size.
        now: Seconds, for timings.
        batch: Most people in a batch; max batch if None.
    """

    def __init__(self, stages: TwoStage, selected: int, now: Callable[[], float], batch: int | None = None) -> None:
        self._stages, self._selected, self._now = stages, selected, now
        self._most = batch or stages.max_batch

    def run(self, crowd: Crowd, choose: ChooseRows, plan: RefinementPlan | None, stop: Callable[[], bool]) -> None:
        """Fill in what is to be found out about the people.

        Args:
            crowd: The people.
            choose: Whom the gate wants refined.
            plan: Says who of those is, and when; all, in one batch a chunk, if None.
            stop: Asked between chunks, and after a failure, whether to give up.

        Raises:
            EngineError: an engine failed.
            EstimateStopped: `stop` said so.
        """
        most = self._most
        for start in range(0, len(crowd), most):
            if start and stop():
                raise EstimateStopped
            try:
                self._run_chunk(crowd, slice(start, min(start + most, len(crowd))), choose, plan)
            except EngineError as error:
                if stop():
                    raise EstimateStopped from error
                raise
        if plan is not None:
            plan.finish()

    def _run_chunk(self, crowd: Crowd, part: slice, choose: ChooseRows, plan: RefinementPlan | None) -> None:
        """Both stages for one chunk."""
        clock = _Clock(self._now)
        crops = crowd.crop(part, self._stages.crops)
        crowd.charge("crop", part, clock.lap())
        coarse = self._stages.run_coarse(len(crops))
        crowd.charge("coarse", part, clock.lap())
        crowd.quality[part] = coarse.quality
        crowd.keep(part, coarse.keypoints, np.zeros(len(crops), np.bool_))
        crowd.charge("map_back", part, clock.lap())
        rows = choose(part, coarse.quality)
        if plan is not None:
            plan.open(part, rows)
            rows = plan.next_rows()
        crowd.charge("gate", part, clock.lap())
        while len(rows):
            self._run_fine(crowd, part, rows, coarse.region_order, clock)
            if plan is None:
                break
            rows = plan.next_rows()
            crowd.charge("gate", part, clock.lap())

    def _run_fine(
        self, crowd: Crowd, part: slice, rows: npt.NDArray[np.int32], order: npt.NDArray[np.int32], clock: _Clock
    ) -> None:
        """The fine stage for some rows of the chunk whose coarse stage ran last."""
        people = part.start + rows
        frames = crowd.frames_of(people)
        gather_patches(self._stages.crops, rows, order, self._selected, self._stages.patches)
        crowd.charge("gather", people, clock.lap())
        keypoints = self._stages.run_fine(rows)
        crowd.charge("fine", people, clock.lap())
        crowd.keep(people, keypoints, np.ones(len(rows), np.bool_))
        if crowd.regions_xyxy is not None:
            crowd.regions_xyxy[people] = region_boxes(order[rows], frames, self._selected)
        crowd.charge("map_back", people, clock.lap())


class _Clock:
    """Seconds since the last lap."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last = now()

    def lap(self) -> float:
        now = self._now()
        passed, self._last = now - self._last, now
        return passed

"""`--detect-every N`: the detector looks at every N-th frame; in between, boxes follow the poses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sharpose.engines.locks import one_thread
from sharpose.errors import InputError
from sharpose.runtime.boxes.sources import BoxSource
from sharpose.runtime.frames import Frame
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.similarity import box_nms

_SURE = 0.3  # of a keypoint's score: a probability, or a heatmap's peak where the bundle has no score tables
_MIN_KEYPOINTS = 4  # that a box can be made from
_COLLAPSED = 0.4  # of the pose's score at its detection: it has lost its person
_SAME_PERSON = 0.8  # overlap of two followed boxes that have slid onto one person
_MAX_GROWTH = 1.25  # a step: what grows faster is a pose that jumped
_MIN_SIZE = 2.0  # pixels

Floats = npt.NDArray[np.float64]


class _Followed(NamedTuple):
    """n people: their next boxes, how box and pose lay at the last detection, and how good the pose was."""

    boxes: Boxes
    centre: Floats  # [n, 2], of the box, from the pose's centre, in pose sizes
    ratio: Floats  # [n, 2], box size to pose size
    score: Floats  # [n], of the pose at its detection

    def only(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> _Followed:
        boxes = Boxes(self.boxes.xyxy[rows], self.boxes.scores[rows])
        return _Followed(boxes, self.centre[rows], self.ratio[rows], self.score[rows])


class FollowPoses:
    """A box source that asks another one only every N frames; in between, its boxes follow the poses.

    A followed box is where the person's sure keypoints are, padded as the detected box was around the pose in its
    frame. People whose pose has collapsed, whose box has left the picture, or who have slid onto somebody else are
    dropped; new people come with the next detection. One per stream, and a second thread at a time is refused
    (`InputError`); the detector within may be shared.

    Args:
        source: The detector or another source.
        every: N, 1 or more: at frames 0, N, 2N, …, at a frame of another size, where nobody is left to follow, and
            after a detection whose frame a busy server had dropped.

    Raises:
        InputError: `every` is below 1.
    """

    def __init__(self, source: BoxSource, every: int) -> None:
        if every < 1:
            raise InputError(f"detect every: expected 1 or more frames, got {every}")
        self.source = source
        self.every = every
        self._since = every  # frames since the last detection
        self._detected = False
        self._frame_size: tuple[int, int] | None = None
        self._followed: _Followed | None = None

    @one_thread
    def boxes_for(self, frame: Frame) -> Boxes:
        """Detected boxes every N-th frame, else those that follow the poses; scores are those of the detection."""
        size = frame.height, frame.width
        followed = self._followed
        self._detected = self._since >= self.every or size != self._frame_size or followed is None
        if self._detected or followed is None:
            # A frame that is dropped isn't observed: the next one is detected, too.
            self._since, self._frame_size, self._followed = 1, size, None
            return self.source.boxes_for(frame)
        self._since += 1
        return followed.boxes

    @one_thread
    def observe(self, frame: Frame, poses: PoseResult) -> None:
        """Follow the poses found in the boxes of the last `boxes_for`; there may be fewer, the best only."""
        self.source.observe(frame, poses)
        seen = self._begin(poses) if self._detected or self._followed is None else self._follow(poses, self._followed)
        self._followed = _without_lost(seen, frame)

    def _begin(self, poses: PoseResult) -> _Followed:
        low, high, sure = _extent(poses)
        size = np.maximum(high - low, _MIN_SIZE)
        xyxy = poses.boxes.xyxy.astype(np.float64)
        centre = ((xyxy[:, :2] + xyxy[:, 2:]) / 2 - (low + high) / 2) / size
        ratio = (xyxy[:, 2:] - xyxy[:, :2]) / size
        # Boxes without a sure pose can't be followed, but it may become sure within the same box.
        centre[~sure], ratio[~sure] = 0, 1
        return _Followed(poses.boxes, centre, ratio, poses.scores.astype(np.float64))

    def _follow(self, poses: PoseResult, before: _Followed) -> _Followed:
        if len(poses) != len(before.boxes):  # somebody took the best only
            return self._begin(poses)
        low, high, sure = _extent(poses)
        size = np.maximum(high - low, _MIN_SIZE)
        old = poses.boxes.xyxy.astype(np.float64)
        old_size = np.maximum(old[:, 2:] - old[:, :2], _MIN_SIZE)
        new_size = np.clip(size * before.ratio, old_size / _MAX_GROWTH, old_size * _MAX_GROWTH)
        centre = (low + high) / 2 + before.centre * size
        xyxy = np.where(sure[:, None], np.hstack([centre - new_size / 2, centre + new_size / 2]), old)
        keep = sure & (poses.scores > _COLLAPSED * before.score)
        boxes = Boxes(xyxy.astype(np.float32), poses.boxes.scores)
        return before._replace(boxes=boxes).only(keep)


def _extent(poses: PoseResult) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """The corners [n, 2] of the sure keypoints' box, and whether there are enough of them [n]."""
    points = poses.keypoints[:, :, :2].astype(np.float64)
    counted = (poses.keypoints[:, :, 2] >= _SURE) & np.isfinite(points).all(axis=2)
    enough = counted.sum(axis=1) >= min(_MIN_KEYPOINTS, points.shape[1])
    counted |= ~enough[:, None]  # any numbers will do for those
    points = np.nan_to_num(points)
    low = np.where(counted[:, :, None], points, np.inf).min(axis=1)
    high = np.where(counted[:, :, None], points, -np.inf).max(axis=1)
    return low, high, enough


def _without_lost(followed: _Followed, frame: Frame) -> _Followed | None:
    """Those who are still in the picture and are not somebody else; None where nobody is."""
    xyxy = followed.boxes.xyxy
    inside = (xyxy[:, 2] > 0) & (xyxy[:, 3] > 0) & (xyxy[:, 0] < frame.width) & (xyxy[:, 1] < frame.height)
    rows = np.flatnonzero(inside)
    alone = box_nms(xyxy[rows], followed.boxes.scores[rows], _SAME_PERSON)
    return followed.only(np.sort(rows[alone])) if len(alone) else None

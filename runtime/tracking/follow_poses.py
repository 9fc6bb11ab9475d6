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
_LEAST_SPAN = 0.3  # of the pose's extent: keypoints that are closer, those of a head, don't tell its size

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class _Followed(NamedTuple):
    """n people with J keypoints: their next boxes, and what they are compared with, from the detection."""

    boxes: Boxes
    xyxy: Floats  # [n, 4], the boxes that the poses were found in
    points: Floats  # [n, J, 2]
    sure: Bools  # [n, J]
    score: Floats  # [n], of the pose

    def only(self, rows: npt.NDArray[np.integer] | Bools) -> _Followed:
        boxes = Boxes(self.boxes.xyxy[rows], self.boxes.scores[rows])
        return _Followed(boxes, self.xyxy[rows], self.points[rows], self.sure[rows], self.score[rows])


class FollowPoses:
    """A box source that asks another one only every N frames; in between, its boxes follow the poses.

    A followed box moves and grows as those of the person's keypoints do that are sure now and were at the detection.
    People whose pose has collapsed, whose box has left the picture, or who have slid onto somebody else are
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
        points, sure = _sure_keypoints(poses)
        return _Followed(
            poses.boxes, poses.boxes.xyxy.astype(np.float64), points, sure, poses.scores.astype(np.float64)
        )

    def _follow(self, poses: PoseResult, before: _Followed) -> _Followed:
        if len(poses) != len(before.boxes):  # somebody took the best only
            return self._begin(poses)
        points, sure = _sure_keypoints(poses)
        least = min(_MIN_KEYPOINTS, points.shape[1])
        both = sure & before.sure  # else a person whose legs become unsure would be one who shrinks
        known, enough = both.sum(axis=1) >= least, sure.sum(axis=1) >= least
        then_centre, then_size = _extent(before.points, both)
        now_centre, now_size = _extent(points, both)
        box_centre, box_size = _centre_and_size(before.xyxy)
        old = poses.boxes.xyxy.astype(np.float64)
        _, old_size = _centre_and_size(old)
        tells_size = then_size >= _LEAST_SPAN * _extent(before.points, before.sure)[1]
        new_size = np.where(tells_size, box_size * now_size / then_size, old_size)
        new_size = np.clip(new_size, old_size / _MAX_GROWTH, old_size * _MAX_GROWTH)
        centre = now_centre + (box_centre - then_centre) * new_size / box_size
        xyxy = np.where(known[:, None], np.hstack([centre - new_size / 2, centre + new_size / 2]), old)
        # Where too few were sure at the detection, the box stays, and is compared with the pose of now.
        seen = _Followed(
            Boxes(xyxy.astype(np.float32), poses.boxes.scores),
            np.where(known[:, None], before.xyxy, old),
            np.where(known[:, None, None], before.points, points),
            np.where(known[:, None], before.sure, sure),
            before.score,
        )
        return seen.only(enough & (poses.scores > _COLLAPSED * before.score))


def _sure_keypoints(poses: PoseResult) -> tuple[Floats, Bools]:
    """Where all keypoints are [n, J, 2], 0 for what isn't a number, and which of them are sure [n, J]."""
    points = poses.keypoints[:, :, :2].astype(np.float64)
    finite = np.isfinite(points)
    return np.where(finite, points, 0), (poses.keypoints[:, :, 2] >= _SURE) & finite.all(axis=2)


def _extent(points: Floats, counted: Bools) -> tuple[Floats, Floats]:
    """Centre and size [n, 2] of the box around the keypoints that count; around all where none does."""
    none = counted.sum(axis=1) == 0
    wanted = (counted | none[:, None])[:, :, None]
    low, high = np.where(wanted, points, np.inf).min(axis=1), np.where(wanted, points, -np.inf).max(axis=1)
    return _centre_and_size(np.hstack([low, high]))


def _centre_and_size(xyxy: Floats) -> tuple[Floats, Floats]:
    """Of boxes [n, 4]: both [n, 2], sizes of 2 pixels or more."""
    return (xyxy[:, :2] + xyxy[:, 2:]) / 2, np.maximum(xyxy[:, 2:] - xyxy[:, :2], _MIN_SIZE)


def _without_lost(followed: _Followed, frame: Frame) -> _Followed | None:
    """Those who are still in the picture and are not somebody else; None where nobody is."""
    xyxy = followed.boxes.xyxy
    inside = (xyxy[:, 2] > 0) & (xyxy[:, 3] > 0) & (xyxy[:, 0] < frame.width) & (xyxy[:, 1] < frame.height)
    rows = np.flatnonzero(inside)
    alone = box_nms(xyxy[rows], followed.boxes.scores[rows], _SAME_PERSON)
    return followed.only(np.sort(rows[alone])) if len(alone) else None

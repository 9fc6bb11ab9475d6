"""Steady keypoints: the One-Euro filter (Casiez, Roussel and Vogel, CHI 2012), per track, on real timestamps.

Where a keypoint is unsure and then sure is told by its score: a probability, or a heatmap's peak where the bundle has
no score tables. The border matters little: with any value from 0 to 0.7, the mean error on four drawn scenes stayed
between 6.67 and 6.69 % of the body's height.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sharpose.engines.locks import one_thread
from sharpose.errors import InputError
from sharpose.runtime.result import PoseResult

_SPEED_CUTOFF = 2.0  # Hz, of the speed's own low-pass
_SURE = 0.2  # a keypoint that scores less is seldom right: it may be anywhere
_JUMP = 0.05  # of the person's size
_FORGET = 0.5  # seconds after which somebody unseen starts afresh
_SIZE_CUTOFF = 1.0  # Hz: boxes breathe
_MIN_SIZE = 1.0  # pixels

Floats = npt.NDArray[np.float64]


class _State(NamedTuple):
    """The filters of m people."""

    ids: npt.NDArray[np.int64]  # [m]
    time: Floats  # [m], when each was seen last
    size: Floats  # [m], pixels
    place: Floats  # [m, J, 2], pixels
    speed: Floats  # [m, J, 2], sizes per second
    score: Floats  # [m, J]

    @classmethod
    def empty(cls, joints: int) -> _State:
        pairs = np.zeros((0, joints, 2))
        return cls(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), pairs, pairs, np.zeros((0, joints)))


class Smoother:
    """Removes jitter from keypoints without making them late: still ones are smoothed hard, fast ones hardly.

    A keypoint's cut-off frequency is `min_cutoff + beta * speed`, with the speed in the person's sizes per second, so
    near and far people are treated alike. People without a track id pass as they are. A keypoint that was unsure and
    becomes sure elsewhere is taken at once, not drawn across the picture. Scores and boxes are left alone. One per
    stream; a second thread at a time is refused (`InputError`).

    Args:
        min_cutoff: Hz; lower is steadier at rest.
        beta: Hz for one size per second; higher is less late in motion.

    Raises:
        InputError: `min_cutoff` isn't above 0, or `beta` is below 0.
    """

    def __init__(self, min_cutoff: float = 1.0, beta: float = 6.0) -> None:
        if not 0 < min_cutoff < np.inf or not 0 <= beta < np.inf:
            raise InputError(f"smoother: expected min_cutoff > 0 and beta >= 0, got {min_cutoff} and {beta}")
        self.min_cutoff = min_cutoff
        self.beta = beta
        self._state = _State.empty(0)
        self._frame_size: tuple[int, int] | None = None

    @one_thread
    def update(self, poses: PoseResult, time: float, frame_size: tuple[int, int] | None = None) -> PoseResult:
        """Smooth the poses of the next frame.

        Args:
            poses: With `track_ids`; without them nothing is smoothed.
            time: Of the frame, in seconds.
            frame_size: Height and width of the picture; where it changes, everybody starts afresh.

        Returns:
            The same with steadier keypoints.
        """
        ids = poses.track_ids
        if ids is None:
            return poses
        joints = poses.keypoints.shape[1]
        if frame_size != self._frame_size or joints != self._state.score.shape[1]:
            self._state, self._frame_size = _State.empty(joints), frame_size
        tracked = np.flatnonzero(ids > 0)
        before = self._state
        now = self._smooth(ids[tracked], poses.keypoints[tracked].astype(np.float64), poses.boxes.xyxy[tracked], time)
        keypoints = poses.keypoints.copy()
        keypoints[tracked, :, :2] = now.place
        unseen = ~np.isin(before.ids, now.ids) & (time - before.time <= _FORGET)
        self._state = _State(*(np.concatenate([new, old[unseen]]) for new, old in zip(now, before, strict=True)))
        return replace(poses, keypoints=keypoints)

    def _smooth(self, ids: npt.NDArray[np.int64], seen: Floats, boxes: npt.NDArray[np.float32], time: float) -> _State:
        """The state of this frame's people, with their smoothed places."""
        before = self._state
        size = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0), _MIN_SIZE).astype(np.float64)
        place, score = seen[:, :, :2].copy(), seen[:, :, 2]
        speed = np.zeros_like(place)
        _, known, rows = np.intersect1d(ids, before.ids, return_indices=True)
        recent = time - before.time[rows] <= _FORGET
        known, rows = known[recent], rows[recent]
        seconds = np.maximum(time - before.time[rows], 1e-6)  # twice the same moment tells nothing of speed
        size[known] += (1 - _share(_SIZE_CUTOFF, seconds)) * (before.size[rows] - size[known])

        step = place[known] - before.place[rows]
        raw_speed = step / (size[known] * seconds)[:, None, None]
        share = _share(_SPEED_CUTOFF, seconds)[:, None, None]
        speed[known] = before.speed[rows] + share * (raw_speed - before.speed[rows])
        cutoff = self.min_cutoff + self.beta * np.linalg.norm(speed[known], axis=-1)
        place[known] = before.place[rows] + _share(cutoff, seconds[:, None])[:, :, None] * step

        jumped = np.linalg.norm(step, axis=-1) > _JUMP * size[known][:, None]
        came_back = jumped & (before.score[rows] < _SURE) & (score[known] >= _SURE)
        came_back |= ~np.isfinite(before.place[rows]).all(axis=-1)  # NaN once, as of float16 that ran over
        place[known] = np.where(came_back[:, :, None], seen[known, :, :2], place[known])
        speed[known] = np.where(came_back[:, :, None], 0.0, speed[known])
        return _State(ids, np.full(len(ids), time), size, place, speed, score)


def _share(cutoff: Floats | float, seconds: Floats) -> Floats:
    """Weight of a new value in a low-pass of `cutoff` Hz after `seconds`: 0 to 1."""
    turns = 2 * np.pi * cutoff * seconds
    return np.asarray(turns / (1 + turns))

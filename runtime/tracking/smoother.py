"""Steady keypoints: the One-Euro filter (Casiez, Roussel and Vogel, CHI 2012), per track, on real timestamps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError
from sharpose.runtime.result import PoseResult

__all__ = ["Smoother"]

_SPEED_CUTOFF = 2.0  # Hz, of the speed's own low-pass
_SURE = 0.2  # a keypoint that scores less may be anywhere
_JUMP = 0.05  # of the person's size
_FORGET = 0.5  # seconds after which somebody unseen starts afresh
_SIZE_CUTOFF = 1.0  # Hz: boxes breathe
_MIN_SIZE = 1.0  # pixels

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Memory:
    """What is remembered of m people: by `rows`, an id's place in the arrays."""

    rows: dict[int, int]
    time: Floats  # [m], when each was seen last
    size: Floats  # [m], pixels
    place: Floats  # [m, J, 2], pixels
    speed: Floats  # [m, J, 2], sizes a second
    score: Floats  # [m, J]

    @classmethod
    def empty(cls, joints: int) -> _Memory:
        pairs = np.zeros((0, joints, 2))
        return cls({}, np.zeros(0), np.zeros(0), pairs, pairs, np.zeros((0, joints)))


class Smoother:
    """Takes the tremble out of keypoints without making them late: still ones are smoothed hard, fast ones hardly.

    A keypoint's cut-off frequency is `min_cutoff + beta * speed`, with the speed in the person's sizes a second, so
    near and far people are treated alike. People are told apart by their track ids; those without one pass as they are.
    A keypoint that was unsure and becomes sure elsewhere is taken at once, not drawn across the picture. Scores and
    boxes are left alone.

    Args:
        min_cutoff: Hz; lower is steadier at rest.
        beta: Hz for one size a second; higher is less late in motion.

    Raises:
        InputError: `min_cutoff` isn't above 0, or `beta` is below 0.
    """

    def __init__(self, min_cutoff: float = 1.0, beta: float = 6.0) -> None:
        if not 0 < min_cutoff < np.inf or not 0 <= beta < np.inf:
            raise InputError(f"smoother: expected min_cutoff > 0 and beta >= 0, got {min_cutoff} and {beta}")
        self.min_cutoff = min_cutoff
        self.beta = beta
        self._memory = _Memory.empty(0)
        self._frame_size: tuple[int, int] | None = None

    def update(self, poses: PoseResult, time: float, frame_size: tuple[int, int] | None = None) -> PoseResult:
        """Take a frame in.

        Args:
            poses: With `track_ids`; without them nothing is smoothed.
            time: Of the frame, in seconds.
            frame_size: Height and width of the picture; where it changes, everybody starts afresh.

        Returns:
            The same with steadier keypoints; scores are kept.
        """
        ids = poses.track_ids
        if ids is None:
            return poses
        if frame_size != self._frame_size or poses.keypoints.shape[1] != self._memory.score.shape[1]:
            self._memory, self._frame_size = _Memory.empty(poses.keypoints.shape[1]), frame_size
        tracked = np.flatnonzero(ids > 0)
        people = [int(value) for value in ids[tracked]]
        now = self._smooth(people, poses.keypoints[tracked].astype(np.float64), poses.boxes.xyxy[tracked], time)
        keypoints = poses.keypoints.copy()
        keypoints[tracked, :, :2] = now.place
        self._memory = _joined(now, self._memory, time)
        return replace(poses, keypoints=keypoints)

    def _smooth(self, people: list[int], seen: Floats, boxes: npt.NDArray[np.float32], time: float) -> _Memory:
        """What is to be remembered of this frame's people, their smoothed places with it."""
        memory = self._memory
        size = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0), _MIN_SIZE).astype(np.float64)
        place, score = seen[:, :, :2].copy(), seen[:, :, 2]
        speed = np.zeros_like(place)
        recent = {who: row for who, row in memory.rows.items() if time - memory.time[row] <= _FORGET}
        known = np.array([index for index, who in enumerate(people) if who in recent], np.int64)
        rows = np.array([recent[people[index]] for index in known], np.int64)
        # Twice the same moment tells nothing of speed.
        seconds = np.maximum(time - memory.time[rows], 1e-6)
        size[known] += (1 - _share(_SIZE_CUTOFF, seconds)) * (memory.size[rows] - size[known])

        step = place[known] - memory.place[rows]
        raw_speed = step / (size[known] * seconds)[:, None, None]
        share = _share(_SPEED_CUTOFF, seconds)[:, None, None]
        speed[known] = memory.speed[rows] + share * (raw_speed - memory.speed[rows])
        cutoff = self.min_cutoff + self.beta * np.linalg.norm(speed[known], axis=-1)
        place[known] = memory.place[rows] + _share(cutoff, seconds[:, None])[:, :, None] * step

        jumped = np.linalg.norm(step, axis=-1) > _JUMP * size[known][:, None]
        came_back = jumped & (memory.score[rows] < _SURE) & (score[known] >= _SURE)
        place[known] = np.where(came_back[:, :, None], seen[known, :, :2], place[known])
        speed[known] = np.where(came_back[:, :, None], 0.0, speed[known])
        return _Memory(
            {who: row for row, who in enumerate(people)}, np.full(len(people), time), size, place, speed, score
        )


def _share(cutoff: Floats | float, seconds: Floats) -> Floats:
    """How much of a new value a low-pass of `cutoff` Hz takes after `seconds`: 0 to 1."""
    turns = 2 * np.pi * cutoff * seconds
    share: Floats = turns / (1 + turns)
    return share


def _joined(now: _Memory, before: _Memory, time: float) -> _Memory:
    """This frame's people, and those unseen for a moment."""
    unseen = [
        (who, row) for who, row in before.rows.items() if who not in now.rows and time - before.time[row] <= _FORGET
    ]
    rows = [row for _, row in unseen]
    index = now.rows | {who: len(now.rows) + place for place, (who, _) in enumerate(unseen)}
    return _Memory(
        index,
        np.concatenate([now.time, before.time[rows]]),
        np.concatenate([now.size, before.size[rows]]),
        np.concatenate([now.place, before.place[rows]]),
        np.concatenate([now.speed, before.speed[rows]]),
        np.concatenate([now.score, before.score[rows]]),
    )

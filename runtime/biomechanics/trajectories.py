"""Keypoints of each person over the frames of a stream: collected, gaps filled, filtered, and brought to scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sharpose.angles import points_at
from sharpose.errors import InputError, SinkError
from sharpose.runtime.biomechanics.filters import butterworth, fill_gaps
from sharpose.runtime.biomechanics.options import BiomechanicsOptions
from sharpose.runtime.frames import FrameRecord
from sharpose.skeleton import Skeleton

Floats = npt.NDArray[np.float64]

# Lengths as shares of the body's height (Drillis and Contini, 1966, as in Winter's Biomechanics and Motor Control of
# Human Movement): the ankle is at 0.039, the knee at 0.285, the hip at 0.530, the shoulder at 0.818.
_SHARE_OF_HEIGHT = 0.818 - 0.039


@dataclass(frozen=True)
class Trajectory:
    """One person over F frames of a stream, from the first in which they were seen to the last.

    Attributes:
        id: Of the track, from 1; 0 without tracking.
        first: Which frame of the stream is the first, counted from 0 in the order they were read.
        frames: int64 [F], the frames' own indices.
        times: float64 [F], seconds.
        heights: float64 [F], of the pictures in pixels.
        people: int64 [F], the person's place among those of the frame; -1 where they weren't seen.
        places: float64 [F, J, 2], `x, y` in square pixels, y down; NaN where a keypoint isn't known.
    """

    id: int
    first: int
    frames: npt.NDArray[np.int64]
    times: Floats
    heights: Floats
    people: npt.NDArray[np.int64]
    places: Floats

    def __len__(self) -> int:
        return len(self.times)

    @property
    def seen(self) -> int:
        """In how many frames they were seen."""
        return int((self.people >= 0).sum())

    def processed(self, options: BiomechanicsOptions) -> Trajectory:
        """The same with gaps filled, then filtered, as far as that is wanted; raises `InputError` as `butterworth`."""
        places = fill_gaps(self.places, self.times, options.fill_gaps)
        if options.butterworth is not None:
            places = butterworth(places, self.times, options.butterworth, options.butterworth_order)
        return replace(self, places=places)


class Trajectories:
    """The people of a stream, kept in memory: 500 bytes for each person and frame, with 17 keypoints.

    Args:
        name: Of the file, for errors.
        skeleton: Of the poses.
        keypoint_threshold: Lowest score of a keypoint that is used.
        tracked: Whether people have ids. Without, there may be one person in a frame; with, those whose track is
            tentative are left out.

    Attributes:
        file_names: Of each frame that was added, as `Frame.file_name`: an animation's, or None.
    """

    def __init__(self, name: str, skeleton: Skeleton, keypoint_threshold: float, *, tracked: bool) -> None:
        self._name, self._skeleton, self._threshold, self._tracked = name, skeleton, keypoint_threshold, tracked
        self.file_names: list[str | None] = []
        self._frames: list[tuple[int, float, int]] = []
        self._seen: dict[int, list[tuple[int, int, npt.NDArray[np.float32]]]] = {}

    def add(self, record: FrameRecord) -> None:
        """Keep a frame's people.

        Raises:
            SinkError: it is a picture without a time, the poses aren't of the skeleton, or there are several people
                without ids.
        """
        frame, poses = record.frame, record.poses
        if not frame.timed:
            raise SinkError(f"{self._name}: expected frames of a video, found pictures, which have no times")
        if poses.keypoints.shape[1] != self._skeleton.num_keypoints:
            raise SinkError(
                f"{self._name}: expected the {self._skeleton.num_keypoints} keypoints of {self._skeleton.name}, got "
                f"{poses.keypoints.shape[1]}"
            )
        if not self._tracked and len(poses) > 1:
            raise SinkError(
                f"{self._name}: frame {frame.index}: expected one person a frame, as nobody has an id, found "
                f"{len(poses)}; give --track and a folder, or --max-people 1"
            )
        row = len(self._frames)
        self._frames.append((frame.index, frame.time, frame.height))
        self.file_names.append(frame.file_name)
        ids = [0] * len(poses) if poses.track_ids is None else poses.track_ids.tolist()
        for person, track_id in enumerate(ids):
            if track_id or not self._tracked:
                keypoints = poses.keypoints[person].copy()
                keypoints[:, 0] *= float(frame.sample_aspect_ratio)
                self._seen.setdefault(track_id, []).append((row, person, keypoints))

    def all(self) -> list[Trajectory]:
        """Everybody, in the order of their ids."""
        table = np.array(self._frames, np.float64).reshape(-1, 3)
        return [self._trajectory(track_id, table) for track_id in sorted(self._seen)]

    def clear(self) -> None:
        """Forget everybody, so that a closed sink, which its stream keeps, holds no memory."""
        self.file_names.clear()
        self._frames.clear()
        self._seen.clear()

    def _trajectory(self, track_id: int, table: Floats) -> Trajectory:
        seen = self._seen[track_id]
        first, last = seen[0][0], seen[-1][0]
        rows = np.array([row for row, _, _ in seen]) - first
        keypoints = np.stack([keypoints for _, _, keypoints in seen]).astype(np.float64)
        known = np.isfinite(keypoints).all(axis=2) & (keypoints[:, :, 2] >= np.float32(self._threshold))
        places = np.full((last + 1 - first, keypoints.shape[1], 2), np.nan)
        places[rows] = np.where(known[:, :, None], keypoints[:, :, :2], np.nan)
        people = np.full(last + 1 - first, -1)
        people[rows] = [person for _, person, _ in seen]
        frames, times, heights = table[first : last + 1].T
        return Trajectory(track_id, first, frames.astype(np.int64), times, heights, people, places)


def metres_per_pixel(
    trajectories: Sequence[Trajectory], skeleton: Skeleton, height_m: float
) -> tuple[float, Trajectory]:
    """The scale at which the person who is seen in the most frames is so tall.

    Ankles, knees, hips and shoulders tell their height in pixels: the lengths of shank, thigh and trunk, each the
    median over the frames, are 0.779 of it.

    Args:
        trajectories: Everybody, one at least.
        skeleton: Names the keypoints.
        height_m: Of that person, in metres.

    Returns:
        Metres per pixel, and that person.

    Raises:
        InputError: the person's ankles, knees, hips and shoulders are never known.
    """
    person = max(trajectories, key=lambda one: (one.seen, -one.id))
    joints = {name: points_at(name, skeleton)[0] for name in body_points(skeleton)}

    def length(start: str, end: str) -> float:
        line = person.places[:, joints[end]] - person.places[:, joints[start]]
        lengths = np.linalg.norm(line, axis=1)
        return float(np.median(lengths[np.isfinite(lengths)])) if np.isfinite(lengths).any() else np.nan

    sides = [
        (length(f"{side}_knee", f"{side}_ankle"), length(f"{side}_hip", f"{side}_knee")) for side in ("left", "right")
    ]
    shank, thigh = (np.nanmean(both) if np.isfinite(both).any() else np.nan for both in zip(*sides, strict=True))
    hips, shoulders = (person.places[:, points_at(point, skeleton)].mean(axis=1) for point in ("hips", "shoulders"))
    trunks = np.linalg.norm(shoulders - hips, axis=1)
    trunk = np.median(trunks[np.isfinite(trunks)]) if np.isfinite(trunks).any() else np.nan
    height = (shank + thigh + trunk) / _SHARE_OF_HEIGHT
    if not height > 0:
        raise InputError(
            "height-m: expected ankles, knees, hips and shoulders of the person who is seen most, found some that are "
            "never seen; give --metres-per-pixel"
        )
    return height_m / float(height), person


def body_points(skeleton: Skeleton) -> list[str]:
    """The keypoints that tell a person's height; raises `InputError` where the skeleton lacks one."""
    points = [f"{side}_{joint}" for side in ("left", "right") for joint in ("ankle", "knee", "hip", "shoulder")]
    if missing := [point for point in points if not points_at(point, skeleton)]:
        raise InputError(
            f"height-m: expected a skeleton with ankles, knees, hips and shoulders, {skeleton.name} lacks "
            f"{', '.join(missing)}; give --metres-per-pixel"
        )
    return points

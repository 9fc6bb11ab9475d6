"""Who is who from frame to frame: association by boxes and poses in the order of their scores (as ByteTrack does).

Boxes are ordered by the detector's scores. A keypoint's score says whether it takes part in comparing poses: it is a
probability, or a heatmap's peak where the bundle has no score tables. What counts as sure matters little: with any
value from 0.05 to 0.7, IDF1 on four drawn scenes, at 3 to 25 frames a second, moved by 0.003 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sharpose.engines.locks import one_thread
from sharpose.errors import InputError
from sharpose.runtime.result import PoseResult
from sharpose.runtime.tracking.assignment import best_pairs
from sharpose.similarity import body_area, box_iou, box_nearness, pose_oks

_SURE_KEYPOINT = 0.3  # a keypoint's score
_MIN_KEYPOINTS = 4  # that both poses are sure of; fewer say nothing
_NEAR = 0.25  # of `box_nearness`
_DUPLICATE_IOU = 0.7  # an unmatched box that overlaps a matched one by more is the same person seen twice

# In body heights, so that near and far people behave alike: 1 m/s² is about 0.6 of a height.
_BOX_NOISE = 0.05  # of a detected box's centre
_SIZE_NOISE = 0.10
_ACCELERATION = 1.2  # heights / s²
_GROWTH = 0.15  # heights / sqrt(s): how the size wanders
_FIRST_SPEED = 1.0  # heights / s, before anything is known of it
_MIN_SIZE = 1.0  # pixels: a box without area still has noise


@dataclass(frozen=True)
class TrackerSettings:
    """How people are followed.

    Attributes:
        max_lost: Seconds that somebody may be out of sight and still keep the id; more than the time between frames.
        high_score: Boxes that score at least this are matched first, and only they start tracks.
        low_score: Boxes that score less are not matched at all.
        confirm_hits: Frames in which somebody must be seen before the id is public.
        confirm_seconds: Seconds that this must last at least.
        min_similarity: Lowest overlap (of boxes, or its mean with the poses' OKS) of a match.
        min_nearness: Lowest nearness of a match of those left over: 1 at the same place, 0 a body height away.

    Raises:
        InputError: a value is out of range.
    """

    max_lost: float = 1.5
    high_score: float = 0.5
    low_score: float = 0.1
    confirm_hits: int = 3
    confirm_seconds: float = 0.15
    min_similarity: float = 0.2
    min_nearness: float = 0.5

    def __post_init__(self) -> None:
        for valid, expected in (
            (0 < self.max_lost < np.inf, "max_lost above 0 seconds"),
            (0 <= self.low_score <= self.high_score <= 1, "0 <= low_score <= high_score <= 1"),
            (self.confirm_hits >= 1, "confirm_hits of 1 or more"),
            (0 <= self.confirm_seconds < np.inf, "confirm_seconds of 0 or more"),
            (0 < self.min_similarity <= 1, "min_similarity above 0 and at most 1"),
            (0 < self.min_nearness <= 1, "min_nearness above 0 and at most 1"),
        ):
            if not valid:
                raise InputError(f"tracker: expected {expected}, got {self}")


class Tracker:
    """Gives people ids that stay the same while they are in sight, and through gaps of up to `max_lost` seconds.

    Five rounds a frame: known people with good boxes; known people still in sight with the poor boxes (a half-hidden
    person scores low); people not yet confirmed with the good boxes left; known, then unconfirmed people with good
    boxes nearby. In each round the best pairs in total are taken. Time is the frames' own, so any frame rate works.
    One per stream; a second thread at a time is refused.

    Args:
        settings: Thresholds and times.
        sigmas: The skeleton's J OKS constants; without them only boxes are compared.
    """

    def __init__(self, settings: TrackerSettings | None = None, sigmas: Sequence[float] | None = None) -> None:
        self.settings = settings or TrackerSettings()
        self._sigmas = None if sigmas is None else np.asarray(sigmas, np.float64)
        self._tracks: list[_Track] = []
        self._time: float | None = None
        self._frame_size: tuple[int, int] | None = None
        self._last_id = 0

    @one_thread
    def update(self, poses: PoseResult, time: float, frame_size: tuple[int, int] | None = None) -> PoseResult:
        """Track the people of the next frame.

        Args:
            poses: Of the n people in it; may be none.
            time: Of the frame, in seconds; a time before the last one counts as the last one.
            frame_size: Height and width of the picture; where it changes (a stream came back at another resolution)
                tracks are carried over to the new size. Leave it out if it never changes.

        Returns:
            The same with `track_ids`: from 1 up, 0 for people who are not (yet) followed.

        Raises:
            InputError: there are not as many keypoints as sigmas, or another thread is inside.
        """
        if self._sigmas is not None and poses.keypoints.shape[1] != len(self._sigmas):
            raise InputError(f"tracker: expected {len(self._sigmas)} keypoints, got {poses.keypoints.shape[1]}")
        old_size, self._frame_size = self._frame_size, frame_size or self._frame_size
        if frame_size is not None and old_size is not None and frame_size != old_size:
            for track in self._tracks:
                track.rescale(frame_size[1] / old_size[1], frame_size[0] / old_size[0])
        seconds = 0.0 if self._time is None else max(time - self._time, 0.0)
        self._time = time = time if self._time is None else max(time, self._time)
        self._tracks = [track for track in self._tracks if time - track.seen <= self.settings.max_lost]
        for track in self._tracks:
            track.filter.predict(seconds)
            track.misses += 1

        matched = self._match(poses)
        for index, track in matched.items():
            track.see(poses.boxes.xyxy[index], poses.keypoints[index], time)
        # Those never confirmed are given up at the second miss in a row.
        self._tracks = [track for track in self._tracks if track.public_id or track.misses < 2]
        matched |= self._start(poses, matched, time)

        ids = np.zeros(len(poses), np.int64)
        for index in sorted(matched):  # in the boxes' order, so that ids follow it too
            track = matched[index]
            lasted = time - track.first_seen + 1e-6  # times are sums of fractions
            sure = track.hits >= self.settings.confirm_hits and lasted >= self.settings.confirm_seconds
            if not track.public_id and sure:
                self._last_id += 1
                track.public_id = self._last_id
            ids[index] = track.public_id
        return replace(poses, track_ids=ids)

    def _match(self, poses: PoseResult) -> dict[int, _Track]:
        """The track of each person who was followed before."""
        scores, settings = poses.boxes.scores, self.settings
        good = np.flatnonzero(scores >= settings.high_score)
        poor = np.flatnonzero((scores >= settings.low_score) & (scores < settings.high_score))
        known = [track for track in self._tracks if track.public_id]
        new = [track for track in self._tracks if not track.public_id]
        matched: dict[int, _Track] = {}

        def match_round(tracks: list[_Track], people: npt.NDArray[np.int64], *, near: bool = False) -> None:
            taken = set(map(id, matched.values()))
            tracks = [track for track in tracks if id(track) not in taken]
            people = np.array([index for index in people.tolist() if index not in matched], np.int64)
            if not tracks or not len(people):
                return
            boxes = np.stack([track.filter.xyxy for track in tracks])
            if near:
                pairs = best_pairs(box_nearness(boxes, poses.boxes.xyxy[people]), settings.min_nearness)
            else:
                pairs = best_pairs(self._similarity(tracks, boxes, poses, people), settings.min_similarity)
            matched.update((int(people[column]), tracks[row]) for row, column in pairs)

        match_round(known, good)
        match_round([track for track in known if track.misses == 1], poor)  # seen in the last frame
        match_round(new, good)
        match_round(known, good, near=True)
        match_round(new, good, near=True)
        return matched

    def _similarity(
        self, tracks: list[_Track], boxes: npt.NDArray[np.float32], poses: PoseResult, people: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """float64 [tracks, people]: IoU, or its mean with OKS where that is more: a poor pose never loses a person."""
        found = poses.boxes.xyxy[people]
        overlap = box_iou(boxes, found)
        if self._sigmas is None:
            return overlap
        # Poses are compared only where boxes are near: all pairs of a crowd would take most of the frame's time.
        rows, columns = np.nonzero(box_nearness(boxes, found) > _NEAR)
        before, now = np.stack([track.keypoints for track in tracks])[rows], poses.keypoints[people[columns]]
        sure = (before[..., 2] >= _SURE_KEYPOINT) & (now[..., 2] >= _SURE_KEYPOINT)
        sure &= sure.sum(axis=1, keepdims=True) >= _MIN_KEYPOINTS
        oks = pose_oks(before, now, (body_area(boxes)[rows] + body_area(found)[columns]) / 2, self._sigmas, sure)
        overlap[rows, columns] = np.fmax(overlap[rows, columns], 0.5 * (overlap[rows, columns] + oks))
        return overlap

    def _start(self, poses: PoseResult, matched: dict[int, _Track], time: float) -> dict[int, _Track]:
        """New tracks of the good boxes that are left and are not somebody who is seen already."""
        boxes = poses.boxes.xyxy
        taken = boxes[sorted(matched)]
        started: dict[int, _Track] = {}
        for index in np.flatnonzero(poses.boxes.scores >= self.settings.high_score).tolist():
            if index in matched or (box_iou(boxes[index : index + 1], taken) > _DUPLICATE_IOU).any():
                continue
            started[index] = _Track(boxes[index], poses.keypoints[index], time)
        self._tracks += started.values()
        return started


class _Track:
    """Somebody who is followed."""

    def __init__(self, box: npt.NDArray[np.float32], keypoints: npt.NDArray[np.float32], time: float) -> None:
        self.filter = _BoxFilter(box)
        self.public_id = self.hits = 0
        self.first_seen = time
        self.see(box, keypoints, time)

    def see(self, box: npt.NDArray[np.float32], keypoints: npt.NDArray[np.float32], time: float) -> None:
        self.filter.correct(box)
        self._keypoints: npt.NDArray[np.float32] = keypoints.copy()  # the user, who gets the result, may change it
        self._seen_centre = self.filter.centre
        self.hits, self.misses, self.seen = self.hits + 1, 0, time

    def rescale(self, x: float, y: float) -> None:
        self.filter.rescale(x, y)
        self._keypoints = self._keypoints * np.array([x, y, 1], np.float32)
        self._seen_centre = self._seen_centre[0] * x, self._seen_centre[1] * y

    @property
    def keypoints(self) -> npt.NDArray[np.float32]:
        """The last pose, carried along with the box: float32 [J, 3]."""
        (x, y), (seen_x, seen_y) = self.filter.centre, self._seen_centre
        return self._keypoints + np.array([x - seen_x, y - seen_y, 0], np.float32)


class _BoxFilter:
    """Kalman filter of a box float32 [4], pixels.

    Centre and velocity are filtered together; width and height wander without a trend, since a trend in size comes
    from occlusion more often than from walking, and leads far off while nobody looks. x and y have the same noise, so
    they share one covariance. In plain floats, which for four numbers are faster than arrays.
    """

    def __init__(self, xyxy: npt.NDArray[np.float32]) -> None:
        self._x, self._y, self._width, self._height = _centre_and_size(xyxy)
        self._speed_x = self._speed_y = 0.0
        scale = self._scale
        # Variances of place, of both together, of speed; and of size.
        self._place, self._both, self._speed = (_BOX_NOISE * scale) ** 2, 0.0, (_FIRST_SPEED * scale) ** 2
        self._size = (_SIZE_NOISE * scale) ** 2

    @property
    def _scale(self) -> float:
        return max(self._height, self._width, _MIN_SIZE)

    @property
    def xyxy(self) -> npt.NDArray[np.float32]:
        """The estimated box."""
        x, y, half_width, half_height = self._x, self._y, 0.5 * self._width, 0.5 * self._height
        return np.array([x - half_width, y - half_height, x + half_width, y + half_height], np.float32)

    @property
    def centre(self) -> tuple[float, float]:
        return self._x, self._y

    def predict(self, seconds: float) -> None:
        """Move on by `seconds` (0 or more)."""
        self._x += self._speed_x * seconds
        self._y += self._speed_y * seconds
        noise = (_ACCELERATION * self._scale) ** 2
        self._place += seconds * (2 * self._both + seconds * self._speed) + noise * seconds**4 / 4
        self._both += seconds * self._speed + noise * seconds**3 / 2
        self._speed += noise * seconds**2
        self._size += (_GROWTH * self._scale) ** 2 * seconds

    def correct(self, xyxy: npt.NDArray[np.float32]) -> None:
        """Update by a detected box."""
        x, y, width, height = _centre_and_size(xyxy)
        scale = self._scale
        noise = (_BOX_NOISE * scale) ** 2
        gain, speed_gain = self._place / (self._place + noise), self._both / (self._place + noise)
        off_x, off_y = x - self._x, y - self._y
        self._x += gain * off_x
        self._y += gain * off_y
        self._speed_x += speed_gain * off_x
        self._speed_y += speed_gain * off_y
        self._speed -= speed_gain * self._both
        self._both *= 1 - gain
        self._place *= 1 - gain
        size_gain = self._size / (self._size + (_SIZE_NOISE * scale) ** 2)
        self._width += size_gain * (width - self._width)
        self._height += size_gain * (height - self._height)
        self._size *= 1 - size_gain

    def rescale(self, x: float, y: float) -> None:
        """Follow a picture that has become `x` times as wide and `y` times as high."""
        self._x, self._width, self._speed_x = self._x * x, self._width * x, self._speed_x * x
        self._y, self._height, self._speed_y = self._y * y, self._height * y, self._speed_y * y
        area = x * y
        self._place, self._both, self._speed = self._place * area, self._both * area, self._speed * area
        self._size *= area


def _centre_and_size(xyxy: npt.NDArray[np.float32]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in xyxy)
    return 0.5 * (x1 + x2), 0.5 * (y1 + y2), x2 - x1, y2 - y1

"""Boxes, poses and timings of a picture, validated when they are made."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError

__all__ = ["KEYPOINT_SCORE_FLOOR", "Boxes", "PoseResult", "StageTimings"]

# Keypoints scoring at most this do not count towards a pose's score (released COCO evaluation).
KEYPOINT_SCORE_FLOOR = 0.2

_LARGEST_COORDINATE = 1e12  # far beyond any picture, and far from where float32 sizes overflow


def _as_float32(name: str, value: npt.ArrayLike, shape: tuple[int | None, ...]) -> npt.NDArray[np.float32]:
    """`value` as a float32 array whose axes match `shape` (None: any size)."""
    try:
        with np.errstate(over="ignore"):  # a double too large for float32 becomes infinity, which is refused
            array = np.array(value, dtype=np.float32)  # a copy: callers may use their array again
    except (TypeError, ValueError):
        raise InputError(f"{name}: expected an array of numbers, got {reprlib.repr(value)}") from None
    if array.size == 0 and array.ndim == 1:
        array = array.reshape(tuple(size or 0 for size in shape))
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        expected = "[" + ", ".join("n" if size is None else str(size) for size in shape) + "]"
        raise InputError(f"{name}: expected shape {expected}, got {list(array.shape)}")
    return array


@dataclass(frozen=True)
class Boxes:
    """People's boxes in one picture.

    Attributes:
        xyxy: float32 [n, 4], `x1, y1, x2, y2` in picture pixels, `x1 <= x2` and `y1 <= y2`; may reach outside.
        scores: float32 [n], detection scores.

    Raises:
        InputError: a shape is wrong, a number is not finite, or a box has a negative size or lies absurdly far away.
    """

    xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        xyxy = _as_float32("boxes_xyxy", self.xyxy, (None, 4))
        scores = _as_float32("box scores", self.scores, (len(xyxy),))
        if not np.isfinite(xyxy).all() or not np.isfinite(scores).all():
            raise InputError("boxes_xyxy and their scores must be finite numbers, got NaN or infinity")
        if xyxy.size and np.abs(xyxy).max() > _LARGEST_COORDINATE:
            raise InputError(
                f"boxes_xyxy: expected pixels within ±{_LARGEST_COORDINATE:.0e}, got {np.abs(xyxy).max():.3g}"
            )
        bad = np.flatnonzero((xyxy[:, 2] < xyxy[:, 0]) | (xyxy[:, 3] < xyxy[:, 1]))
        if bad.size:
            raise InputError(
                f"boxes_xyxy: expected x1 <= x2 and y1 <= y2, got {xyxy[bad[0]].tolist()} at index {bad[0]} "
                "(is this xywh?)"
            )
        object.__setattr__(self, "xyxy", xyxy)
        object.__setattr__(self, "scores", scores)

    def __len__(self) -> int:
        return len(self.xyxy)

    @classmethod
    def empty(cls) -> Boxes:
        """No people."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    @classmethod
    def from_xyxy(cls, xyxy: npt.ArrayLike, scores: npt.ArrayLike | None = None) -> Boxes:
        """Boxes [n, 4] with `scores` [n], or 1.0 each where none are given."""
        array = _as_float32("boxes_xyxy", xyxy, (None, 4))
        return cls(array, np.ones(len(array), np.float32) if scores is None else np.asarray(scores, np.float32))

    @classmethod
    def from_xywh(cls, xywh: npt.ArrayLike, scores: npt.ArrayLike | None = None) -> Boxes:
        """Boxes given as COCO gives them: left, top, width, height."""
        array = _as_float32("boxes_xywh", xywh, (None, 4)).copy()
        array[:, 2:] += array[:, :2]
        return cls.from_xyxy(array, scores)

    @property
    def xywh(self) -> npt.NDArray[np.float32]:
        """The boxes as COCO writes them: float32 [n, 4], left, top, width, height."""
        xywh: npt.NDArray[np.float32] = self.xyxy.copy()
        xywh[:, 2:] -= xywh[:, :2]
        return xywh

    def best(self, count: int) -> Boxes:
        """The `count` boxes of the highest score, in their given order; all of them if there are no more."""
        if len(self) <= count:
            return self
        keep = np.sort(np.argsort(-self.scores, kind="stable")[:count])
        return Boxes(self.xyxy[keep], self.scores[keep])


@dataclass
class StageTimings:
    """Wall-clock seconds spent in each stage for one picture."""

    crop: float = 0.0
    coarse: float = 0.0
    gate: float = 0.0
    gather: float = 0.0
    fine: float = 0.0
    map_back: float = 0.0

    @property
    def total(self) -> float:
        """The sum over the stages, in seconds."""
        return self.crop + self.coarse + self.gate + self.gather + self.fine + self.map_back


@dataclass(frozen=True)
class PoseResult:
    """The poses of all people of one picture.

    Attributes:
        boxes: The n people's boxes.
        keypoints: float32 [n, J, 3], `x, y` in picture pixels and the heatmap's peak as score.
        quality: float32 [n], predicted quality of the coarse pose (OKS-like; not clipped).
        refined: bool [n], whether the fine stage ran for them.
        timings: Where the time went.
        wanted: bool [n], whether the gate wanted them refined; more than `refined` where a deadline left no time. None
            without a deadline.
        carried: bool [n], not refined in this frame, but keeping the refinement of an earlier one, as they haven't
            moved since. None without a deadline.
        regions_xyxy: float32 [n, K, 4], the regions that the fine stage got, `x1, y1, x2, y2` in picture pixels; NaN
            for people who were not refined. None unless the estimator keeps regions.
        track_ids: int64 [n], from 1; 0 for people whose track is not yet confirmed. None without tracking.

    Raises:
        InputError: the arrays' lengths or shapes disagree.
    """

    boxes: Boxes
    keypoints: npt.NDArray[np.float32]
    quality: npt.NDArray[np.float32]
    refined: npt.NDArray[np.bool_]
    timings: StageTimings = field(default_factory=StageTimings)
    wanted: npt.NDArray[np.bool_] | None = None
    carried: npt.NDArray[np.bool_] | None = None
    regions_xyxy: npt.NDArray[np.float32] | None = None
    track_ids: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        people = len(self.boxes)
        if self.keypoints.ndim != 3 or self.keypoints.shape[0] != people or self.keypoints.shape[2] != 3:
            raise InputError(f"keypoints: expected shape [{people}, J, 3], got {list(self.keypoints.shape)}")
        for name, array in (
            ("quality", self.quality),
            ("refined", self.refined),
            ("wanted", self.wanted),
            ("carried", self.carried),
            ("track_ids", self.track_ids),
        ):
            if array is not None and array.shape != (people,):
                raise InputError(f"{name}: expected shape [{people}], got {list(array.shape)}")
        regions = self.regions_xyxy
        if regions is not None and (regions.ndim != 3 or regions.shape[0] != people or regions.shape[2] != 4):
            raise InputError(f"regions_xyxy: expected shape [{people}, K, 4], got {list(regions.shape)}")

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def deferred(self) -> npt.NDArray[np.bool_]:
        """Who was wanted, but neither refined nor carried: bool [n]."""
        if self.wanted is None:
            return np.zeros_like(self.refined)
        deferred = self.wanted & ~self.refined
        return deferred if self.carried is None else deferred & ~self.carried

    @property
    def boxes_xyxy(self) -> npt.NDArray[np.float32]:
        """float32 [n, 4], the boxes in picture pixels."""
        return self.boxes.xyxy

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """float32 [n]: the box's score times the mean of the keypoint scores above 0.2 (0 where none is)."""
        confidence = self.keypoints[:, :, 2]
        counted = confidence > KEYPOINT_SCORE_FLOOR
        total = np.where(counted, confidence, 0.0).sum(axis=1)
        mean = total / np.maximum(counted.sum(axis=1), 1)
        scores: npt.NDArray[np.float32] = (self.boxes.scores * mean).astype(np.float32)
        return scores

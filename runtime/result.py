"""What goes into the estimator and what comes out: pictures with boxes, poses with timings."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sharpose.angles import Facing, joint_angles
from sharpose.errors import InputError, counted, how_to_install, require_packages
from sharpose.skeleton import Skeleton

if TYPE_CHECKING:
    import pandas
    import supervision

Image = npt.NDArray[np.uint8]
"""A picture: uint8 [H, W, 3], BGR."""

# Keypoints scoring at most this do not count towards a pose's score (released COCO evaluation).
KEYPOINT_SCORE_FLOOR = 0.2

LARGEST_COORDINATE = 1e12  # far beyond any picture, and far from where float32 sizes overflow


def _as_float32(name: str, value: npt.ArrayLike, shape: tuple[int | None, ...]) -> npt.NDArray[np.float32]:
    """`value` as a float32 array whose axes match `shape` (None: any size)."""
    try:
        with np.errstate(over="ignore"):  # a double too large for float32 becomes infinity, which is refused
            array = np.array(value, dtype=np.float32)  # a copy: callers may use their array again
    except (TypeError, ValueError, OverflowError):  # Python's own whole numbers may be larger than any double
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
        if xyxy.size and np.abs(xyxy).max() > LARGEST_COORDINATE:
            raise InputError(
                f"boxes_xyxy: expected pixels within ±{LARGEST_COORDINATE:.0e}, got {np.abs(xyxy).max():.3g}"
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


@dataclass(frozen=True)
class Picture:
    """A picture, the people in it, and by when their poses are wanted.

    Attributes:
        image: uint8 [H, W, 3], BGR.
        boxes: Its people; may reach outside the picture.
        stream: Index of its stream; the deadline scheduler's memory of people is kept per stream.
        time: Seconds of its stream, never decreasing.
        deadline: The `time.perf_counter()` by which the poses should be there; None for no limit.
        sample_aspect_ratio: Width of a pixel to its height; people are cropped as a player shows them.

    Raises:
        InputError: the picture has another type, dtype or shape, or a number isn't one.
    """

    image: Image
    boxes: Boxes
    stream: int = 0
    time: float = 0.0
    deadline: float | None = None
    sample_aspect_ratio: float = 1.0

    def __post_init__(self) -> None:
        image = self.image
        if not isinstance(image, np.ndarray):
            raise InputError(
                f"image_bgr: expected a uint8 array [H, W, 3], got {type(image).__name__}"
                + (" (cv2.imread returns None for a file that it can't read)" if image is None else "")
            )
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InputError(f"image_bgr: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        try:
            known, late = math.isfinite(self.time), self.deadline is not None and math.isnan(self.deadline)
        except (TypeError, OverflowError):
            found = f"{reprlib.repr(self.time)} and {reprlib.repr(self.deadline)}"
            raise InputError(f"time and deadline: expected seconds, got {found}") from None
        if not known:
            raise InputError(f"time: expected seconds, got {self.time}")
        if late:
            raise InputError("deadline: expected a time.perf_counter() value, got NaN")
        if not (self.sample_aspect_ratio > 0 and math.isfinite(self.sample_aspect_ratio)):
            raise InputError(f"sample_aspect_ratio: expected a positive number, got {self.sample_aspect_ratio}")


@dataclass
class StageTimings:
    """Wall-clock seconds spent in each stage for one picture; a server does what is between `crop` and `map_back`."""

    crop: float = 0.0
    coarse: float = 0.0
    gate: float = 0.0
    gather: float = 0.0
    fine: float = 0.0
    server: float = 0.0  # sending crops to a server, waiting, and reading the answer
    map_back: float = 0.0

    @property
    def total(self) -> float:
        """The sum over the stages, in seconds."""
        return float(sum(vars(self).values()))


@dataclass(frozen=True)
class FrameOrigin:
    """Which frame a result is of.

    Attributes:
        source: The video, stream, camera or folder of pictures, as it was named, without a password.
        index: 0-based position in the source.
        time: Seconds since the source's first frame.
        file_name: Of a picture: its file's name, or its path where two files of the source have the same name.
    """

    source: str
    index: int
    time: float
    file_name: str | None = None


@dataclass(frozen=True, repr=False)
class PoseResult:
    """The poses of all people of one picture.

    Attributes:
        boxes: The n people's boxes.
        keypoints: float32 [n, J, 3], `x, y` in picture pixels and score, 0 to 1: the probability that the keypoint is
            right (a similarity to the truth, as in OKS, of 0.5 or more), or, where `confidence` is None, the heatmap's
            peak, clipped.
        quality: float32 [n], predicted quality of the coarse pose (OKS-like; not clipped).
        refined: bool [n], whether the fine stage ran for them.
        timings: Where the time went.
        wanted: bool [n], whether the gate wanted them refined; more than `refined` where a deadline left no time. None
            without a deadline.
        carried: bool [n], not refined in this frame, but keeping the refinement of an earlier one, as they haven't
            moved since. None without a deadline.
        regions_xyxy: float32 [n, K, 4], the regions that the fine stage got, `x1, y1, x2, y2` in picture pixels; NaN
            for people who were not refined. None unless the estimator keeps regions.
        confidence: float32 [n], the probability that the pose is right (OKS of 0.5 or more), given that the box is a
            person's. None where the bundle has no score tables: scores are raw then.
        track_ids: int64 [n], from 1; 0 for people whose track is not yet confirmed. None without tracking.
        skeleton: Names the J keypoints and their limbs; None in results that no estimator made.
        sample_aspect_ratio: Width of a pixel of the picture to its height, for `angles`.
        origin: The frame that it is of, for results of `PoseEstimator.stream`; else None.

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
    confidence: npt.NDArray[np.float32] | None = None
    track_ids: npt.NDArray[np.int64] | None = None
    skeleton: Skeleton | None = None
    sample_aspect_ratio: float = 1.0
    origin: FrameOrigin | None = None

    def __post_init__(self) -> None:
        people = len(self.boxes)
        if self.keypoints.ndim != 3 or self.keypoints.shape[0] != people or self.keypoints.shape[2] != 3:
            raise InputError(f"keypoints: expected shape [{people}, J, 3], got {list(self.keypoints.shape)}")
        for name, array in (
            ("quality", self.quality),
            ("refined", self.refined),
            ("wanted", self.wanted),
            ("carried", self.carried),
            ("confidence", self.confidence),
            ("track_ids", self.track_ids),
        ):
            if array is not None and array.shape != (people,):
                raise InputError(f"{name}: expected shape [{people}], got {list(array.shape)}")
        regions = self.regions_xyxy
        if regions is not None and (regions.ndim != 3 or regions.shape[0] != people or regions.shape[2] != 4):
            raise InputError(f"regions_xyxy: expected shape [{people}, K, 4], got {list(regions.shape)}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        people, refined = counted(len(self), "person"), int(self.refined.sum())
        raw = "raw scores, " if len(self) and self.confidence is None else ""
        return f"PoseResult: {people}, {refined} refined, {raw}{1000 * self.timings.total:.0f} ms"

    def plot(self, image_bgr: Image, *, keypoint_threshold: float = 0.3, regions: bool = False) -> Image:
        """A copy of the picture with the poses drawn on it, as `sharpose-run` draws them.

        Args:
            image_bgr: uint8 [H, W, 3], BGR; not changed.
            keypoint_threshold: Lowest score of a keypoint that is drawn, 0 to 1.
            regions: Whether to tint the regions that the fine stage looked at; the estimator must keep them.

        Raises:
            InputError: `image_bgr` is no such picture, `keypoint_threshold` is out of range, or the result has no
                skeleton, or no regions where they are wanted.
        """
        from sharpose.runtime.drawing.draw import draw_poses

        skeleton, threshold = self._skeleton_for("plot"), _check_keypoint_threshold(keypoint_threshold)
        image = Picture(image_bgr, self.boxes).image  # checked
        return draw_poses(image, self, skeleton, keypoint_threshold=threshold, regions=regions)

    def angles(self, *, keypoint_threshold: float = 0.3, facing: Facing = "auto") -> dict[str, npt.NDArray[np.float32]]:
        """Joint angles in the picture as a player shows it, in degrees; `sharpose.angles.ANGLES` defines them.

        Args:
            keypoint_threshold: Lowest score of a keypoint that is used, 0 to 1.
            facing: `right` or `left`, where people face in the picture; `auto`: as their feet say, right where the
                skeleton has none.

        Returns:
            float32 [n] for each angle that the skeleton gives, such as `left_knee`, 0 to 180 where 180 is straight,
            `left_knee_flexion`, 0 where it is straight and positive where it is bent, or `trunk_lean`, -180 to 180
            where 0 is upright and positive leans to the right of the picture. NaN for people whose keypoints score too
            low; flexions and segments also for those whose feet, which would say where they face, do.

        Raises:
            InputError: the result has no skeleton, or one of another number of keypoints, `keypoint_threshold` is out
                of range, or `facing` is another word.
        """
        skeleton, threshold = self._skeleton_for("angles"), _check_keypoint_threshold(keypoint_threshold)
        return joint_angles(self.keypoints, skeleton, threshold, self.sample_aspect_ratio, facing)

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """The people as `sharpose-run --json` writes them: `{"people": [{"bbox": [x, y, width, height], …}, …]}`.

        Pixels have 3 decimals, scores 5. What isn't finite stays NaN or infinity, which JSON doesn't have.
        """
        from sharpose.runtime.sinks.people import people_in

        return {"people": [person.to_dict() for person in people_in(self)]}

    def to_pandas(self) -> pandas.DataFrame:
        """The people as a `pandas.DataFrame`, a row per person, with the columns of `sharpose-run --csv` from `id` on.

        `id` is Int64, missing without tracking and while the track is tentative; `refined` is bool, the others float32:
        `x1, y1, x2, y2` in picture pixels, `score`, `quality`, and `NAME_x`, `NAME_y`, `NAME_score` for each keypoint.

        Raises:
            InputError: pandas is not installed, or the result has no skeleton.
        """
        require_packages("to_pandas", ["pandas"], "pandas", InputError)
        import pandas

        from sharpose.runtime.sinks.people import table_columns

        columns = table_columns(self._skeleton_for("to_pandas"))
        ids = np.zeros(len(self), np.int64) if self.track_ids is None else self.track_ids.copy()
        keypoints = [numbers for keypoint in self.keypoints.transpose(1, 2, 0) for numbers in keypoint]
        person = [*self.boxes_xyxy.T, self.scores, self.quality, self.refined]
        values = [pandas.arrays.IntegerArray(ids, ids == 0), *person, *keypoints]
        return pandas.DataFrame(dict(zip(columns, values, strict=True)))

    def to_supervision(self, *, keypoint_threshold: float = 0.3) -> supervision.KeyPoints:
        """The people as `supervision.KeyPoints`, for its annotators and, by `as_detections()`, its other tools.

        Its `detection_confidence` is `scores`; every `class_id` is 0, with the `class_name` person. Its `data` has
        also `xyxy` (the boxes), `quality`, `refined` and, with tracking, `tracker_id` (0 while a track is tentative).
        Without people it is empty.

        Args:
            keypoint_threshold: Lowest score of a keypoint that is `visible`, 0 to 1; annotators draw only these.

        Raises:
            InputError: `keypoint_threshold` is out of range, or supervision is not installed, or older than 0.30.
        """
        threshold = _check_keypoint_threshold(keypoint_threshold)
        require_packages("to_supervision", ["supervision"], "supervision", InputError)
        import supervision

        if "keypoint_confidence" not in supervision.KeyPoints.__dataclass_fields__:
            raise InputError(
                f"to_supervision: expected supervision 0.30 or later, found {supervision.__version__}: "
                f"{how_to_install('supervision')}"
            )
        if not len(self):
            return supervision.KeyPoints.empty()
        tracked = {} if self.track_ids is None else {"tracker_id": self.track_ids.copy()}
        scores = self.keypoints[:, :, 2].copy()
        return supervision.KeyPoints(
            xy=self.keypoints[:, :, :2].copy(),
            class_id=np.zeros(len(self), int),
            keypoint_confidence=scores,
            detection_confidence=self.scores,
            visible=scores >= threshold,
            data={
                "class_name": np.array(["person"] * len(self)),
                "xyxy": self.boxes_xyxy.copy(),
                "quality": self.quality.copy(),
                "refined": self.refined.copy(),
                **tracked,
            },
        )

    def _skeleton_for(self, method: str) -> Skeleton:
        if self.skeleton is None:
            raise InputError(f"{method}: expected a result with a skeleton, as estimators make; set `skeleton`")
        return self.skeleton

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
        """float32 [n]: the box's score times `confidence`.

        Where that is None, times the mean of the keypoint scores above 0.2 (0 where none is).
        """
        if self.confidence is not None:
            return self.boxes.scores * self.confidence
        found = self.keypoints[:, :, 2]
        counted = found > KEYPOINT_SCORE_FLOOR
        mean = np.where(counted, found, 0.0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
        scores: npt.NDArray[np.float32] = (self.boxes.scores * mean).astype(np.float32)
        return scores


def _check_keypoint_threshold(value: float) -> float:
    if isinstance(value, int | float | np.integer | np.floating) and 0 <= value <= 1:
        return float(value)
    raise InputError(f"keypoint_threshold: expected a score from 0 to 1, got {reprlib.repr(value)}")

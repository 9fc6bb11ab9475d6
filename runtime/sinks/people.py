"""A frame's poses as the plain, rounded numbers that every text format writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.errors import SinkError
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.result import PoseResult
from sharpose.skeleton import Skeleton

_PIXEL_DECIMALS = 3
_SCORE_DECIMALS = 5


@dataclass(frozen=True)
class Person:
    """One person of a frame.

    Attributes:
        xyxy: Left, top, right, bottom in picture pixels.
        bbox: Left, top, width, height in picture pixels.
        score: As `PoseResult.scores`.
        keypoints: `[x, y, score]` for each keypoint.
        quality: Predicted quality of the coarse pose.
        refined: Whether the fine stage ran.
        wanted: Whether the gate asked for it; None without a deadline.
        track_id: From 1 up; 0 while the track is tentative; None without tracking.
    """

    xyxy: list[float]
    bbox: list[float]
    score: float
    keypoints: list[list[float]]
    quality: float
    refined: bool
    wanted: bool | None = None
    track_id: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As in JSON: `id` where people are tracked (None while the track is tentative), `wanted` with a deadline."""
        return (
            ({} if self.track_id is None else {"id": self.track_id or None})
            | {name: getattr(self, name) for name in ("bbox", "score", "keypoints", "quality", "refined")}
            | ({} if self.wanted is None else {"wanted": self.wanted})
        )


def table_columns(skeleton: Skeleton) -> list[str]:
    """The columns of a table with a row per person: `id`, the person's numbers, then `NAME_x`, `NAME_y`, `NAME_score`
    for each keypoint.
    """
    keypoints = [f"{name}_{what}" for name in skeleton.keypoints for what in ("x", "y", "score")]
    return ["id", "x1", "y1", "x2", "y2", "score", "quality", "refined", *keypoints]


def people_of(record: FrameRecord) -> list[Person]:
    """The people of a record, in its order.

    Raises:
        SinkError: a number in it is not finite; no format can write that.
    """
    poses = record.poses
    arrays = (poses.keypoints, poses.quality, poses.scores)
    if not all(np.isfinite(array).all() for array in arrays):
        raise _not_finite(record)
    return people_in(poses)


def people_in(poses: PoseResult) -> list[Person]:
    """The people of one picture, in its order."""
    keypoints = np.concatenate(
        [_rounded(poses.keypoints[:, :, :2], _PIXEL_DECIMALS), _rounded(poses.keypoints[:, :, 2:], _SCORE_DECIMALS)],
        axis=2,
    )
    nothing = [None] * len(poses)
    return [
        Person(*values)
        for values in zip(
            _rounded(poses.boxes.xyxy, _PIXEL_DECIMALS).tolist(),
            _rounded(poses.boxes.xywh, _PIXEL_DECIMALS).tolist(),
            _rounded(poses.scores, _SCORE_DECIMALS).tolist(),
            keypoints.tolist(),
            _rounded(poses.quality, _SCORE_DECIMALS).tolist(),
            poses.refined.tolist(),
            nothing if poses.wanted is None else poses.wanted.tolist(),
            nothing if poses.track_ids is None else poses.track_ids.tolist(),
            strict=True,
        )
    ]


def strict_json(value: object, record: FrameRecord) -> bytes:
    """`value` as one line of standard JSON.

    Raises:
        SinkError: a number in it is not finite; JSON can't write that.
    """
    try:
        return json.dumps(value, allow_nan=False, separators=(", ", ": ")).encode()
    except ValueError:
        raise _not_finite(record) from None


def _not_finite(record: FrameRecord) -> SinkError:
    return SinkError(
        f"frame {record.frame.index}: expected finite numbers in its poses, found NaN or infinity; not written"
    )


def _rounded(array: npt.NDArray[np.float32], decimals: int) -> npt.NDArray[np.float64]:
    # In float64: a rounded float32 prints with its own error again. Adding 0 turns -0.0 into 0.0.
    return np.asarray(np.round(array.astype(np.float64), decimals) + 0.0, np.float64)

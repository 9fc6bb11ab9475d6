"""Records of people whose keypoints are given, for sinks of whole trajectories."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sharpose.runtime.frames import Frame, FrameRecord
from sharpose.runtime.result import Boxes, PoseResult

RecordOf = Callable[..., FrameRecord]


def record_of(
    index: int,
    people: dict[int, np.ndarray],
    *,
    time: float | None = None,
    tracked: bool = True,
    size: tuple[int, int] = (480, 640),
    timed: bool = True,
    aspect: float = 1,
) -> FrameRecord:
    """A frame, by default one of 25 in a second, of people [J, 3] by id; 0 is a tentative track."""
    keypoints = np.array(list(people.values()), np.float32) if people else np.zeros((0, 17, 3), np.float32)
    poses = PoseResult(
        boxes=Boxes.from_xyxy(np.tile([0, 0, 9, 9], (len(people), 1))),
        keypoints=keypoints,
        quality=np.ones(len(people), np.float32),
        refined=np.ones(len(people), bool),
        track_ids=np.array(list(people), np.int64) if tracked else None,
    )
    moment = index / 25 if time is None else time
    frame = Frame(np.zeros((*size, 3), np.uint8), index, moment, index, timed=timed, sample_aspect_ratio=aspect)  # type: ignore[arg-type]
    return FrameRecord(frame, poses, lambda image, poses: image)


def body_at(x: float, y: float = 100.0, size: float = 1.0) -> np.ndarray:
    """[17, 3], all sure: somebody upright, 389.5 from the ankles to the shoulders and so 500 tall, times `size`."""
    points = {
        0: (5, -50), 1: (6, -52), 2: (4, -52), 3: (3, -50), 4: (1, -50), 5: (0, 0), 6: (0, 0), 7: (0, 80), 8: (0, 80),
        9: (0, 150), 10: (0, 150), 11: (0, 144), 12: (0, 144), 13: (0, 266.5), 14: (0, 266.5), 15: (0, 389.5),
        16: (0, 389.5),
    }  # fmt: skip
    return np.array([(x + size * dx, y + size * dy, 1) for dx, dy in points.values()], np.float32)


@pytest.fixture(scope="session")
def record() -> RecordOf:
    return record_of


@pytest.fixture(scope="session")
def body() -> Callable[..., np.ndarray]:
    return body_at

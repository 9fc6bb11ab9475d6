"""Records with made-up poses, for sinks to write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from sharpose.runtime.frames import Frame, FrameRecord
from sharpose.runtime.result import Boxes, PoseResult

RecordMaker = Callable[..., FrameRecord]


def make_record(
    index: int = 0,
    *,
    people: int = 2,
    image: np.ndarray | None = None,
    time: float | None = None,
    image_id: int | None = None,
    keypoint: float | None = None,
    ids: Sequence[int] | None = None,
    wanted: bool | None = None,
    file_name: str | None = None,
    joints: int = 17,
) -> FrameRecord:
    rng = np.random.default_rng(index)
    keypoints = rng.uniform(0, 60, (people, joints, 3)).astype(np.float32)
    keypoints[:, :, 2] /= 60
    if keypoint is not None:
        keypoints[:] = keypoint
    poses = PoseResult(
        boxes=Boxes.from_xyxy(np.tile([10.25, 20, 50.5, 90], (people, 1)), rng.uniform(0.5, 1, people)),
        keypoints=keypoints,
        quality=rng.uniform(0.5, 1, people).astype(np.float32),
        refined=np.arange(people) % 2 == 0,
        wanted=None if wanted is None else np.full(people, wanted),
        track_ids=None if ids is None else np.array(ids, np.int64),
    )
    picture = np.zeros((48, 64, 3), np.uint8) if image is None else image
    frame = Frame(picture, index, index / 25 if time is None else time, index if image_id is None else image_id)
    if file_name is not None:
        frame = replace(frame, file_name=file_name, timed=False)
    return FrameRecord(frame, poses, lambda image, poses: image.copy())


@pytest.fixture(scope="session")
def record() -> RecordMaker:
    return make_record

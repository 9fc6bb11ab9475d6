"""A small stage with chosen people, and what must hold of every frame of a scene."""

from __future__ import annotations

import hashlib

import numpy as np

from sharpose.scene import SceneFrame
from sharpose.scene.canvas import Camera
from sharpose.scene.cast import Person, cast_person
from sharpose.scene.looks import Light
from sharpose.scene.motion import shuttle
from sharpose.scene.props import Sprite
from sharpose.scene.stage import Effects, Stage
from sharpose.skeleton import COCO17

KEYPOINT = {name: index for index, name in enumerate(COCO17.keypoints)}


def digest(frame: SceneFrame) -> str:
    parts = (frame.image, frame.boxes_xyxy, frame.keypoints, frame.ids)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def camera(height: int = 240, width: int = 320) -> Camera:
    return Camera(0.8 * height * 4 / 1.75, width / 2, height / 2, 0.9, 0.0)


def stage(people: list[Person], props: tuple[Sprite, ...] = (), height: int = 240, width: int = 320) -> Stage:
    background = np.full((height, width, 3), (200, 120, 40), np.uint8)
    light = Light(0.4, -0.5, 0.75, 0.6)
    return Stage(background, camera(height, width), light, tuple(people), props, Effects(1, 0, 0, None, (0,)))


def person(seed: int = 1, yaw: float = 0.0, x: float = 0.0, away: float = 4.0, kind: str = "walk") -> Person:
    """Someone walking on the spot's path; walkers face where they go, so their yaw is exact."""
    spot = np.array([x, -away])
    path = None
    if kind == "walk":
        ahead = np.array([np.sin(yaw), np.cos(yaw)])
        path = shuttle(spot - ahead, spot + ahead, 0.001)
    return cast_person((seed,), kind, camera(), spot, yaw, path=path, offset=1.0)


def check_frame(frame: SceneFrame, height: int, width: int, joints: int = 17) -> None:
    count = len(frame.ids)
    assert frame.image.shape == (height, width, 3)
    assert frame.image.dtype == np.uint8
    assert frame.boxes_xyxy.shape == (count, 4)
    assert frame.boxes_xyxy.dtype == np.float32
    assert frame.keypoints.shape == (count, joints, 3)
    assert frame.keypoints.dtype == np.float32
    for box, keypoints in zip(frame.boxes_xyxy, frame.keypoints, strict=True):
        x1, y1, x2, y2 = box
        assert 0 <= x1 <= x2 <= width - 1
        assert 0 <= y1 <= y2 <= height - 1
        assert set(np.unique(keypoints[:, 2])) <= {0, 1, 2}
        x, y, v = keypoints.T
        outside = (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)
        np.testing.assert_array_equal(v == 0, outside)
        inside = v > 0
        assert (x[inside] >= x1).all()
        assert (x[inside] <= x2).all()
        assert (y[inside] >= y1).all()
        assert (y[inside] <= y2).all()

from __future__ import annotations

import json

import numpy as np
import pytest

from sharpose.errors import InputError, SinkError
from sharpose.runtime.sinks.folders import OPENPOSE_COCO18, OpenPoseSink
from sharpose.skeleton import COCO17, MPII16

# OpenPose's own table of its COCO model, as its documentation gives it.
DOCUMENTED = (
    "Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist RHip RKnee RAnkle LHip LKnee LAnkle REye LEye REar LEar"
)


def test_the_order_is_the_documented_one():
    sides = {"R": "right_", "L": "left_"}
    names = [
        sides[name[0]] + name[1:].lower() if name[0] in sides and name[1].isupper() else name.lower()
        for name in DOCUMENTED.split()
    ]
    assert list(OPENPOSE_COCO18) == names
    assert set(OPENPOSE_COCO18) == {*COCO17.keypoints, "neck"}


def test_what_a_file_says(tmp_path, record):
    sink = OpenPoseSink(tmp_path / "poses", stem="walk")
    given = record(3, people=2, ids=[5, 0])
    sink.write(given)
    sink.write(record(4, people=0))
    sink.close()
    assert sorted(path.name for path in sink.path.iterdir()) == [
        "walk_000000000003_keypoints.json",
        "walk_000000000004_keypoints.json",
    ]
    found = json.loads((sink.path / "walk_000000000003_keypoints.json").read_text())
    assert found["version"] == 1.3
    assert [person["person_id"] for person in found["people"]] == [[5], [-1]]
    assert all(person[name] == [] for person in found["people"] for name in person if name.startswith(("face", "hand")))
    for person, keypoints in zip(found["people"], given.poses.keypoints, strict=True):
        points = np.reshape(person["pose_keypoints_2d"], (18, 3))
        for name, point in zip(OPENPOSE_COCO18, points, strict=True):
            if name != "neck":
                np.testing.assert_allclose(point, keypoints[COCO17.keypoints.index(name)], atol=1e-3)
        np.testing.assert_allclose(points[1, :2], (keypoints[5, :2] + keypoints[6, :2]) / 2, atol=2e-3)
        assert points[1, 2] == pytest.approx(min(keypoints[5, 2], keypoints[6, 2]), abs=1e-5)
    assert json.loads((sink.path / "walk_000000000004_keypoints.json").read_text()) == {"version": 1.3, "people": []}


def test_there_is_no_neck_without_both_shoulders(tmp_path, record):
    given = record(0, people=1)
    given.poses.keypoints[0, 5, 2] = 0
    sink = OpenPoseSink(tmp_path, stem="a")
    sink.write(given)
    (person,) = json.loads((tmp_path / "a_000000000000_keypoints.json").read_text())["people"]
    points = np.reshape(person["pose_keypoints_2d"], (18, 3))
    absent = [name for name, point in zip(OPENPOSE_COCO18, points, strict=True) if not point.any()]
    assert absent == ["neck", "left_shoulder"]


def test_other_skeletons(tmp_path):
    with pytest.raises(InputError, match="made from the keypoints of coco17, this bundle has those of mpii16"):
        OpenPoseSink(tmp_path, stem="a", skeleton=MPII16)


def test_nan(tmp_path, record):
    sink = OpenPoseSink(tmp_path / "poses", stem="a")
    sink.write(record(0))
    with pytest.raises(SinkError, match="frame 1: expected finite numbers"):
        sink.write(record(1, keypoint=float("nan")))
    assert sink.abandon() == tmp_path / "poses.partial"
    assert len(list((tmp_path / "poses.partial").iterdir())) == 1

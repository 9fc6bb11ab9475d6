"""Pose2Sim reads our files, where it is installed (`pip install pose2sim`; it brings OpenSim, so it isn't in [dev])."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharpose.runtime.biomechanics.opensim import marker_name
from sharpose.runtime.biomechanics.sinks import MotionSettings, TrcSink
from sharpose.runtime.sinks.folders import OPENPOSE_BODY25, FolderSettings, OpenPoseSink
from sharpose.skeleton import COCO17


def pose2sim(module: str) -> Any:
    return pytest.importorskip(f"Pose2Sim.{module}", exc_type=ImportError)


def test_openpose_json(tmp_path: Path, record, body) -> None:
    read_json = pose2sim("personAssociation").read_json
    unsure = body(30)
    unsure[9] = [3, 4, 0]
    sink = OpenPoseSink(tmp_path / "walk_json", FolderSettings("walk"), skeleton=COCO17)
    sink.write(record(0, {1: body(10), 2: unsure}))
    sink.write(record(1, {}))
    sink.close()
    one, two = (np.array(person).reshape(-1, 3) for person in read_json(sink.path / "walk_000000000000_keypoints.json"))
    for name, point in zip(COCO17.keypoints, body(10), strict=True):
        np.testing.assert_allclose(one[OPENPOSE_BODY25.index(name)], point, atol=1e-3)
    assert two[OPENPOSE_BODY25.index("left_wrist")].tolist() == [0, 0, 0]
    assert read_json(sink.path / "walk_000000000001_keypoints.json") == []


def test_openpose_json_has_the_order_of_body_25() -> None:
    nodes = {node.id: node.name for node in pose2sim("skeletons").BODY_25.descendants}
    assert len(nodes) >= 20
    assert nodes.items() <= {index: marker_name(name) for index, name in enumerate(OPENPOSE_BODY25)}.items()


def test_markers(tmp_path: Path, record, body) -> None:
    read_trc = pose2sim("common").read_trc
    sink = TrcSink(tmp_path / "a.trc", MotionSettings(COCO17, frame_rate=25.0))
    for index, people in enumerate(({0: body(10)}, {}, {0: body(12)})):
        sink.write(record(index, people, tracked=False))
    sink.close()
    places, frames, times, names, _ = read_trc(str(sink.path))
    assert (frames.tolist(), times.tolist()) == ([1, 2, 3], [0.0, 0.04, 0.08])
    assert names[:2] == ["Nose", "LEye"]
    assert names[-2:] == ["Neck", "Hip"]
    np.testing.assert_allclose(places["Nose"], np.array([[15, 430, 0], [np.nan] * 3, [17, 430, 0]]))
    wanted = {node.name for node in pose2sim("skeletons").COCO_17.descendants}
    assert wanted <= set(names)

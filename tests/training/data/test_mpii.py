"""MPII's JSON: one-based coordinates, the moved centre, missing joints, head boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sharpose.errors import SourceError
from sharpose.training.data.augment import AugmentSpec, make_crop
from sharpose.training.data.mpii import MpiiDataset, head_segment


def entry(**changes: Any) -> dict[str, Any]:
    joints = [[10.0 + 3 * joint, 20.0 + 2 * joint] for joint in range(16)]
    joints[2] = [-1.0, -1.0]
    values = {
        "image": "a.png",
        "center": [60.0, 50.0],
        "scale": 0.4,
        "joints": joints,
        "joints_vis": [1, 1, 0] + [1] * 13,
    }
    return {**values, **changes}


def dataset(folder: Path, entries: list[dict[str, Any]]) -> MpiiDataset:
    (folder / "valid.json").write_text(json.dumps(entries))
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), np.full((100, 130, 3), 90, np.uint8))
    return MpiiDataset(folder / "valid.json", folder)


def test_an_entry_becomes_a_sample(tmp_path: Path) -> None:
    people = dataset(tmp_path, [entry(), entry(image="b.png"), entry(head_box=[11, 21, 41, 61])])
    sample = people.load(0)
    # The centre moves down by 15 pixels a unit of scale, and everything is zero-based: (59, 55), half a side is 40.
    assert sample.box_xyxy == pytest.approx([19, 15, 99, 95])
    assert sample.keypoints[0].tolist() == [9, 19, 2]
    assert sample.keypoints[2].tolist() == [0, 0, 0]
    assert sample.weights.tolist() == [1, 1, 0] + [1] * 13
    assert people.people[0].head_size is None
    assert [person.image_id for person in people.people] == [0, 1, 0]
    assert people.people[2].head_size == pytest.approx(0.6 * 50)
    crop = make_crop(sample, AugmentSpec.none(), (256, 256), people.skeleton, np.random.default_rng(0))
    assert crop.size == pytest.approx([100, 100])  # 200 pixels a unit of scale, times 1.25


def test_the_neck_to_the_top_of_the_head() -> None:
    keypoints = np.zeros((16, 3), np.float32)
    keypoints[8], keypoints[9] = (3, 4, 2), (6, 8, 2)
    assert head_segment(keypoints) == pytest.approx(5)
    keypoints[9, 2] = 0
    assert head_segment(keypoints) is None


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "expected MPII's list"),
        ([], "expected MPII's list"),
        ([{"center": [1, 2]}], r"valid\.json: entry 0: image: missing key"),
        ([entry(), 5], r"valid\.json: entry 1: .*got 5"),
        ([entry(), entry(joints=[[1, 2]])], "entry 1: joints: expected at least 16 entries, got 1"),
        ([entry(joints=[[1, 2]] * 15 + [[1, None]])], "entry 0: joints.15.1: expected a number, got None"),
        ([entry(joints=[[1, 2]] * 15 + [[1, float("nan")]])], "entry 0: joints.15.1: expected a finite number"),
        ([entry(scale=None)], "entry 0: scale: expected a number, got None"),
        ([entry(center=[1])], "entry 0: center: expected at least 2 entries, got 1"),
        ([entry(head_box=[1, 2, 3])], "entry 0: head_box: expected at least 4 entries, got 3"),
        ([entry(joints_vis=[0] * 16), entry(scale=-1)], r"0 people used, 2 left out"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, entries: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        dataset(tmp_path, entries)

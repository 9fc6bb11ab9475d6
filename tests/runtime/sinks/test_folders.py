"""Folders with one file per frame: OpenPose JSON and annotated pictures."""

from __future__ import annotations

import json
import os
import shutil

import cv2
import numpy as np
import pytest

from sharpose.errors import InputError, SinkError
from sharpose.runtime.sinks import folders
from sharpose.runtime.sinks.folders import OPENPOSE_BODY25, FolderSettings, FolderSink, OpenPoseSink, PicturesSink
from sharpose.skeleton import COCO17, HALPE26, MPII16, get_skeleton, plain_name


def test_files_are_numbered_and_nothing_is_made_before(tmp_path):
    results = FolderSink(tmp_path / "deep" / "out", FolderSettings("a"), ending=".txt")
    assert not (tmp_path / "deep").exists()
    results.write_file(0, b"zero")
    results.write_file(12, b"twelve")
    assert {path.name: path.read_bytes() for path in results.path.iterdir()} == {
        "a_000000000000.txt": b"zero",
        "a_000000000012.txt": b"twelve",
    }


def test_two_runs_are_not_mixed(tmp_path):
    (tmp_path / "a_000000000099.txt").write_text("older")
    with pytest.raises(InputError, match=r"already holds files of this kind \(a_000000000099\.txt\)"):
        FolderSink(tmp_path, FolderSettings("a"), ending=".txt")
    FolderSink(tmp_path, FolderSettings("b"), ending=".txt").write_file(0, b"")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder, found a file"):
        FolderSink(tmp_path / "file", FolderSettings("a"), ending=".txt")


def test_files_named_after_pictures(tmp_path):
    results = FolderSink(tmp_path, FolderSettings("a", ["one", "two 2"]), ending=".txt")
    results.write_file(1, b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["two 2.txt"]
    with pytest.raises(InputError, match=r"already holds files of this kind \(two 2\.txt\)"):
        FolderSink(tmp_path, FolderSettings("a", ["two 2"]), ending=".txt")
    FolderSink(tmp_path, FolderSettings("a", ["three"]), ending=".txt")


def test_overwriting_removes_files_of_an_earlier_run_and_no_others(tmp_path):
    ours = ["a_000000000000.txt", "a_000000000007.txt", "one.txt"]
    others = ["two.txt", "a_7.txt", "b_000000000000.txt", "a_000000000000.txt.bak", "one.png"]
    for name in ours + others:
        (tmp_path / name).write_text("older")
    (tmp_path / "a_000000000009.txt").mkdir()
    notes: list[str] = []
    settings = FolderSettings("a", ["one"], overwrite=True, note=notes.append)
    results = FolderSink(tmp_path, settings, ending=".txt")
    assert len(list(tmp_path.iterdir())) == len(ours + others) + 1  # nothing happens before the first file
    results.write_file(0, b"new")
    assert notes == [f"{tmp_path}: replaced 3 files of an earlier run"]
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert left == {"one.txt": b"new"} | dict.fromkeys(others, b"older")
    assert (tmp_path / "a_000000000009.txt").is_dir()


def test_no_half_file_has_a_name(tmp_path, monkeypatch):
    results = FolderSink(tmp_path / "out", FolderSettings("a"), ending=".txt")
    results.write_file(0, b"whole")

    def nearly_full(descriptor: int, data: bytes) -> int:
        if len(data) < 4:
            raise OSError(28, "No space left on device")
        return write(descriptor, bytes(data[:3]))

    write = os.write
    monkeypatch.setattr(folders.os, "write", nearly_full)
    with pytest.raises(SinkError, match=r"a_000000000001\.txt: can't be written: No space left on device"):
        results.write_file(1, b"too long")
    assert [path.name for path in results.path.iterdir()] == ["a_000000000000.txt"]


def test_a_first_file_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.os, "write", full)
    results = FolderSink(tmp_path / "out", FolderSettings("a"), ending=".txt")
    with pytest.raises(SinkError):
        results.write_file(0, b"x")
    assert results.abandon() is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_vanishes_is_not_made_again(tmp_path):
    results = FolderSink(tmp_path / "out", FolderSettings("a"), ending=".txt")
    results.write_file(0, b"x")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(SinkError, match="out: was removed while it was being written"):
        results.write_file(1, b"x")
    assert results.abandon() is None
    assert list(tmp_path.iterdir()) == []


def test_folders_of_failed_runs_are_marked(tmp_path):
    for expected in ("out.partial", "out.partial2", "out.partial3"):
        results = FolderSink(tmp_path / "out", FolderSettings("a"), ending=".txt")
        results.write_file(0, b"x")
        assert results.abandon() == tmp_path / expected
        assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    results = FolderSink(tmp_path / "mine", FolderSettings("a"), ending=".txt")
    results.write_file(0, b"x")
    assert results.abandon() == tmp_path / "mine"  # it was somebody's before


# OpenPose's own table of BODY_25, as its documentation gives it.
DOCUMENTED = (
    "Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist MidHip RHip RKnee RAnkle LHip LKnee LAnkle REye LEye "
    "REar LEar LBigToe LSmallToe LHeel RBigToe RSmallToe RHeel"
)
FEET = list(OPENPOSE_BODY25[19:])


def points_of(folder, frame=0, part="pose_keypoints_2d"):
    """`x, y, score` of the only person's points in a file, by name."""
    (person,) = json.loads((folder / f"a_{frame:012d}_keypoints.json").read_text())["people"]
    return dict(zip(OPENPOSE_BODY25, np.reshape(person[part], (-1, 3)), strict=True))


def test_the_order_is_the_documented_one():
    assert [plain_name(name.replace("Mid", "")) for name in DOCUMENTED.split(" ")] == list(OPENPOSE_BODY25)


def test_what_a_file_says(tmp_path, record):
    sink = OpenPoseSink(tmp_path / "poses", FolderSettings("walk"), skeleton=COCO17)
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
        points = dict(zip(OPENPOSE_BODY25, np.reshape(person["pose_keypoints_2d"], (25, 3)), strict=True))
        for name, point in zip(COCO17.keypoints, keypoints, strict=True):
            np.testing.assert_allclose(points[name], point, atol=1e-3)
        for name, (first, second) in {"neck": (5, 6), "hip": (11, 12)}.items():
            np.testing.assert_allclose(points[name][:2], keypoints[[first, second], :2].mean(axis=0), atol=2e-3)
            assert points[name][2] == pytest.approx(keypoints[[first, second], 2].min(), abs=1e-5)
        assert not np.any([points[name] for name in FEET])
    assert json.loads((sink.path / "walk_000000000004_keypoints.json").read_text()) == {"version": 1.3, "people": []}


def test_there_is_no_neck_without_both_shoulders(tmp_path, record):
    given = record(0, people=1)
    given.poses.keypoints[0, 5, 2] = 0
    OpenPoseSink(tmp_path, FolderSettings("a"), skeleton=COCO17).write(given)
    assert [name for name, point in points_of(tmp_path).items() if not point.any()] == ["neck", "left_shoulder", *FEET]


def test_halpe_fills_the_feet_and_has_a_neck_of_its_own(tmp_path, record):
    said = []
    given = record(0, people=1, joints=26)
    OpenPoseSink(tmp_path, FolderSettings("a", note=said.append), skeleton=HALPE26).write(given)
    assert said == []
    for name, point in points_of(tmp_path).items():
        np.testing.assert_allclose(point, given.poses.keypoints[0, HALPE26.keypoints.index(name)], atol=1e-3)


def test_what_a_skeleton_lacks_is_said(tmp_path, record):
    said = []
    settings = FolderSettings("a", note=said.append)
    OpenPoseSink(tmp_path, settings, skeleton=COCO17)
    assert said.pop() == f"{tmp_path}: skeleton coco17 has no {', '.join(FEET)}: zeros in OpenPose's JSON"
    OpenPoseSink(tmp_path, settings, skeleton=MPII16).write(record(0, people=1, joints=16))
    assert "mpii16 has no nose, right_eye, left_eye, right_ear, left_ear, left_big_toe" in said.pop()
    assert not points_of(tmp_path)["nose"].any()
    with pytest.raises(InputError, match=r"ap10k17 has no right_wrist, left_wrist, right_ankle, left_ankle;"):
        OpenPoseSink(tmp_path, settings, skeleton=get_skeleton("ap10k17"))


def test_faces_and_hands_of_the_whole_body(tmp_path, record):
    whole, said = get_skeleton("coco_wholebody133"), []
    given = record(0, people=1, joints=133)
    OpenPoseSink(tmp_path, FolderSettings("a", note=said.append), skeleton=whole).write(given)
    assert said == [f"{tmp_path}: skeleton coco_wholebody133 has no right_pupil, left_pupil: zeros in OpenPose's JSON"]
    (person,) = json.loads((tmp_path / "a_000000000000_keypoints.json").read_text())["people"]
    for part, rows in (("face", slice(23, 91)), ("hand_left", slice(91, 112)), ("hand_right", slice(112, 133))):
        points = np.reshape(person[f"{part}_keypoints_2d"], (-1, 3))
        assert len(points) == (70 if part == "face" else 21)
        np.testing.assert_allclose(points[: len(whole.keypoints[rows])], given.poses.keypoints[0, rows], atol=1e-3)
        assert not points[68:].any()


@pytest.mark.parametrize(("kind", "tolerance"), [("jpg", 8), ("png", 0)])
def test_the_annotated_picture_is_written(tmp_path, record, kind, tolerance):
    rows, columns = np.mgrid[:48, :64]
    image = np.stack([rows * 5, columns * 3, rows + columns], axis=2).astype(np.uint8)
    sink = PicturesSink(tmp_path / "out", FolderSettings("walk"), kind=kind)
    for index in range(2):
        given = record(index, image=image)
        object.__setattr__(given, "draw", lambda image, poses: 255 - image)
        sink.write(given)
    sink.close()
    assert sorted(path.name for path in sink.path.iterdir()) == [
        f"walk_000000000000.{kind}",
        f"walk_000000000001.{kind}",
    ]
    found = cv2.imread(str(sink.path / f"walk_000000000001.{kind}"))
    assert np.abs(found.astype(int) - (255 - image)).max() <= tolerance


def test_other_kinds(tmp_path):
    with pytest.raises(InputError, match="expected pictures of the kind jpg or png, got 'gif'"):
        PicturesSink(tmp_path, FolderSettings("a"), kind="gif")


def test_a_picture_too_large_for_its_kind(tmp_path, record):
    sink = PicturesSink(tmp_path / "out", FolderSettings("a"))
    with pytest.raises(SinkError, match="a picture of 70000x1 can't be made a jpg"):
        sink.write(record(image=np.zeros((1, 70000, 3), np.uint8)))
    assert sink.abandon() is None

"""Results as pandas and supervision have them, read back with their own readers; `make test` installs both."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sharpose.errors import InputError
from sharpose.runtime.frames import Frame, FrameRecord
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.runtime.sinks.tables import CsvSink
from sharpose.skeleton import COCO17, MPII16, Skeleton


def made(people: int = 3, skeleton: Skeleton = COCO17, *, tracked: bool = True) -> PoseResult:
    chance = np.random.default_rng(0)
    keypoints = chance.uniform(1, 40, (people, skeleton.num_keypoints, 3)).astype(np.float32)
    keypoints[:, :, 2] /= 40
    return PoseResult(
        Boxes.from_xyxy(np.tile([10.25, 20, 50.5, 90], (people, 1)), np.linspace(0.5, 1, people)),
        keypoints,
        chance.uniform(0.5, 1, people).astype(np.float32),
        np.arange(people) % 2 == 0,
        track_ids=np.array([7, 0, 2][:people], np.int64) if tracked else None,
        skeleton=skeleton,
    )


@pytest.mark.parametrize("skeleton", [COCO17, MPII16], ids=lambda skeleton: skeleton.name)
def test_pandas_has_a_row_a_person(skeleton: Skeleton) -> None:
    pandas = pytest.importorskip("pandas")
    given = made(skeleton=skeleton)
    table = given.to_pandas()
    assert table.shape == (3, 8 + 3 * skeleton.num_keypoints)
    assert table["id"].tolist() == [7, pandas.NA, 2]
    assert table["refined"].tolist() == [True, False, True]
    dtypes = table.dtypes.astype(str).to_dict()
    assert (dtypes.pop("id"), dtypes.pop("refined"), set(dtypes.values())) == ("Int64", "bool", {"float32"})
    np.testing.assert_array_equal(table[["x1", "y1", "x2", "y2"]], given.boxes_xyxy)
    np.testing.assert_array_equal(table[["score", "quality"]], np.stack([given.scores, given.quality], axis=1))
    for index, name in enumerate(skeleton.keypoints):
        np.testing.assert_array_equal(table[[f"{name}_x", f"{name}_y", f"{name}_score"]], given.keypoints[:, index])


def test_pandas_reads_the_csv_as_the_same_table(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frames = [made(), made(tracked=False), made(people=0)]
    sink = CsvSink(tmp_path / "out.csv", skeleton=COCO17)
    for index, result in enumerate(frames):
        frame = Frame(np.zeros((4, 4, 3), np.uint8), index, index / 25, index)
        sink.write(FrameRecord(frame, result, lambda image, poses: image))
    sink.close()
    read = pandas.read_csv(tmp_path / "out.csv", dtype={"id": "Int64"}).drop(columns=["frame", "time"])
    expected = pandas.concat([result.to_pandas() for result in frames[:2]], ignore_index=True)
    pandas.testing.assert_frame_equal(read, expected, check_dtype=False, atol=1e-3, rtol=0)
    assert list(frames[2].to_pandas().columns) == list(expected.columns)
    assert frames[2].to_pandas().shape[0] == 0


def test_a_table_shares_no_memory_with_the_result() -> None:
    pytest.importorskip("pandas")
    given = made()
    table = given.to_pandas()
    arrays = [given.boxes_xyxy, given.keypoints, np.asarray(given.track_ids)]
    before = [array.copy() for array in arrays]
    table.loc[:, "id"] = 99
    table.loc[:, table.columns[1:5]] = np.float32(-1)
    table.loc[:, table.columns[8:]] = np.float32(-1)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_supervision_has_what_its_own_reader_makes_of_the_same_people() -> None:
    supervision = pytest.importorskip("supervision")
    given = made()
    same = SimpleNamespace(
        keypoints=SimpleNamespace(xy=given.keypoints[:, :, :2], conf=given.keypoints[:, :, 2]),
        boxes=SimpleNamespace(cls=np.zeros(3), conf=given.scores),
        names={0: "person"},
    )
    expected = supervision.KeyPoints.from_ultralytics(same)
    found: Any = given.to_supervision()
    for name in ("xy", "class_id", "keypoint_confidence", "detection_confidence"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert found.data["class_name"].tolist() == expected.data["class_name"].tolist() == ["person"] * 3
    np.testing.assert_array_equal(found.data["xyxy"], given.boxes_xyxy)
    np.testing.assert_array_equal(found.data["quality"], given.quality)
    assert found.data["refined"].tolist() == [True, False, True]
    assert found.data["tracker_id"].tolist() == [7, 0, 2]
    assert "tracker_id" not in made(tracked=False).to_supervision().data
    assert found.select(found.data["tracker_id"] > 0).data["tracker_id"].tolist() == [7, 2]
    assert made(people=0).to_supervision().is_empty()


def test_supervision_annotates_the_keypoints_that_score_enough() -> None:
    supervision = pytest.importorskip("supervision")
    given = made(people=1)
    keypoints = np.zeros_like(given.keypoints)
    keypoints[0, 5], keypoints[0, 7], keypoints[0, 9] = (10, 10, 0.9), (30, 10, 0.5), (30, 40, 0.4)
    people: Any = replace(given, keypoints=keypoints).to_supervision(keypoint_threshold=0.5)
    assert np.flatnonzero(people.visible).tolist() == [5, 7]
    limbs = [(first + 1, second + 1) for first, second in COCO17.limbs]
    edges = supervision.EdgeAnnotator(color=supervision.Color.WHITE, thickness=1, edges=limbs)
    canvas = edges.annotate(np.zeros((50, 50, 3), np.uint8), people)
    rows, columns = np.nonzero(canvas[:, :, 0])
    assert (set(rows.tolist()), columns.min(), columns.max()) == ({10}, 10, 30)


def test_supervision_detections_are_around_the_keypoints() -> None:
    pytest.importorskip("supervision")
    given = made()
    detections: Any = given.to_supervision(keypoint_threshold=0).as_detections()
    corners = [given.keypoints[:, :, :2].min(axis=1), given.keypoints[:, :, :2].max(axis=1)]
    np.testing.assert_allclose(detections.xyxy, np.concatenate(corners, axis=1))
    np.testing.assert_array_equal(detections.confidence, given.scores)
    assert detections.data["tracker_id"].tolist() == [7, 0, 2]


@pytest.mark.parametrize(("package", "call"), [("pandas", "to_pandas"), ("supervision", "to_supervision")])
def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, package: str, call: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # importing it raises ImportError
    root = Path(__file__).resolve().parents[2]
    with pytest.raises(InputError) as refused:
        getattr(made(), call)()
    assert str(refused.value) == f'{call} needs {package}: pip install "{root}[{package}]"'


def test_a_supervision_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    keypoints = SimpleNamespace(__dataclass_fields__={"xy": None, "confidence": None})
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(KeyPoints=keypoints, __version__="0.27.0"))
    with pytest.raises(InputError, match=r"expected supervision 0\.30 or later, found 0\.27\.0: pip install "):
        made().to_supervision()


def test_a_table_needs_the_names_of_keypoints() -> None:
    pytest.importorskip("pandas")
    with pytest.raises(InputError, match="to_pandas: expected a result with a skeleton"):
        replace(made(), skeleton=None).to_pandas()

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sharpose.errors import SinkError
from sharpose.runtime.sinks.coco import CocoSink


def entries(path: Path) -> list[dict[str, object]]:
    found = json.loads(path.read_text())
    assert isinstance(found, list)
    return found


def test_the_file_is_whole_after_every_record(tmp_path, record):
    sink = CocoSink(tmp_path / "deep" / "out.json")
    assert not (tmp_path / "deep").exists()
    for index, people in enumerate([2, 0, 3]):
        sink.write(record(index, people=people))
        assert len(entries(sink.path)) == [2, 2, 5][index]
    sink.close()
    sink.close()
    assert [entry["image_id"] for entry in entries(sink.path)] == [0, 0, 2, 2, 2]


def test_what_an_entry_says(tmp_path, record):
    sink = CocoSink(str(tmp_path / "out.json"))
    given = record(0, people=1, image_id=785)
    sink.write(given)
    sink.close()
    (entry,) = entries(sink.path)
    assert list(entry) == ["image_id", "category_id", "keypoints", "score", "bbox"]
    assert (entry["image_id"], entry["category_id"], entry["bbox"]) == (785, 1, [10.25, 20, 40.25, 70])
    np.testing.assert_allclose(entry["keypoints"], given.poses.keypoints.ravel(), atol=1e-3)
    assert entry["score"] == pytest.approx(float(given.poses.scores[0]), abs=1e-5)


def test_people_with_ids(tmp_path, record):
    sink = CocoSink(tmp_path / "out.json")
    sink.write(record(0, people=2, ids=[5, 0]))
    sink.close()
    assert [entry.get("track_id") for entry in entries(sink.path)] == [5, None]


def test_pycocotools_loads_it(tmp_path, record):
    from pycocotools.coco import COCO

    sink = CocoSink(tmp_path / "out.json")
    for index in range(3):
        sink.write(record(index, image_id=100 + index))
    sink.close()
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 100 + index, "width": 64, "height": 48} for index in range(3)],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(sink.path))
    assert len(loaded.getAnnIds(imgIds=[101])) == 2
    annotation = loaded.loadAnns(loaded.getAnnIds(imgIds=[101]))[0]
    assert len(annotation["keypoints"]) == 51
    assert annotation["score"] > 0


@pytest.mark.parametrize("records", [0, 2])
def test_nobody_at_all_is_an_empty_array(tmp_path, record, records):
    sink = CocoSink(tmp_path / "out.json")
    for index in range(records):
        sink.write(record(index, people=0))
    sink.close()
    sink.close()
    assert entries(sink.path) == []


def test_a_failed_run_without_people_leaves_nothing(tmp_path, record):
    sink = CocoSink(tmp_path / "out.json")
    sink.write(record(people=0))
    assert sink.abandon() is None
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_abandoned_files_are_marked_and_whole(tmp_path, record):
    sink = CocoSink(tmp_path / "out.json")
    sink.write(record())
    assert sink.abandon() == tmp_path / "out.partial.json"
    sink.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.partial.json"]
    assert len(entries(tmp_path / "out.partial.json")) == 2


def test_nan_is_an_error_and_the_rest_stays_whole(tmp_path, record):
    sink = CocoSink(tmp_path / "out.json")
    sink.write(record(0))
    with pytest.raises(SinkError, match="frame 1: expected finite numbers"):
        sink.write(record(1, keypoint=float("nan")))
    assert len(entries(sink.path)) == 2


def test_a_full_disk(tmp_path, record):
    (tmp_path / "out.json").symlink_to("/dev/full")
    with pytest.raises(SinkError, match=r"out\.json: can't be written: No space left on device"):
        CocoSink(tmp_path / "out.json").write(record())

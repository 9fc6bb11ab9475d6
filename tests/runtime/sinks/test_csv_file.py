from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from sharpose.errors import SinkError
from sharpose.runtime.sinks.tables import CsvSink
from sharpose.skeleton import COCO17, MPII16


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_what_a_row_says(tmp_path, record):
    sink = CsvSink(tmp_path / "out.csv", skeleton=COCO17)
    given = record(7, time=1 / 3, people=2, ids=[12, 0])
    sink.write(given)
    found = rows(sink.path)
    assert list(found[0])[:10] == ["frame", "time", "id", "x1", "y1", "x2", "y2", "score", "quality", "refined"]
    assert list(found[0])[10:14] == ["nose_x", "nose_y", "nose_score", "left_eye_x"]
    assert len(found[0]) == 10 + 3 * 17
    assert [row["frame"] for row in found] == ["7", "7"]
    assert [row["time"] for row in found] == ["0.333333"] * 2
    assert [row["id"] for row in found] == ["12", ""]
    assert [row["refined"] for row in found] == ["true", "false"]
    boxes = [[float(row[name]) for name in ("x1", "y1", "x2", "y2")] for row in found]
    np.testing.assert_allclose(boxes, given.poses.boxes_xyxy, atol=1e-3)
    keypoints = [[float(number) for number in list(row.values())[10:]] for row in found]
    np.testing.assert_allclose(keypoints, given.poses.keypoints.reshape(2, -1), atol=1e-3)
    np.testing.assert_allclose([float(row["quality"]) for row in found], given.poses.quality, atol=1e-5)
    np.testing.assert_allclose([float(row["score"]) for row in found], given.poses.scores, atol=1e-5)


def test_lines_end_as_the_standard_has_it_and_are_there_at_once(tmp_path, record):
    sink = CsvSink(tmp_path / "out.csv", skeleton=COCO17)
    sink.write(record(0, people=0))
    assert sink.path.read_bytes().count(b"\r\n") == 1
    sink.write(record(1, people=3))
    assert sink.path.read_bytes().count(b"\r\n") == sink.path.read_bytes().count(b"\n") == 4
    assert [row["id"] for row in rows(sink.path)] == ["", "", ""]
    sink.close()


def test_other_keypoints_than_the_header_names(tmp_path, record):
    sink = CsvSink(tmp_path / "out.csv", skeleton=MPII16)
    with pytest.raises(SinkError, match="expected the 16 keypoints of mpii16, got 17"):
        sink.write(record())
    assert sink.abandon() is None
    assert list(tmp_path.iterdir()) == []


def test_no_word_for_nan(tmp_path, record):
    sink = CsvSink(tmp_path / "out.csv", skeleton=COCO17)
    sink.write(record(0))
    with pytest.raises(SinkError, match="frame 1: expected finite numbers"):
        sink.write(record(1, keypoint=float("nan")))
    assert sink.abandon() == tmp_path / "out.partial.csv"
    assert len(rows(tmp_path / "out.partial.csv")) == 2

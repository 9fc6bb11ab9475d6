"""JSON Lines, CSV, joint angles and MOT text; the latter also read by TrackEval, the challenge's own evaluator.

The Makefile installs it without what it asks for: opencv-python, which overwrites opencv-python-headless.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sharpose.angles import angles_of
from sharpose.errors import InputError, SinkError
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.runtime.sinks.tables import AnglesSink, CsvSink, JsonLinesSink, MotSink
from sharpose.skeleton import COCO17, MPII16


def lines(path: Path) -> list[dict[str, object]]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_a_json_line_is_there_as_soon_as_it_is_written(tmp_path, record):
    sink = JsonLinesSink(str(tmp_path / "deep" / "out.jsonl"))
    assert not (tmp_path / "deep").exists()
    for index in range(3):
        sink.write(record(index))
        assert [line["frame"] for line in lines(sink.path)] == list(range(index + 1))
    sink.close()
    sink.close()


def test_what_a_json_line_says(tmp_path, record):
    sink = JsonLinesSink(tmp_path / "out.jsonl")
    given = record(7, time=0.28, people=2)
    sink.write(given)
    (line,) = lines(sink.path)
    assert list(line) == ["frame", "time", "width", "height", "people"]
    assert (line["frame"], line["time"], line["width"], line["height"]) == (7, 0.28, 64, 48)
    people = line["people"]
    assert isinstance(people, list)
    assert [list(person) for person in people] == [["bbox", "score", "keypoints", "quality", "refined"]] * 2
    assert people[0]["bbox"] == [10.25, 20, 40.25, 70]
    assert [person["refined"] for person in people] == [True, False]
    for name, expected, tolerance in [
        ("score", given.poses.scores, 1e-5),
        ("quality", given.poses.quality, 1e-5),
        ("keypoints", given.poses.keypoints, 1e-3),
    ]:
        np.testing.assert_allclose([person[name] for person in people], expected, atol=tolerance)
    scores = np.array([person["keypoints"] for person in people])[:, :, 2]
    np.testing.assert_allclose(scores, given.poses.keypoints[:, :, 2], atol=1e-5)


def test_people_with_ids_and_with_a_deadline(tmp_path, record):
    sink = JsonLinesSink(tmp_path / "out.jsonl")
    sink.write(record(0, people=2, ids=[5, 0], wanted=True))
    (line,) = lines(sink.path)
    people = line["people"]
    assert isinstance(people, list)
    assert [list(person) for person in people] == [
        ["id", "bbox", "score", "keypoints", "quality", "refined", "wanted"]
    ] * 2
    assert [person["id"] for person in people] == [5, None]  # 0: a tentative track
    assert [person["wanted"] for person in people] == [True, True]


def test_numbers_are_rounded_for_reading(tmp_path, record):
    sink = JsonLinesSink(tmp_path / "out.jsonl")
    sink.write(record(1, people=1, time=1 / 3))
    (line,) = sink.path.read_text().splitlines()
    assert '"time": 0.333333,' in line
    digits = [len(word.split(".")[1].rstrip("]},")) for word in line.split() if "." in word]
    assert max(digits) <= 6
    assert "-0.0" not in line


def test_a_json_line_without_people(tmp_path, record):
    sink = JsonLinesSink(tmp_path / "out.jsonl")
    sink.write(record(people=0))
    assert lines(sink.path)[0]["people"] == []


def test_without_records_there_is_no_file(tmp_path):
    sink = JsonLinesSink(tmp_path / "out.jsonl")
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_abandoned_files_are_marked(tmp_path, record):
    sink = JsonLinesSink(tmp_path / "out.jsonl")
    sink.write(record())
    assert sink.abandon() == tmp_path / "out.partial.jsonl"
    assert not sink.path.exists()
    assert len(lines(tmp_path / "out.partial.jsonl")) == 1


def test_an_older_result_is_not_touched_before_the_first_record(tmp_path):
    (tmp_path / "out.jsonl").write_text("older\n")
    assert JsonLinesSink(tmp_path / "out.jsonl").abandon() is None
    assert (tmp_path / "out.jsonl").read_text() == "older\n"


def test_a_full_disk(tmp_path, record):
    (tmp_path / "out.jsonl").symlink_to("/dev/full")
    sink = JsonLinesSink(tmp_path / "out.jsonl")
    with pytest.raises(SinkError, match=r"out\.jsonl: can't be written: No space left on device"):
        sink.write(record())
    sink.close()


def test_into_a_pipe(tmp_path, record):
    os.mkfifo(tmp_path / "pipe")
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()))
    reader.start()
    sink = JsonLinesSink(tmp_path / "pipe")
    for index in range(3):
        sink.write(record(index))
    sink.close()
    reader.join()
    assert [json.loads(line)["frame"] for line in received[0].splitlines()] == [0, 1, 2]


def test_lines_and_rows_of_picture_files(tmp_path, record):
    (tmp_path / "x").mkdir()
    pictures = [record(0, people=1, file_name="a, b.jpg"), record(1, people=1, file_name="x\udcff.png")]
    as_json, as_csv = JsonLinesSink(tmp_path / "o.jsonl"), CsvSink(tmp_path / "o.csv", skeleton=COCO17)
    for picture in pictures:
        as_json.write(picture)
        as_csv.write(picture)
    found = lines(as_json.path)
    assert list(found[0]) == ["frame", "file_name", "time", "width", "height", "people"]
    assert [(line["file_name"], line["time"]) for line in found] == [("a, b.jpg", None), ("x\udcff.png", None)]
    with as_csv.path.open(newline="", errors="surrogateescape") as file:
        table = list(csv.DictReader(file, strict=True))
    assert list(table[0])[:5] == ["frame", "file_name", "time", "id", "x1"]
    assert [(row["file_name"], row["time"]) for row in table] == [("a, b.jpg", ""), ("x\udcff.png", "")]


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


def test_rows_end_as_the_standard_has_it_and_are_there_at_once(tmp_path, record):
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


def bent_knee(record: FrameRecord, score: float = 1.0) -> FrameRecord:
    """The record with its second person's left knee bent by a right angle; that ankle has this score."""
    keypoints = np.zeros_like(record.poses.keypoints)
    keypoints[1, [11, 13, 15]] = np.array([[10, 10, 1], [10, 20, 1], [20, 20, score]])
    return replace(record, poses=replace(record.poses, keypoints=keypoints))


def test_what_a_row_of_angles_says(tmp_path, record):
    sink = AnglesSink(tmp_path / "out.csv", skeleton=COCO17, keypoint_threshold=0.5)
    sink.write(bent_knee(record(7, time=1 / 3, people=2, ids=[12, 0])))
    sink.write(record(8, people=0))
    sink.write(bent_knee(record(9, people=2), score=0.49))
    sink.close()
    found = rows(sink.path)
    assert list(found[0]) == ["frame", "time", "id", "person", *angles_of(COCO17)]
    assert [row["frame"] for row in found] == ["7", "7", "9", "9"]
    assert [row["time"] for row in found][:2] == ["0.333333"] * 2
    assert [row["id"] for row in found] == ["12", "", "", ""]
    assert [row["person"] for row in found] == ["0", "1", "0", "1"]
    assert [row["left_knee"] for row in found] == ["", "90.0", "", ""]
    assert [row["left_knee_flexion"] for row in found] == ["", "-90.0", "", ""]  # bent forwards, facing right
    of_leg = ("left_knee", "left_knee_flexion", "left_thigh_segment", "left_shank_segment")
    assert {row[name] for row in found for name in angles_of(COCO17) if name not in of_leg} == {""}


def test_angles_of_somebody_who_faces_left(tmp_path, record):
    with contextlib.closing(AnglesSink(tmp_path / "out.csv", skeleton=COCO17, facing="left")) as sink:
        sink.write(bent_knee(record(0, people=2)))
    assert [row["left_knee_flexion"] for row in rows(sink.path)] == ["", "90.0"]


def test_feet_that_nobody_saw_are_said_at_the_end(tmp_path, record):
    feet = ("left_heel", "right_heel", "left_big_toe", "right_big_toe")
    names = ("left_knee", "left_hip", "left_ankle", *(f"p{number}" for number in range(10)), *feet)
    said = []
    with contextlib.closing(
        AnglesSink(tmp_path / "out.csv", skeleton=replace(COCO17, keypoints=names), say=said.append)
    ) as sink:
        given = record(0, people=1)
        keypoints = given.poses.keypoints.copy()
        keypoints[0, :3] = [[10, 10, 1], [10, 20, 1], [15, 10, 1]]
        keypoints[0, 13:, 2] = 0
        sink.write(replace(given, poses=replace(given.poses, keypoints=keypoints)))
        assert said == []
        sink.close()
    assert [line.partition(",")[0] for line in said] == [f"{tmp_path / 'out.csv'}: feet were seen in no frame"]


def test_angles_where_pixels_are_not_square(tmp_path, record):
    given = record(0, people=2)
    keypoints = np.zeros_like(given.poses.keypoints)
    keypoints[1, [11, 13, 15]] = [[10, 10, 1], [10, 20, 1], [15, 10, 1]]
    frame, poses = replace(given.frame, sample_aspect_ratio=Fraction(2)), replace(given.poses, keypoints=keypoints)
    with contextlib.closing(AnglesSink(tmp_path / "out.csv", skeleton=COCO17)) as sink:
        sink.write(replace(given, frame=frame, poses=poses))
    assert [row["left_knee"] for row in rows(sink.path)] == ["", "45.0"]


def test_angles_of_picture_files_and_of_another_skeleton(tmp_path, record):
    sink = AnglesSink(tmp_path / "out.csv", skeleton=COCO17)
    sink.write(bent_knee(record(0, people=2, file_name="a, b.jpg")))
    assert list(rows(sink.path)[0])[:5] == ["frame", "file_name", "time", "id", "person"]
    assert [(row["file_name"], row["time"]) for row in rows(sink.path)] == [("a, b.jpg", "")] * 2
    with pytest.raises(SinkError, match="expected the 16 keypoints of mpii16, got 17"):
        AnglesSink(tmp_path / "other.csv", skeleton=MPII16).write(record())


def test_what_a_line_of_mot_text_says(tmp_path, record):
    sink = MotSink(tmp_path / "out.txt", tracked=True)
    given = record(0, people=3, ids=[7, 0, 2])
    sink.write(given)
    sink.write(record(4, people=1, ids=[7]))
    sink.close()
    lines = [line.split(",") for line in sink.path.read_text().splitlines()]
    assert [line[:2] for line in lines] == [["1", "7"], ["1", "2"], ["5", "7"]]  # nobody whose track is tentative
    assert [float(number) for number in lines[0][2:6]] == [11.25, 21, 40.25, 70]  # pixels count from 1
    assert float(lines[1][6]) == pytest.approx(float(given.poses.scores[2]), abs=1e-5)
    assert all(line[7:] == ["-1", "-1", "-1"] for line in lines)


def test_mot_text_without_people(tmp_path, record):
    sink = MotSink(tmp_path / "out.txt", tracked=True)
    sink.write(record(0, people=0, ids=[]))
    assert sink.path.read_bytes() == b""
    assert sink.abandon() == tmp_path / "out.partial.txt"


def test_nobody_is_tracked(tmp_path, record):
    with pytest.raises(InputError, match=r"out\.txt: MOT text needs track ids; add --track"):
        MotSink(tmp_path / "out.txt", tracked=False)
    sink = MotSink(tmp_path / "out.txt", tracked=True)
    with pytest.raises(SinkError, match="frame 0: expected people with ids, got none"):
        sink.write(record(0))
    assert list(tmp_path.iterdir()) == []


FRAMES = 30
WALKERS = {4: (10.0, 2.0), 9: (200.0, -1.5), 15: (400.0, 0.0)}  # id: where its box begins, pixels a frame


def boxes_at(index: int) -> np.ndarray:
    lefts = np.array([start + step * index for start, step in WALKERS.values()])
    return np.stack([lefts, np.full(3, 20.0), lefts + 40, np.full(3, 120.0)], axis=1)


def write_tracks(path: Path, record, ids_at) -> None:
    sink = MotSink(path, tracked=True)
    for index in range(FRAMES):
        made = record(index, people=3)
        poses = PoseResult(
            Boxes.from_xyxy(boxes_at(index)),
            made.poses.keypoints,
            made.poses.quality,
            made.poses.refined,
            track_ids=np.array(ids_at(index), np.int64),
        )
        sink.write(FrameRecord(made.frame, poses, made.draw))
    sink.close()


def evaluated(folder: Path) -> dict[str, dict[str, float]]:
    trackeval = pytest.importorskip("trackeval", reason="trackeval is not installed")
    truth = folder / "truth" / "walk" / "gt"
    truth.mkdir(parents=True)
    lines = []
    for index in range(FRAMES):
        for identity, (x1, y1, x2, y2) in zip(WALKERS, boxes_at(index), strict=True):
            # The challenge's ground truth: all numbers count from 1.
            lines.append(f"{index + 1},{identity},{x1 + 1},{y1 + 1},{x2 - x1},{y2 - y1},1,1,1\n")
    (truth / "gt.txt").write_text("".join(lines))
    dataset = trackeval.datasets.MotChallenge2DBox(
        {
            "GT_FOLDER": str(folder / "truth"),
            "TRACKERS_FOLDER": str(folder),
            "TRACKERS_TO_EVAL": ["tracks"],
            "TRACKER_SUB_FOLDER": "",
            "SKIP_SPLIT_FOL": True,
            "SEQ_INFO": {"walk": FRAMES},
            "BENCHMARK": "MOT15",
            "DO_PREPROC": False,
            "PRINT_CONFIG": False,
        }
    )
    evaluator = trackeval.Evaluator(
        {
            "USE_PARALLEL": False,
            "PRINT_RESULTS": False,
            "PRINT_CONFIG": False,
            "OUTPUT_SUMMARY": False,
            "OUTPUT_DETAILED": False,
            "PLOT_CURVES": False,
            "TIME_PROGRESS": False,
            "LOG_ON_ERROR": None,
            "BREAK_ON_ERROR": True,
        }
    )
    metrics = [trackeval.metrics.HOTA(), trackeval.metrics.CLEAR({"PRINT_CONFIG": False})]
    results, _ = evaluator.evaluate([dataset], metrics)
    found: dict[str, dict[str, float]] = results["MotChallenge2DBox"]["tracks"]["walk"]["pedestrian"]
    return found


def test_right_tracks_are_perfect(tmp_path, record):
    write_tracks(tmp_path / "tracks" / "walk.txt", record, lambda index: list(WALKERS))
    found = evaluated(tmp_path)
    np.testing.assert_allclose(found["HOTA"]["HOTA"], 1.0)
    assert found["CLEAR"]["IDSW"] == 0
    assert found["CLEAR"]["CLR_TP"] == 3 * FRAMES


def test_swapped_and_tentative_tracks_are_not(tmp_path, record):
    def ids_at(index: int) -> list[int]:
        return [0, 9, 15] if index < 5 else [4, 9, 15] if index < 20 else [9, 4, 15]

    write_tracks(tmp_path / "tracks" / "walk.txt", record, ids_at)
    found = evaluated(tmp_path)
    assert found["CLEAR"]["IDSW"] == 2
    assert found["CLEAR"]["CLR_FN"] == 5

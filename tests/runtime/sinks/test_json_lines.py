from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from sharpose.errors import SinkError
from sharpose.runtime.sinks.tables import JsonLinesSink


def lines(path: Path) -> list[dict[str, object]]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path, record):
    sink = JsonLinesSink(str(tmp_path / "deep" / "out.jsonl"))
    assert not (tmp_path / "deep").exists()
    for index in range(3):
        sink.write(record(index))
        assert [line["frame"] for line in lines(sink.path)] == list(range(index + 1))
    sink.close()
    sink.close()


def test_what_a_line_says(tmp_path, record):
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
    assert [person["id"] for person in people] == [5, None]  # 0: a track that is not yet sure
    assert [person["wanted"] for person in people] == [True, True]


def test_numbers_are_rounded_for_reading(tmp_path, record):
    sink = JsonLinesSink(tmp_path / "out.jsonl")
    sink.write(record(1, people=1, time=1 / 3))
    (line,) = sink.path.read_text().splitlines()
    assert '"time": 0.333333,' in line
    digits = [len(word.split(".")[1].rstrip("]},")) for word in line.split() if "." in word]
    assert max(digits) <= 6
    assert "-0.0" not in line


def test_a_frame_without_people(tmp_path, record):
    sink = JsonLinesSink(tmp_path / "out.jsonl")
    sink.write(record(people=0))
    assert lines(sink.path)[0]["people"] == []


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_no_word_for_nan(tmp_path, record, number):
    sink = JsonLinesSink(tmp_path / "out.jsonl")
    sink.write(record(0))
    with pytest.raises(SinkError, match="frame 1: expected finite numbers"):
        sink.write(record(1, keypoint=number))
    assert len(lines(sink.path)) == 1


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

"""All sinks at once, from the same records: every format says the same numbers."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import result_readers as readers

from sharpose.runtime.sinks.folders import OPENPOSE_COCO18
from sharpose.runtime.sinks.outputs import Output, SinkSettings, make_sink
from sharpose.skeleton import COCO17

FRAMES = 12
PEOPLE = [2, 0, 3, 1]  # in turn


@pytest.fixture(scope="module")
def written(tmp_path_factory, record):
    folder = tmp_path_factory.mktemp("all")
    outputs = {
        "--output": "o.mp4",
        "--json": "o.jsonl",
        "--coco": "o.json",
        "--csv": "o.csv",
        "--openpose": "poses",
        "--mot": "o.txt",
        "--frames": "pictures",
    }
    stream = SinkSettings("walk", COCO17, frame_rate=25, tracked=True)
    sinks = [make_sink(Output(option, str(folder / target)), stream) for option, target in outputs.items()]
    records = []
    for index in range(FRAMES):
        people = PEOPLE[index % len(PEOPLE)]
        given = record(index, people=people, ids=[7, 3, 0][:people], image=np.full((48, 64, 3), 20 * index, np.uint8))
        records.append(given)
        for sink in sinks:
            sink.write(given)
    for sink in sinks:
        sink.close()
    return folder, records


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (readers.read_json_lines, "o.jsonl"),
        (readers.read_csv, "o.csv"),
        (readers.read_coco, "o.json"),
        (readers.read_mot, "o.txt"),
        (readers.read_openpose, "poses"),
    ],
    ids=["json", "csv", "coco", "mot", "openpose"],
)
def test_every_format_says_what_the_records_say(written, read, name):
    folder, records = written
    frames = read(folder / name).people
    for index, given in enumerate(records):
        poses = given.poses
        expected = [row for row in range(len(poses)) if name != "o.txt" or poses.track_ids[row]]
        found = frames.get(index, [])
        assert [person.id for person in found] == [poses.track_ids[row] for row in expected]
        for person, row in zip(found, expected, strict=True):
            check(person, poses, row)


def check(person, poses, row):
    if person.box is not None:
        np.testing.assert_allclose(person.box, poses.boxes.xywh[row], atol=2e-3)
    if person.score is not None:
        assert person.score == pytest.approx(float(poses.scores[row]), abs=1e-5)
    if person.quality is not None:
        assert person.quality == pytest.approx(float(poses.quality[row]), abs=1e-5)
    if person.refined is not None:
        assert person.refined == poses.refined[row]
    if person.keypoints is not None:
        points = person.keypoints
        if len(points) == len(OPENPOSE_COCO18):
            points = [points[OPENPOSE_COCO18.index(name)] for name in COCO17.keypoints]
        np.testing.assert_allclose(points, poses.keypoints[row], atol=1e-3)


def test_pictures_and_video_show_the_same(written):
    folder, records = written
    times = readers.read_video(folder / "o.mp4")
    assert times == pytest.approx([given.frame.time for given in records], abs=1e-3)
    files = sorted((folder / "pictures").iterdir())
    assert [path.name for path in files] == [f"walk_{index:012d}.jpg" for index in range(FRAMES)]
    capture = cv2.VideoCapture(str(folder / "o.mp4"))
    for path, given in zip(files, records, strict=True):
        picture = cv2.imread(str(path))
        there, frame = capture.read()
        assert there
        assert math.isclose(picture.mean(), frame.mean(), abs_tol=4)
        assert math.isclose(picture.mean(), given.frame.image.mean(), abs_tol=4)
    capture.release()

"""`sharpose-run`: where people are, by files of boxes and detectors."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_files import Run, frames_of, lines_of, outputs, people_of, write_boxes, write_detector, write_video
from served_detector import default_detector_served


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """Three people in frame 0, two in frame 2, one in a frame that never comes."""
    return write_boxes(
        tmp_path / "boxes.json",
        [
            (0, (5, 5, 40, 80), 0.5),
            (2, (-10, 20, 60.5, 90), 0.75),
            (0, (60, 10, 30, 60), 0.9),
            (0, (80, 50, 1, 1), 0.25),
            (2, (30, 30, 0, 0), 1.0),
            (77, (1, 1, 5, 5), 1.0),
        ],
    )


def test_a_video_with_a_boxes_file(sharpose_run: Run, tmp_path: Path, video: Path, boxes: Path) -> None:
    done = sharpose_run(video, "--boxes", boxes, *outputs(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    people = people_of(tmp_path / "o.jsonl")
    assert [len(frame) for frame in people] == [3, 0, 2, 0, 0, 0]
    assert [person["bbox"] for person in people[0]] == [[5, 5, 40, 80], [60, 10, 30, 60], [80, 50, 1, 1]]
    assert [person["bbox"] for person in people[2]] == [[-10, 20, 60.5, 90], [30, 30, 0, 0]]
    assert frames_of(tmp_path / "o.mp4") == 6
    results = json.loads((tmp_path / "o.json").read_text())
    assert [entry["image_id"] for entry in results] == [0, 0, 0, 2, 2]
    assert f"{boxes}: 5 boxes used, 1 left out (1 in frames that did not come)" in done.stdout.splitlines()
    assert results[3]["keypoints"] == [value for point in people[2][0]["keypoints"] for value in point]

    best = sharpose_run(video, "--boxes", boxes, "--max-people", 1, "--json", "best.jsonl")
    assert best.returncode == 0
    assert [[person["bbox"] for person in frame] for frame in people_of(tmp_path / "best.jsonl")] == [
        [[60, 10, 30, 60]],
        [],
        [[30, 30, 0, 0]],
        [],
        [],
        [],
    ]


def test_a_detector(sharpose_run: Run, tmp_path: Path, video: Path) -> None:
    detector = write_detector(
        tmp_path / "d.onnx",
        dets=np.array([[[10, 5, 50, 85, 0.5], [60, 20, 100, 90, 0.875], [0, 0, 9, 9, 0.9]]], np.float32),
        labels=np.array([[0, 0, 3]], np.int64),
    )
    done = sharpose_run(video, "--detector", detector, "--refine", "never", "--json", "o.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    people = people_of(tmp_path / "o.jsonl")
    assert [[person["bbox"] for person in frame] for frame in people] == [[[60, 20, 40, 70], [10, 5, 40, 80]]] * 6


@pytest.mark.parametrize("messages", ["--quiet", "--json-logs"])
def test_nobody_found_is_a_warning_for_each_stream(
    sharpose_run: Run, tmp_path: Path, video: Path, messages: str
) -> None:
    poor = np.array([[[8, 8, 40, 90, 0.05]]], np.float32)
    detector = write_detector(tmp_path / "poor.onnx", dets=poor, labels=np.zeros((1, 1), np.int64))
    long = write_video(tmp_path / "long.mp4", 33)
    done = sharpose_run(video, long, "--detector", detector, "--json", "{source}.jsonl", messages)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "nobody was found" in line]
    assert len(lines) == 2
    assert any(
        "nobody was found in the first 30 frames; the best score was 0.05, with conf 0.3" in line for line in lines
    )
    assert any("nobody was found in all its 6 frames; " in line for line in lines)
    assert all(
        "taken for end-to-end and fed 96x128 (HxW), BGR, values 0 to 255, no mean or std" in line for line in lines
    )
    moving = sharpose_run(video, "--detector", "motion", "--json", "m.jsonl", messages)
    assert moving.returncode == 0
    assert "nobody was found in all its 6 frames; --detector motion sees what moves" in moving.stderr


def test_a_detector_of_the_users_own_table(sharpose_run: Run, tmp_path: Path, video: Path) -> None:
    pytest.importorskip("yaml")
    served = tmp_path / "served"
    served.mkdir()
    write_detector(
        served / "mine.onnx",
        dets=np.array([[[10, 5, 50, 85, 0.5]]], np.float32),
        labels=np.array([[0]], np.int64),
    )
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/mine.onnx"
        table = tmp_path / "table.yaml"
        table.write_text(f"detectors: {{mine: {{url: '{url}', family: end-to-end, licence: none}}}}\n")
        arguments = [video, "--detector", "mine", "--refine", "never", "--json", "o.jsonl"]
        home = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
        unknown = sharpose_run(*arguments, **home)
        done = sharpose_run(*arguments, "--detector-table", table, "--detector-sha256", "trust", **home)
        server.shutdown()
    assert unknown.returncode == 2
    assert "--detector mine: expected a file, motion, or one of " in unknown.stderr
    assert done.returncode == 0, done.stderr
    assert [[person["bbox"] for person in frame] for frame in people_of(tmp_path / "o.jsonl")] == [
        [[10, 5, 40, 80]]
    ] * 6


@pytest.fixture
def people_served(tmp_path: Path) -> Iterator[dict[str, str]]:
    with default_detector_served(tmp_path) as variables:
        yield variables


def test_people_are_found_without_being_asked_for(
    sharpose_run: Run, tmp_path: Path, video: Path, people_served: dict[str, str]
) -> None:
    first = sharpose_run(video, "--refine", "never", "--json", "o.jsonl", **people_served)
    assert first.returncode == 0, first.stderr
    address, cached = people_served["SHARPOSE_DETECTOR_MIRROR"], tmp_path / "cache/sharpose/detectors/yolox-tiny.onnx"
    assert first.stderr == f"downloading {address}tiny.onnx to {cached}\n"
    found = [[person["bbox"] for person in frame] for frame in people_of(tmp_path / "o.jsonl")]
    assert found == [[[10, 5, 40, 80]]] * 6

    (tmp_path / "served" / "tiny.onnx").unlink()
    scene = "scene:frames=2,size=240x320,people=3"  # has boxes of its own
    again = sharpose_run(video, scene, "--refine", "never", "--json", "{source}.jsonl", **people_served)
    assert (again.returncode, again.stderr) == (0, "")
    assert people_of(tmp_path / "video.jsonl") == people_of(tmp_path / "o.jsonl")


@pytest.mark.parametrize("messages", ["--quiet", "--json-logs"])
def test_a_download_is_said_as_everything_is(
    sharpose_run: Run, video: Path, people_served: dict[str, str], messages: str
) -> None:
    done = sharpose_run(video, "--refine", "never", "--json", "o.jsonl", messages, **people_served)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert [line.startswith("downloading http://127.0.0.1:") for line in said][:1] == [True][: len(said)]
    assert bool(said) == (messages == "--json-logs")


def test_without_a_network_other_ways_are_named(sharpose_run: Run, tmp_path: Path, video: Path) -> None:
    done = sharpose_run(
        video, "--json", "o.jsonl", XDG_CACHE_HOME=str(tmp_path), SHARPOSE_DETECTOR_MIRROR="http://127.0.0.1:9/x"
    )
    assert done.returncode == 2
    first, error = done.stderr.splitlines()
    assert first.startswith("downloading http://127.0.0.1:9/x/yolox_tiny.onnx to ")
    assert error.startswith("error: the detector yolox-tiny can't be downloaded: http://127.0.0.1:9/x/yolox_tiny.onnx")
    for way in ("Connection refused", "--detector FILE.onnx", "--detector motion", "--full-frame", "--boxes FILE"):
        assert way in error
    assert not (tmp_path / "o.jsonl").exists()


def test_pictures_of_an_annotation_file_go_by_their_file_names(sharpose_run: Run, tmp_path: Path) -> None:
    """As labelling tools write it: ids from 1 in the order of labelling; here one of them is a string."""
    (tmp_path / "pictures").mkdir()
    for name in ("kite", "lamp", "moon", "new"):
        cv2.imwrite(str(tmp_path / "pictures" / f"{name}.png"), np.full((90, 120, 3), 90, np.uint8))
    ids = {"moon": 1, "kite": "two", "lamp": 3}
    labels = {
        "images": [{"id": image_id, "file_name": f"{name}.png"} for name, image_id in ids.items()],
        "annotations": [
            {"image_id": image_id, "category_id": 1, "bbox": [place, 5, 40, 60]}
            for place, image_id in enumerate(ids.values())
        ],
    }
    (tmp_path / "b.json").write_text(json.dumps(labels))
    done = sharpose_run("pictures", "--boxes", "b.json", "--stride", 2, *outputs(tmp_path)[2:])
    assert done.returncode == 0, done.stderr
    assert done.stderr == "warning: b.json: 1 picture not in it, such as pictures/new.png: nobody is there\n"
    assert [[person["bbox"][0] for person in people] for people in people_of(tmp_path / "o.jsonl")] == [[1], [0]]
    assert [entry["image_id"] for entry in json.loads((tmp_path / "o.json").read_text())] == ["two", 1]
    assert "b.json: 2 boxes used, 1 left out (1 in frames that did not come)" in done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.shared
def test_coco_pictures_with_their_annotations(sharpose_run: Run, shared_dir: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    data = shared_dir / "data" / "coco_tiny"
    annotations = data / "annotations" / "person_keypoints_val2017.json"
    done = sharpose_run(data / "val2017", "--boxes", annotations, "--refine", "never", *outputs(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    truth = coco.COCO(str(annotations))
    loaded = truth.loadRes(str(tmp_path / "o.json"))
    expected = sorted(
        (a["image_id"], [round(v, 1) for v in a["bbox"]]) for a in truth.anns.values() if not a["iscrowd"]
    )
    found = sorted((a["image_id"], [round(v, 1) for v in a["bbox"]]) for a in loaded.anns.values())
    assert found == expected
    assert len(lines_of(tmp_path / "o.jsonl")) == frames_of(tmp_path / "o.mp4") == len(truth.imgs) == 49


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        ("[]", "b.json: holds no box of a person: nobody is in the results"),
        ('{"images": [{"id": 0}], "annotations": []}', "b.json: holds no box of a person: nobody is in the results"),
        (
            '[{"image_id": 0, "bbox": [1, 1, 9, 9], "score": 0.1}]',
            "b.json: 0 boxes used, 1 left out (1 below --conf)",
        ),
    ],
)
def test_a_boxes_file_without_a_box_to_use_is_a_warning(
    sharpose_run: Run, tmp_path: Path, content: str, warning: str
) -> None:
    (tmp_path / "b.json").write_text(content)
    done = sharpose_run("scene:frames=1,size=64x64", "--boxes", "b.json", "--conf", 0.5, "--json", "o.jsonl")
    assert (done.returncode, done.stderr) == (0, f"warning: {warning}\n")
    assert people_of(tmp_path / "o.jsonl") == [[]]

"""`sharpose-run` as a user meets it: what it reads, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_files import (
    SCENE,
    STAGES,
    Run,
    frames_of,
    lines_of,
    outputs,
    people_of,
    table_of,
    write_boxes,
    write_detector,
    write_video,
)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "video.mp4")


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


def test_help(sharpose_run: Run) -> None:
    done = sharpose_run("--help", bundle=None)
    assert (done.returncode, done.stderr) == (0, "")
    assert "SOURCE" in done.stdout
    assert "--quality-threshold" in done.stdout


def test_the_scene(sharpose_run: Run, tmp_path: Path) -> None:
    done = sharpose_run(SCENE, *outputs(tmp_path / "[red]results"))  # no markup
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    folder = tmp_path / "[red]results"
    lines = lines_of(folder / "o.jsonl")
    assert [line["frame"] for line in lines] == [0, 1, 2, 3]
    assert [line["time"] for line in lines] == pytest.approx([0, 0.04, 0.08, 0.12])
    assert {(line["width"], line["height"]) for line in lines} == {(320, 240)}
    everybody = [person for line in lines for person in line["people"]]
    assert 1 <= len(everybody) <= 12
    for person in everybody:
        assert set(person) == {"bbox", "score", "keypoints", "quality", "refined"}
        assert np.shape(person["keypoints"]) == (17, 3)
        assert person["refined"] is (person["quality"] < 0.99)
        confident = [score for _, _, score in person["keypoints"] if score > 0.2]
        assert person["score"] == pytest.approx(np.mean(confident), abs=1e-4)
    assert frames_of(folder / "o.mp4") == 4
    assert len(json.loads((folder / "o.json").read_text())) == len(everybody)
    head = done.stdout.splitlines()[0]
    refined = sum(person["refined"] for person in everybody)
    assert head.startswith(f"frames 4, people {len(everybody)}, refined {refined} ({refined / len(everybody):.0%}), ")
    table = table_of(done.stdout)
    assert list(table) == STAGES
    assert all(p50 <= p95 <= p99 for p50, p95, p99 in table.values())
    assert table["coarse"][0] > table["gate"][0] > 0
    assert done.stdout.splitlines()[-3:] == [f"wrote {folder / name}" for name in ("o.mp4", "o.jsonl", "o.json")]


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


@pytest.mark.parametrize(
    ("options", "refined"),
    [
        (["--refine", "never"], False),
        (["--refine", "always", "--quality-threshold", "-100"], True),
        (["--quality-threshold", "-100"], False),
        (["--quality-threshold", "100"], True),
    ],
)
def test_who_is_refined(sharpose_run: Run, tmp_path: Path, options: list[str], refined: bool) -> None:
    done = sharpose_run("scene:frames=1,size=240x320,people=3", *options, "--json", "o.jsonl")
    assert done.returncode == 0, done.stderr
    (people,) = people_of(tmp_path / "o.jsonl")
    assert people
    assert {person["refined"] for person in people} == {refined}
    assert f"refined {len(people) if refined else 0} " in done.stdout


def test_pictures_named_by_numbers(sharpose_run: Run, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    (tmp_path / "pictures").mkdir()
    sizes = {7: (90, 120), 12: (120, 90), 100: (61, 47)}
    for image_id, size in sizes.items():
        noise = np.random.default_rng(image_id).integers(0, 256, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{image_id:05d}.png"), noise)
    boxes = write_boxes(
        tmp_path / "b.json", [(100, (3, 4, 20, 30), 0.5), (7, (1, 2, 50, 60), 0.9), (7, (40, 0, 50, 80), 0.8)]
    )
    done = sharpose_run("pictures", "--boxes", boxes, *outputs(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    lines = lines_of(tmp_path / "o.jsonl")
    assert [(line["width"], line["height"]) for line in lines] == [(120, 90), (90, 120), (47, 61)]
    assert [line["time"] for line in lines] == [0, 1, 2]
    assert [len(line["people"]) for line in lines] == [2, 0, 1]
    assert frames_of(tmp_path / "o.mp4") == 3

    truth = coco.COCO()
    truth.dataset = {
        "images": [{"id": image_id} for image_id in sizes],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "o.json"))
    assert sorted(entry["image_id"] for entry in loaded.anns.values()) == [7, 7, 100]
    (only,) = (entry for entry in loaded.anns.values() if entry["image_id"] == 100)
    assert only["keypoints"] == [value for point in lines[2]["people"][0]["keypoints"] for value in point]
    assert only["score"] == lines[2]["people"][0]["score"]
    assert lines[2]["people"][0]["score"] == pytest.approx(
        0.5 * np.mean([p[2] for p in lines[2]["people"][0]["keypoints"]]), abs=1e-4
    )


def test_the_full_frame(sharpose_run: Run, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((60, 45, 3), np.uint8))
    # A name that the terminal's encoding can't show is no reason to fail.
    done = sharpose_run("picture.png", "--full-frame", "--json", "ø.jsonl", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    ((person,),) = people_of(tmp_path / "ø.jsonl")
    assert person["bbox"] == [0, 0, 45, 60]
    assert done.stdout.splitlines()[-1] == "wrote \\xf8.jsonl"


def test_nothing_to_write_is_said(sharpose_run: Run, tmp_path: Path) -> None:
    done = sharpose_run("scene:frames=1,size=128x128,people=1")
    assert done.returncode == 0
    assert done.stderr == "note: nothing will be written; add --output, --json, --coco, --csv, --serve …\n"
    assert list(tmp_path.iterdir()) == []


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

"""`sharpose-run` with the material beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_files import Run, frames_of, lines_of, outputs, people_of, write_boxes


def thirty_boxes(path: Path, frames: int, size: tuple[int, int]) -> Path:
    height, width = size
    rng = np.random.default_rng(0)
    corners = rng.uniform((0, 0), (width - 60, height - 120), (frames, 30, 2)).round(1)
    return write_boxes(
        path,
        [(f, (*corners[f, i].tolist(), 50.0, 110.0), float(i + 1) / 30) for f in range(frames) for i in range(30)],
    )


@pytest.mark.slow
@pytest.mark.shared
def test_a_crowd(sharpose_run: Run, shared_dir: Path, tmp_path: Path) -> None:
    boxes = thirty_boxes(tmp_path / "b.json", 341, (720, 1280))
    done = sharpose_run(
        shared_dir / "media" / "crowd.avi", "--boxes", boxes, "--refine", "never", "--max-people", 2, *outputs(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert "header claims 682 frames, but it ends after 341" in done.stderr
    lines = lines_of(tmp_path / "o.jsonl")
    assert [line["frame"] for line in lines] == list(range(341))
    assert {len(line["people"]) for line in lines} == {2}
    assert frames_of(tmp_path / "o.mp4") == 341
    assert done.stdout.startswith("frames 341, people 682, refined 0 (0%)")


@pytest.mark.slow
@pytest.mark.shared
def test_thirty_people_a_frame(sharpose_run: Run, shared_dir: Path, tmp_path: Path) -> None:
    boxes = thirty_boxes(tmp_path / "b.json", 5, (540, 960))
    done = sharpose_run(shared_dir / "media" / "street.mp4", "--boxes", boxes, *outputs(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert [len(people) for people in people_of(tmp_path / "o.jsonl")] == [30] * 5
    assert [line["time"] for line in lines_of(tmp_path / "o.jsonl")] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert frames_of(tmp_path / "o.mp4") == 5


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

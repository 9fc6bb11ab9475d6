"""`python benchmarks/budgets.py`: who gets which budget, and a report whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import budgets
import cv2
import numpy as np
import pytest
from budgets import command, refined_at, smallest_that_holds
from measuring import turns

from sharpose.cli import main
from sharpose.runtime import PoseEstimator
from sharpose.scene import Scene, SceneConfig

RATES = (0, 50, 100)


def test_each_gets_the_smallest_budget_that_holds_enough() -> None:
    held = np.array([[0.2, 0.5, 0.8], [0.4, 0.7, 0.9]], np.float32)
    assert smallest_that_holds(held, 0.45).tolist() == [1, 0, 0]
    assert smallest_that_holds(held, 0.6).tolist() == [1, 1, 0]
    assert smallest_that_holds(held, 0.95).tolist() == [1, 1, 1]  # none does


def test_those_of_lowest_quality_are_refined_first() -> None:
    quality = np.array([0.7, 0.1, 0.5, 0.5], np.float32)
    assert refined_at(quality, 0).tolist() == [False] * 4
    assert refined_at(quality, 50).tolist() == [False, True, True, False]
    assert refined_at(quality, 100).all()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of a person each, labelled with the shipped model's own refined poses."""
    folder = tmp_path_factory.mktemp("labelled")
    annotations, pictures = [], []
    with PoseEstimator(refine="always", threads=1, batch=1) as estimator:
        for number in range(3):
            frame = Scene(SceneConfig(seed=number, people=2, frames=1, height=240, width=320)).frame(0)
            cv2.imwrite(str(folder / f"{number}.png"), frame.image)
            x1, y1, x2, y2 = frame.boxes_xyxy[0].tolist()
            pose = estimator(frame.image, frame.boxes_xyxy[:1]).keypoints[0].astype(np.float64)
            pose[:, 2] = 2
            person = {"image_id": number, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            person |= {"id": number + 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 17}
            annotations.append(person | {"keypoints": pose.ravel().tolist()})
            pictures.append({"id": number, "file_name": f"{number}.png", "width": 320, "height": 240})
    content = {"images": pictures, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


def test_the_report_says_what_each_policy_costs_and_reaches(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(turns, "_TURN_S", 0.0)
    monkeypatch.setattr(budgets, "_RESAMPLES", 20)
    monkeypatch.setattr(budgets, "RATES", RATES)
    words = ["--labels", labelled / "labels.json", "--images", labelled, "--alpha", "0.1,0.5", "--relevance", "0.1,1"]
    words += ["--seconds", 0, "--output", tmp_path]
    with pytest.raises(SystemExit) as stopped:
        main(command, list(map(str, words)))
    assert (stopped.value.code or 0) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "budgets.json").read_text("utf-8"))
    points = {(point["policy"], point["percent"]): point for point in report["points"]}
    assert len(points) == 4 * len(RATES)
    assert report["people"] == 3
    first, second = report["times_ms"]["fine"]
    for (policy, percent), point in points.items():
        fine = first if policy in ("alpha 0.1", "relevance 0.1") else second
        cost = report["times_ms"]["others"] + fine * round(3 * percent / 100) / 3
        assert point["milliseconds"] == pytest.approx(cost)
    assert points["alpha 0.5", 100]["ap"] == pytest.approx(100, abs=0.1)  # the labels are those poses
    assert points["alpha 0.5", 0]["ap"] < 90
    for rate in RATES:  # nobody's relevance lies in one region, nor does a tenth of the regions hold all of it
        assert points["relevance 1", rate]["ap"] == points["alpha 0.5", rate]["ap"]
        assert points["relevance 0.1", rate]["ap"] == points["alpha 0.1", rate]["ap"]
    assert points["relevance 1", 100]["gain"] == pytest.approx(0)
    assert points["relevance 1", 100]["interval"] == pytest.approx([0, 0])
    page = (tmp_path / "budgets.md").read_text("utf-8")
    point = points["alpha 0.5", 100]
    assert f"| {point['ap']:.1f} ({point['milliseconds']:.1f}) |" in page
    assert "| relevance 1 | " in page


@pytest.mark.parametrize("alphas", ["0.5,0.2", "0.2,0.2", "0,0.5", "0.2,1.5", "many", "nan"])
def test_budgets_that_are_none_are_refused(alphas: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command, ["--labels", "l", "--images", "i", "--alpha", alphas, "--output", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "expected ascending numbers above 0 and at most 1, with commas between" in capsys.readouterr().err

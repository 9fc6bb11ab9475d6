"""Own keypoints from a COCO file to results, on the command line: labels, training, export, run and evaluation."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
import result_readers as readers
import yaml
from drawn_people import write_people

from sharpose import PoseEstimator
from sharpose.bundle import open_bundle
from sharpose.cli import main
from sharpose.export.cli import command as export_command
from sharpose.runtime.cli import command as run_command
from sharpose.skeleton import HALPE26
from sharpose.training.data.scene import SceneDataset
from sharpose.training.eval_cli import command as eval_command
from sharpose.training.train_cli import command as train_command

Values = dict[str, Any]
PEOPLE = 6


def command(one: click.Command, *arguments: object) -> int | str | None:
    """The exit code of a command in this process."""
    with pytest.raises(SystemExit) as stop:
        main(one, [str(argument) for argument in arguments])
    return stop.value.code


def write_labels(folder: Path) -> None:
    """Drawn people in `labels.json`, with Halpe's points under names that a labelling tool gives."""
    names = [name.replace("left_", "L ").replace("right_", "R ").title() for name in HALPE26.keypoints]
    limbs = [[first + 1, second + 1] for first, second in HALPE26.limbs]
    category = {"id": 7, "name": "skier", "keypoints": names, "skeleton": limbs}
    write_people(folder / "labels.json", PEOPLE, category, HALPE26)


def write_pictures(folder: Path) -> Path:
    """As many pictures as int8 needs, of coloured blocks."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(64):
        blocks = rng.integers(0, 255, (12, 9, 3), dtype=np.uint8)
        picture = cv2.resize(blocks, (90, 120), interpolation=cv2.INTER_CUBIC)
        assert cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder


def test_from_labels_to_results(
    nano_values: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_labels(tmp_path)
    coco = {"kind": "coco", "annotations": "labels.json", "images": "images"}
    nano_values["model"] |= {"skeleton": "labels.json", "width": 24, "depth": 1, "heads": 12}
    nano_values |= {"batch_size": 4, "schedule": {"epochs": 1, "warmup_steps": 0}}
    nano_values["optimizer"] = {"learning_rate": 1e-5}
    nano_values["data"] = {"train": [coco, {"kind": "scene", "length": 4}], "evaluation": [coco | {"limit": 4}]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(nano_values))
    work, bundle = tmp_path / "run", tmp_path / "my bundle"
    assert command(train_command, tmp_path / "recipe.yaml", "--data", tmp_path, "--work-dir", work) == 0
    assert "left_heel/right_heel; without: nose, head, neck, hip" in caplog.text
    assert "taken are those of halpe26, by name" in caplog.text
    assert yaml.safe_load((work / "recipe.yaml").read_text())["model"]["skeleton"]["sigmas"] == list(HALPE26.sigmas)
    assert (work / "pictures").is_dir()

    # int8, since such a bundle has no float32 graphs: the command that the export prints must work with it too
    export = ["--checkpoint", work / "best.pth", "--output", bundle, "--images", write_pictures(tmp_path / "pictures")]
    capsys.readouterr()
    assert command(export_command, *export, "--precision", "int8") == 0
    printed = capsys.readouterr().out
    report = json.loads((bundle / "bundle.json").read_text())["parity"]["int8"]
    assert (report["crops"], report["failures"]) == (32, [])
    assert 0.95 <= report["region_slot_agreement"] <= 1
    skeleton = open_bundle(bundle).model.skeleton
    assert (skeleton.name, skeleton.keypoints, skeleton.limbs) == ("labels", HALPE26.keypoints, HALPE26.limbs)
    assert skeleton.flip_pairs == HALPE26.flip_pairs
    assert skeleton.is_upper == HALPE26.is_upper

    (line,) = [line for line in printed.splitlines() if line.startswith("wrote ")]
    name, *arguments = shlex.split(line.partition(": run it with  ")[2])
    assert (name, arguments[0]) == ("sharpose-run", "SOURCE")
    out = tmp_path / "out"
    arguments = ["scene:people=2,frames=2,size=96x128", *arguments[1:], "--track", "--kpt-thr", "0", "--draw-regions"]
    targets = {"json": "o.jsonl", "coco": "o.json", "csv": "o.csv", "angles": "angles.csv", "openpose": "openpose"}
    targets |= {"mot": "o.txt", "frames": "frames"}
    for option, target in targets.items():
        arguments += [f"--{option}", str(out / target)]
    assert command(run_command, *arguments) == 0
    printed = "".join(capsys.readouterr())
    assert "ONNX Runtime on cpu, int8 graphs" in printed
    assert "frames 2, people 4" in printed
    check_results(out)

    evaluation = ["--bundle", bundle, "--annotations", tmp_path / "labels.json", "--images", tmp_path / "images"]
    assert command(eval_command, *evaluation, "--no-plots", "--output", tmp_path / "report") == 0
    numbers = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert numbers["modes"]["always"]["coco"]["ap"] >= 0
    assert set(numbers["modes"]["always"]["pck"]) == {"0.05", "0.1"}
    assert "labels, 26 keypoints; OKS sigmas: those of halpe26, by name" in (tmp_path / "report/report.md").read_text()

    with PoseEstimator(bundle) as estimator:
        found = estimator(SceneDataset(5, PEOPLE).load(0).image_bgr, [[0, 0, 60, 120]])
        assert found.keypoints.shape == (1, 26, 3)
        assert {"left_big_toe_x", "hip_score"} <= set(found.to_pandas().columns)
        assert set(found.angles()) >= {"left_knee", "trunk_lean"}
        assert (found.plot(np.zeros((200, 200, 3), np.uint8), keypoint_threshold=0) > 0).any()


def check_results(out: Path) -> None:
    """Every result has the 26 points, and the formats with names name them."""
    lines = [json.loads(line) for line in (out / "o.jsonl").read_text().splitlines()]
    expected = np.array([person["keypoints"] for line in lines for person in line["people"]])
    assert expected.shape == (4, 26, 3)
    coco = [person["keypoints"] for person in json.loads((out / "o.json").read_text())]
    np.testing.assert_array_equal(np.reshape(coco, (4, 26, 3)), expected)
    with (out / "o.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    toes = [float(row["left_big_toe_x"]) for row in rows]
    np.testing.assert_array_equal(toes, expected[:, HALPE26.keypoints.index("left_big_toe"), 0])
    assert "left_knee" in (out / "angles.csv").read_text().splitlines()[0].split(",")
    poses = readers.read_openpose(out / "openpose")
    (first, *_) = poses.people[0]
    assert first.keypoints is not None
    assert len(first.keypoints) == 25
    assert len(list((out / "frames").iterdir())) == 2


@pytest.mark.parametrize(
    ("skeleton", "words"),
    [
        ("mpii16", "the drawn scene has no pelvis, thorax, upper_neck and 1 more, which skeleton mpii16 has"),
        ("absent.yaml", "unknown skeleton 'absent.yaml'"),
    ],
)
def test_mistakes_are_one_line(
    nano_values: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str], skeleton: str, words: str
) -> None:
    nano_values["model"]["skeleton"] = skeleton
    nano_values["data"] = {"train": [{"kind": "scene"}]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(nano_values))
    arguments = [tmp_path / "recipe.yaml", "--data", tmp_path, "--work-dir", tmp_path / "run"]
    assert command(train_command, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_labels_of_other_keypoints_are_refused(
    nano_values: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labels(tmp_path)
    nano_values["data"]["train"] = [{"kind": "coco", "annotations": "labels.json", "images": "images"}]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(nano_values))
    assert command(train_command, tmp_path / "recipe.yaml", "--data", tmp_path, "--work-dir", tmp_path / "run") == 2
    assert "category 7: keypoints: expected 17 (coco17), got 26" in capsys.readouterr().err

"""`sharpose-eval` end to end: from a bundle and from a checkpoint, to the report and into the bundle."""

from __future__ import annotations

import errno
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from click import UsageError
from click.testing import CliRunner, Result
from pycocotools.coco import COCO
from score_tables import score_tables

from sharpose.bundle import Bundle, open_bundle, shipped_bundle
from sharpose.config import ModelConfig
from sharpose.errors import BundleError, InputError, SharposeError, SourceError, how_to_install
from sharpose.model import load_model, random_model
from sharpose.model.checkpoint import save_checkpoint
from sharpose.training.eval_cli import command
from sharpose.training.evaluation import gate as threshold
from sharpose.training.evaluation.quality import QualityFit
from sharpose.training.evaluation.scores import Reliability, ScoreFit

SCENE = "scene:people=2,frames=6,size=180x320"


def run(*arguments: str | Path | int) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


@pytest.mark.shared
def test_a_bundle_on_coco(nano_bundle: Path, shared_dir: Path, tmp_path: Path) -> None:
    data = shared_dir / "data" / "coco_tiny"
    result = run("--bundle", nano_bundle, "--data", data, "--limit", 8, "--threads", 1, "--output", tmp_path)
    assert result.return_value == 0
    assert "person_keypoints_val2017, the first 8 pictures" in result.output
    assert "│ always" in result.output
    names = {"report.md", "metrics.json", "quality.png", "ap_refine_rate.png"}
    assert {path.name for path in tmp_path.iterdir()} == names | {
        f"results_{m}.json" for m in ("never", "auto", "always")
    }
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert numbers["modes"]["never"]["refine_rate"] == 0
    assert numbers["modes"]["always"]["refine_rate"] == 1
    assert numbers["calibration"]["count"] == numbers["subject"]["people"] == 21
    truth = COCO(str(data / "annotations" / "person_keypoints_val2017.json"))
    assert len(truth.loadRes(str(tmp_path / "results_always.json")).anns) <= 21


def test_a_chosen_threshold_goes_into_the_bundle(nano_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(nano_bundle, bundle)
    common = ("--bundle", bundle, "--data", SCENE, "--threads", 1, "--no-plots", "--output", tmp_path / "out")
    auto = () if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else ("--device", "auto")
    result = run(*common, "--choose-threshold", "refine-rate<=1", *auto)
    assert result.output.startswith("device auto takes ") == bool(auto)
    assert result.return_value == 0
    assert "chosen" in result.output
    gate = open_bundle(bundle).manifest.gate
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    taken = re.match(r"device auto takes (\S+?);", result.output)
    device = taken[1] if taken else "cpu"
    assert (numbers["subject"]["device"], numbers["subject"]["precision"]) == (device, "fp32")
    assert gate.quality_threshold == numbers["choice"]["threshold"] == numbers["threshold"]
    assert gate.chosen_by.startswith(
        f"sharpose-eval --choose-threshold refine-rate<=1 on {SCENE} (labelled boxes, fp32 on {device})"
    )
    assert gate.chosen_by.endswith(", refining 100%: kept")
    assert "95% interval" in gate.chosen_by
    assert not list((tmp_path / "out").glob("*.png"))
    with pytest.raises(InputError, match=r"results_never\.json already exists; give another name, or --overwrite"):
        run(*common)
    for name in ("quality.png", "ap_refine_rate.png", "own.png"):
        (tmp_path / "out" / name).touch()  # as of an earlier run with plots
    run(*common, "--overwrite")  # the next run gates there
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["own.png"]
    numbers_then = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert numbers_then["threshold"] == gate.quality_threshold
    assert numbers_then["modes"]["auto"]["refine_rate"] > 0.5


def test_the_precision_is_as_asked_for_and_in_the_report(two_precisions: Bundle, tmp_path: Path) -> None:
    scene = "scene:people=2,frames=2,size=180x320"
    arguments = ("--bundle", two_precisions.path, "--data", scene, "--threads", 1, "--no-plots", "--output", tmp_path)
    assert ", on cpu in fp16" in run(*arguments, "--precision", "fp16").output
    assert json.loads((tmp_path / "metrics.json").read_text())["subject"]["precision"] == "fp16"
    assert ", on cpu in fp16\n" in (tmp_path / "report.md").read_text()
    with pytest.raises(
        BundleError, match=r"holds fp32, fp16 graphs, not int8; export it with --precision fp32,fp16,int8"
    ):
        run(*arguments, "--precision", "int8", "--overwrite")


def test_another_alpha_is_measured_and_named(nano_bundle: Path, tmp_path: Path) -> None:
    scene = "scene:people=2,frames=2,size=180x320"
    arguments = ("--bundle", nano_bundle, "--data", scene, "--threads", 1, "--no-plots", "--output", tmp_path)
    results = []
    for alpha in (None, 0.5, 0.25):
        run(*arguments, *(() if alpha is None else ("--alpha", str(alpha))), "--overwrite")
        numbers = json.loads((tmp_path / "metrics.json").read_text())
        assert numbers["subject"]["model"].endswith(")" if alpha is None else f", alpha {alpha:g})")
        results.append((tmp_path / "results_always.json").read_text())
    assert results[0] == results[1] != results[2]
    with pytest.raises(UsageError, match="--choose-threshold is for the model's own alpha: leave --alpha out"):
        run(*arguments, "--alpha", "0.25", "--choose-threshold", "refine-rate<=1", "--overwrite")


def test_a_broken_promise_is_exit_code_1_and_is_not_written(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(nano_bundle, bundle)
    choose = threshold.choose_threshold

    def broken(*arguments: object) -> object:
        choice = choose(*arguments)  # type: ignore[arg-type]
        return type(choice)(**{**vars(choice), "verdict": "not kept"})

    monkeypatch.setattr("sharpose.training.evaluation.run.choose_threshold", broken)
    arguments = ("--bundle", bundle, "--data", SCENE, "--threads", 1, "--no-plots", "--output", tmp_path / "out")
    result = run(*arguments, "--choose-threshold", "refine-rate<=0.5")
    assert result.return_value == 1
    assert "was not written" in result.output
    assert (bundle / "bundle.json").read_bytes() == (nano_bundle / "bundle.json").read_bytes()


def test_what_was_measured_is_written_even_where_nothing_can_be_chosen(nano_bundle: Path, tmp_path: Path) -> None:
    arguments = ("--bundle", nano_bundle, "--data", SCENE, "--threads", 1, "--no-plots", "--output", tmp_path)
    with pytest.raises(InputError, match="no loss can be measured"):  # random weights have no AP to lose
        run(*arguments, "--choose-threshold", "ap-loss<=0.2")
    assert json.loads((tmp_path / "metrics.json").read_text())["choice"] is None
    assert (tmp_path / "report.md").is_file()


def test_a_checkpoint_and_its_bundle_score_the_same(tmp_path: Path) -> None:
    """The checkpoint as others write it: its alpha and heads are known by its shapes alone."""
    bundle = Path(shutil.copytree(shipped_bundle(), tmp_path / "bundle"))
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["gate"]["quality_threshold"] = manifest["model"]["quality_threshold"]  # as the checkpoint's
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    state = load_model(bundle).model.state_dict()
    torch.save({"state_dict": dict(state), "meta": {"epoch": 210}}, tmp_path / "tiny.pth")
    common = ("--data", SCENE, "--no-plots", "--flip-test")
    result = run("--checkpoint", tmp_path / "tiny.pth", *common, "--output", tmp_path / "a")
    assert "warning: checkpoint tiny.pth doesn't say alpha 0.5, heads 6, quality threshold 0.99" in result.stderr
    run("--bundle", bundle, *common, "--threads", 1, "--output", tmp_path / "b")
    scores = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("a", "b")]
    for mode in ("never", "auto", "always"):
        torch_scores, engine_scores = (item["modes"][mode] for item in scores)
        assert torch_scores["refine_rate"] == engine_scores["refine_rate"]
        assert abs(torch_scores["coco"]["ap"] - engine_scores["coco"]["ap"]) < 0.001
        assert torch_scores["pck"]["0.1"] == pytest.approx(engine_scores["pck"]["0.1"], abs=0.02)
    assert scores[0]["subject"]["flip_test"] is True


def test_quality_is_calibrated_into_a_new_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose.training.evaluation.quality._FEWEST_PEOPLE", 12)
    scene = "scene:people=4,frames=6,size=180x320"
    common = ("--data", scene, "--no-plots", "--output", tmp_path / "out")
    loaded = load_model(shipped_bundle())
    layer = loaded.model.backbone.quality_predictor.mlp[-2]
    assert isinstance(layer, torch.nn.Linear)
    layer.bias.data += 0.3  # far too sure of itself
    save_checkpoint(tmp_path / "sure.pth", loaded.model)
    fitted = tmp_path / "fitted.pth"
    result = run("--checkpoint", tmp_path / "sure.pth", *common, "--calibrate-quality", fitted, "--seed", 3)
    assert result.return_value == 0
    before = json.loads((tmp_path / "out" / "metrics.json").read_text())
    run("--checkpoint", fitted, *common, "--overwrite")
    after = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert before["calibration"]["bias"] > 0.2
    assert abs(after["calibration"]["bias"]) < 0.05
    ranks = [item["calibration"]["rank_correlation"] for item in (before, after)]
    assert ranks[0] == pytest.approx(ranks[1], abs=1e-3)
    for mode in ("never", "always"):
        assert before["modes"][mode] == after["modes"][mode]

    with pytest.raises(InputError, match=r"fitted\.pth already exists; give another name, or --overwrite"):
        run("--checkpoint", tmp_path / "sure.pth", *common[:-1], tmp_path / "b", "--calibrate-quality", fitted)


def test_a_fit_that_does_no_good_is_exit_code_1_and_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = QualityFit(1.0, 0.0, (30, 30), bias=(0.1, 0.2), error=(0.1, 0.2))
    monkeypatch.setattr("sharpose.training.evaluation.quality.fit_quality", lambda *arguments: fit)
    arguments = ("--checkpoint", shipped_bundle(), "--data", SCENE, "--no-plots", "--output", tmp_path / "out")
    result = run(*arguments, "--calibrate-quality", tmp_path / "fitted.pth")
    assert result.return_value == 1
    assert "its bias goes from +0.100 to +0.200, its mean error from 0.100 to 0.200" in result.output
    assert "no checkpoint was written" in result.output
    assert not (tmp_path / "fitted.pth").exists()


def test_scores_are_calibrated_in_a_bundle_and_in_a_checkpoint(
    nano_bundle: Path, nano_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharpose.training.evaluation.scores._FEWEST_PEOPLE", 12)
    scene = "scene:people=4,frames=6,size=180x320"
    common = ("--data", scene, "--no-plots", "--output", tmp_path / "out")
    fitted = tmp_path / "fitted"
    result = run("--bundle", nano_bundle, *common, "--threads", 1, "--calibrate-scores", fitted, "--seed", 2)
    assert result.return_value == 0
    assert "scores: raw, the heatmaps' peaks" in result.output
    assert "score tables fitted to 12 people; on 12 people of other pictures, error of scores (ECE)" in result.output
    tables = open_bundle(fitted).manifest.scores
    assert tables is not None
    assert tables.fitted_on == f"{scene}, 12 people"
    assert open_bundle(nano_bundle).manifest.scores is None
    with pytest.raises(InputError, match=r"--calibrate-scores .*fitted: exists; name a new folder"):
        run("--bundle", nano_bundle, *common, "--overwrite", "--calibrate-scores", fitted)

    save_checkpoint(tmp_path / "nano.pth", random_model(nano_config).model, score_tables())
    checkpoint = ("--checkpoint", tmp_path / "nano.pth", "--overwrite", "--calibrate-scores", tmp_path / "fitted.pth")
    result = run(*common, *checkpoint, "--seed", 2)
    assert result.return_value == 0
    assert "scores: by nothing" in result.output  # what the tables that were there were fitted on
    again = load_model(tmp_path / "fitted.pth").scores
    assert again is not None
    assert again.fitted_on == tables.fitted_on
    assert again.person.raw == pytest.approx(tables.person.raw, abs=0.01)


def test_tables_that_do_no_good_are_exit_code_1_and_are_not_written(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = Reliability(0.1, 0.1, 0.5), Reliability(0.1, 0.2, None)
    fit = ScoreFit(score_tables(), (60, 60), good, bad, ("nose",))
    monkeypatch.setattr("sharpose.training.evaluation.scores._FEWEST_PEOPLE", 3)
    monkeypatch.setattr("sharpose.training.evaluation.run.fit_scores", lambda *arguments: fit)
    arguments = ("--bundle", nano_bundle, "--data", SCENE, "--threads", 1, "--no-plots", "--output", tmp_path / "out")
    result = run(*arguments, "--calibrate-scores", tmp_path / "fitted")
    assert result.return_value == 1
    assert "with raw scores: keypoints 0.100, people 0.100, AP 50.0; with tables: keypoints 0.100, people 0.200" in (
        result.output
    )
    assert "note: fewer than 100 labels of nose" in result.output
    assert "nothing was written" in result.output
    assert not (tmp_path / "fitted").exists()


def test_packages_that_a_bundle_needs_are_named_at_once(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("torch", "pycocotools.coco", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    arguments = ("--bundle", nano_bundle, "--data", SCENE, "--output", tmp_path / "out")
    missing = f"sharpose-eval needs pycocotools and matplotlib: {how_to_install('eval')}"
    with pytest.raises(InputError, match=rf"^{re.escape(missing)}$"):
        run(*arguments)
    with pytest.raises(InputError, match=r"^sharpose-eval needs pycocotools: "):
        run(*arguments, "--no-plots")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x", "--output", "o", "--choose-threshold", "ap-loss<=1"], "name it with --bundle DIR"),
        (
            ["--bundle", "b", "--checkpoint", "c", "--data", "x", "--output", "o"],
            "--bundle and --checkpoint exclude each other",
        ),
        (["--bundle", "b", "--output", "o"], "either --data DIR"),
        (["--bundle", "b", "--annotations", "a", "--output", "o"], "go together"),
        (
            ["--bundle", "b", "--calibrate-quality", "c", "--data", "x", "--output", "o"],
            "--calibrate-quality changes a checkpoint",
        ),
        (
            ["--checkpoint", "b", "--calibrate-quality", "c", "--flip-test", "--data", "x", "--output", "o"],
            "leave --flip-test out",
        ),
        (
            ["--checkpoint", "b", "--calibrate-quality", "c", "--boxes", "d", "--data", "x", "--output", "o"],
            "--calibrate-quality needs labelled boxes: leave --boxes out",
        ),
        (
            ["--bundle", "b", "--choose-threshold", "ap-loss<=1", "--flip-test", "--data", "x", "--output", "o"],
            "--choose-threshold is for single passes, as they are gated: leave --flip-test out",
        ),
        (["--calibrate-scores", "c", "--flip-test", "--data", "x", "--output", "o"], "leave --flip-test out"),
        (["--calibrate-scores", "c", "--boxes", "b", "--data", "x", "--output", "o"], "leave --boxes out"),
        (
            [
                "--checkpoint",
                "b",
                "--calibrate-scores",
                "c",
                "--calibrate-quality",
                "d",
                "--data",
                "x",
                "--output",
                "o",
            ],
            "--calibrate-scores and --calibrate-quality exclude each other",
        ),
        (["--seed", "1", "--data", "x", "--output", "o"], "--calibrate-scores: none is given"),
        (["--bundle", "b", "--config", "c", "--data", "x", "--output", "o"], "--config goes with --checkpoint"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_mistakes_are_found_before_the_work(nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--choose-threshold: expected"):
        run("--bundle", nano_bundle, "--data", SCENE, "--output", tmp_path / "o", "--choose-threshold", "ap<=1")
    assert not (tmp_path / "o").exists()
    with pytest.raises(SharposeError, match="--data"):
        run("--bundle", nano_bundle, "--data", tmp_path / "nothing", "--no-plots", "--output", tmp_path / "o" / "p")
    assert not (tmp_path / "o").exists()
    with pytest.raises(InputError, match="at least 50 labelled people in each half of the pictures, got 3 and 3"):
        run("--bundle", nano_bundle, "--data", SCENE, "--output", tmp_path / "o", "--calibrate-scores", tmp_path / "s")
    assert not (tmp_path / "o").exists()  # so before the report
    (tmp_path / "kept").mkdir()
    with pytest.raises(SharposeError, match="--data"):
        run("--bundle", nano_bundle, "--data", tmp_path / "nothing", "--no-plots", "--output", tmp_path / "kept")
    assert (tmp_path / "kept").is_dir()  # it isn't this run's
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder, found the file"):
        run("--bundle", nano_bundle, "--data", SCENE, "--no-plots", "--output", tmp_path / "file")
    refused = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr("sharpose.training.evaluation.run._check_outputs", lambda *arguments: None)
    monkeypatch.setattr("pathlib.Path.exists", lambda path: (_ for _ in ()).throw(refused))
    with pytest.raises(InputError, match=r"--output .*expected a folder that can be made \(Permission denied\)"):
        run("--bundle", nano_bundle, "--data", SCENE, "--no-plots", "--output", tmp_path / "locked" / "o")


def labelled_pictures(folder: Path) -> dict[str, Any]:
    """COCO labels of three people, one a picture of noise; the pictures are written into `folder`."""
    rng = np.random.default_rng(0)
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 256, (96, 72, 3), np.uint8))
    points = [value for joint in range(17) for value in (10 + joint, 12 + 4 * joint, 2)]
    person = {"category_id": 1, "iscrowd": 0, "bbox": [5, 5, 60, 85], "area": 3000, "keypoints": points}
    return {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 72, "height": 96} for number in range(3)],
        "annotations": [{"id": 7, "image_id": number, **person} for number in range(3)],
        "categories": [{"id": 1, "name": "person"}],
    }


def test_who_was_left_out_is_said_and_written(nano_bundle: Path, tmp_path: Path) -> None:
    labels = labelled_pictures(tmp_path)
    labels["annotations"] += [
        {**labels["annotations"][0], "iscrowd": 1},
        {**labels["annotations"][0], "keypoints": None},
    ]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"no picture")
    where = ("--annotations", tmp_path / "labels.json", "--images", tmp_path)
    output = tmp_path / "out"
    result = run("--bundle", nano_bundle, *where, "--threads", 1, "--no-plots", "--output", output)
    assert result.return_value == 3
    (line,) = [line for line in result.output.splitlines() if line.startswith("labels: ")]
    assert line.startswith("labels: 1 person used, 4 left out (")
    assert line in (output / "report.md").read_text()
    lost = "2 pictures with people can't be used; the numbers are of the others"
    partial = f"partial: {lost}"
    assert partial in result.output
    assert result.stderr.splitlines()[-1] == f"error: {lost}"
    assert partial in (output / "report.md").read_text()
    subject = json.loads((output / "metrics.json").read_text())["subject"]
    assert subject["left_out"] == {
        "crowd": 1,
        "without keypoints": 1,
        "whose picture is missing": 1,
        "whose picture can't be used": 1,
    }
    assert (subject["pictures"], subject["lost"]) == (1, 2)
    assert len(subject["notes"]) == 3  # ids that repeat, and the two pictures
    (tmp_path / "2.png").unlink()
    with pytest.raises(SharposeError, match=r"1\.png: can't be decoded"):
        run("--bundle", nano_bundle, *where, "--threads", 1, "--no-plots", "--output", tmp_path / "none")


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_inputs_are_never_overwritten(nano_bundle: Path, tmp_path: Path, overwrite: list[str]) -> None:
    output = tmp_path / "out"
    output.mkdir()
    labels = output / "results_auto.json"
    labels.write_text(json.dumps(labelled_pictures(tmp_path)))
    (tmp_path / "link.json").hardlink_to(labels)
    boxes = output / "metrics.json"
    boxes.write_text(json.dumps([{"image_id": 0, "bbox": [5, 5, 60, 85], "score": 0.5}]))
    (tmp_path / "labels.json").write_text(labels.read_text())
    before = {path: path.read_bytes() for path in (labels, boxes)}
    common: tuple[str | Path, ...] = (
        "--bundle",
        nano_bundle,
        "--images",
        tmp_path,
        "--no-plots",
        "--output",
        output,
        *overwrite,
    )
    for name in (labels, tmp_path / "link.json"):
        with pytest.raises(
            InputError, match=r"results_auto\.json would overwrite the input .*(results_auto|link)\.json"
        ):
            run(*common, "--annotations", name)
    labels.rename(tmp_path / "away.json")
    with pytest.raises(InputError, match=r"metrics\.json would overwrite the input .*metrics\.json"):
        run(*common, "--annotations", tmp_path / "labels.json", "--boxes", boxes)
    (tmp_path / "away.json").rename(labels)
    cv2.imwrite(str(output / "quality.png"), np.zeros((96, 72, 3), np.uint8))
    assert {path: path.read_bytes() for path in before} == before
    where = ("--annotations", tmp_path / "labels.json", "--images", output)
    for plots in ([], ["--no-plots"]):  # which removes those of an earlier run
        with pytest.raises(InputError, match=r"quality\.png would overwrite the input .*quality\.png"):
            run("--bundle", nano_bundle, *where, "--output", output, "--overwrite", *plots)
    assert {path: path.read_bytes() for path in before} == before


def test_pictures_after_the_limit_may_be_missing(nano_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(labelled_pictures(tmp_path)))
    (tmp_path / "2.png").unlink()
    where = ("--bundle", nano_bundle, "--annotations", tmp_path / "labels.json", "--images", tmp_path, "--no-plots")
    assert run(*where, "--limit", 2, "--output", tmp_path / "a").return_value == 0
    result = run(*where, "--limit", 3, "--output", tmp_path / "b")
    assert result.return_value == 3
    assert "partial: 1 picture with people can't be used" in result.output


@pytest.mark.parametrize("width", [60, 80])
def test_a_picture_of_another_size_than_its_labels_say_is_refused(
    nano_bundle: Path, tmp_path: Path, width: int
) -> None:
    labels = labelled_pictures(tmp_path)
    labels["images"][1]["width"] = width
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    where = ("--annotations", tmp_path / "labels.json", "--images", tmp_path)
    with pytest.raises(SourceError, match=rf"1\.png: expected \({width}, 96\) pixels .*, got \(72, 96\)"):
        run("--bundle", nano_bundle, *where, "--no-plots", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_label_that_is_no_number_is_refused(nano_bundle: Path, tmp_path: Path) -> None:
    labels = labelled_pictures(tmp_path)
    labels["annotations"][1]["keypoints"][3] = None
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    where = ("--annotations", tmp_path / "labels.json", "--images", tmp_path)
    with pytest.raises(SourceError, match=r"labels\.json: annotation 7: keypoints: left_eye: expected finite x, y"):
        run("--bundle", nano_bundle, *where, "--threads", 1, "--no-plots", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.shared
def test_the_shipped_bundle_is_as_good_on_photographs_as_its_model_card_says(shared_dir: Path, tmp_path: Path) -> None:
    folder = shared_dir / "data" / "coco_tiny"
    labels = folder / "annotations" / "person_keypoints_val2017.json"
    where = ("--annotations", labels, "--images", folder / "val2017")
    assert run(*where, "--no-plots", "--threads", 1, "--output", tmp_path / "out").return_value == 0
    modes = json.loads((tmp_path / "out" / "metrics.json").read_text())["modes"]
    ap = {mode: modes[mode]["coco"]["ap"] for mode in ("never", "auto", "always")}
    assert ap["always"] > 0.30
    assert ap["always"] - ap["auto"] < 0.01
    assert ap["never"] > 0.16

"""`sharpose-train` as a user starts it: alone, with torchrun, and with mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from sharpose.bundle import shipped_bundle
from sharpose.cli import EXIT_CODES, main
from sharpose.errors import ConfigError, SourceError
from sharpose.model import load_model
from sharpose.training.checkpoint import RunFolder
from sharpose.training.train_cli import command

MODULE = [sys.executable, "-m", "sharpose.training.train_cli"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "CUDA_VISIBLE_DEVICES": ""}


def train(
    *arguments: object, launcher: list[str] = MODULE, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [*launcher, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT, cwd=cwd, timeout=300)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def test_a_run_and_going_on(nano_recipe: Path, people_folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "run"
    common = [str(item) for item in (nano_recipe, "--data", people_folder, "--work-dir", work, "--device", "cpu")]
    done = CliRunner().invoke(command, [*common, "--set", "drop_path=0.1"], catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (0, ""), done.stderr
    assert "nano: 16 people, 3 epochs of 2 steps, batches of 8, on cpu in fp32" in done.stderr
    assert len(losses(work)) == 6
    assert yaml.safe_load((work / "recipe.yaml").read_text())["drop_path"] == 0.1
    assert {path.name for path in work.iterdir()} == {
        "last.pth",
        "best.pth",
        "training_state.pth",
        "train.jsonl",
        "recipe.yaml",
        "pictures",
    }
    for more, message in (
        ([*common, "--set", "drop_path=0.1"], "holds a run already"),
        ([*common, "--resume"], "has another drop_path"),
    ):
        refused = CliRunner().invoke(command, more)
        assert isinstance(refused.exception, ConfigError)
        assert message in str(refused.exception)
    others = [work / "recipe.yaml", "--data", people_folder, "--work-dir", tmp_path / "b", "--init", work / "last.pth"]
    others += ["--steps", "1"]
    started = CliRunner().invoke(command, [str(argument) for argument in others], catch_exceptions=False)
    assert started.exit_code == 0
    assert "SHaRPose weights: set 50 tensors" in started.output
    assert losses(tmp_path / "b")[0] < losses(work)[0]


@pytest.mark.soak
@pytest.mark.slow
def test_two_processes_equal_one_with_the_whole_batch(
    nano_recipe: Path, guidance: dict[str, Any], people_folder: Path, tmp_path: Path
) -> None:
    guidance |= {"share": 1, "final_share": 0.4, "final_factor": 0}  # none in the last epoch
    arguments = [nano_recipe, "--data", people_folder, "--device", "cpu", "--set", "loss.cross_entropy=0.1"]
    arguments += ["--set", f"guidance={json.dumps(guidance)}", "--set", "data.augmentation.contrast=0.3"]
    arguments += ["--set", "loss.dense=0.5", "--set", "loss.fine_from_epoch=1", "--work-dir"]
    alone = CliRunner().invoke(command, [*map(str, arguments), str(tmp_path / "one")], catch_exceptions=False)
    assert alone.exit_code == 0
    launcher = [*TORCHRUN, "-m", "sharpose.training.train_cli"]
    done = train(*arguments, tmp_path / "two", launcher=launcher, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 6
    assert two == pytest.approx(one, abs=1e-5)
    assert len(RunFolder(tmp_path / "two").read_state().ranks) == 2


def test_a_trial_of_a_few_steps_from_a_bundle(people_folder: Path, tmp_path: Path) -> None:
    values = {"batch_size": 2, "evaluate_every": 100, "workers": 0, "data.people_per_epoch": 6}
    part = {"kind": "coco", "annotations": "people.json", "images": "images"}
    changes = [f"{key}={value}" for key, value in values.items()]
    changes += [f"data.train=[{json.dumps(part)}]", "data.evaluation=[]", "guidance=null", "precision=fp32"]
    arguments = ["sharpose_tiny_shipped", "--data", people_folder, "--work-dir", tmp_path / "run", "--device", "cpu"]
    arguments += ["--init", shipped_bundle(), "--steps", 1, *(item for change in changes for item in ("--set", change))]
    done = CliRunner().invoke(command, [str(item) for item in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    assert "SHaRPose weights: set 122 tensors" in done.output
    assert "stopped after step 1 of" in done.output
    assert RunFolder(tmp_path / "run").read_state().step == 1
    start, end = (load_model(path).model.state_dict() for path in (shipped_bundle(), tmp_path / "run" / "last.pth"))
    name = "backbone.blocks.3.mlp.fc1.weight"
    assert 0 < (end[name] - start[name]).abs().max() < 0.05


def start_and_wait(arguments: list[object], folder: Path) -> subprocess.Popen[str]:
    """A long run that has written a checkpoint."""
    command = [*MODULE, *(str(argument) for argument in arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True)
    deadline = time.monotonic() + 400
    while not (folder / "last.pth").exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)])
def test_a_killed_run_leaves_readable_checkpoints(
    nano_recipe: Path, people_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    work = tmp_path / "run"
    arguments = [nano_recipe, "--data", people_folder, "--work-dir", work]
    arguments += ["--set", "checkpoint_every=1", "--set", "schedule.epochs=10000"]
    if number == signal.SIGTERM:
        arguments += ["--set", "workers=1"]
    process = start_and_wait(arguments, work)
    if number == signal.SIGTERM and sys.platform == "linux":
        os.killpg(process.pid, number)  # as systemd, Slurm and `timeout` do, so to the workers too
    else:
        process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 143)
    load_model(work / "last.pth")
    state = RunFolder(work).read_state()
    assert state.step >= 1
    if number == signal.SIGTERM:
        assert f"stopped after step {state.step} of 20000; continue with --resume" in messages
        assert "error" not in messages
        assert not [path for path in work.iterdir() if "unfinished" in path.name]


@pytest.mark.parametrize(
    ("number", "code", "message"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_that_ends_the_workers_first_is_the_signals_end(
    nano_recipe: Path,
    people_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
    message: str,
) -> None:
    def step(*_: object, **__: object) -> None:
        signal.raise_signal(number)
        raise RuntimeError(f"DataLoader worker (pid 7) is killed by signal: {number.name}. ")

    monkeypatch.setattr("sharpose.training.step.Stepper.step", step)
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    try:
        with pytest.raises(SystemExit) as caught:
            main(command, [str(nano_recipe), "--data", str(people_folder), "--work-dir", str(tmp_path / "run")])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert caught.value.code == code
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {message}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected CONFIG: a recipe's file, or one of sharpose_base_coco_256x192"),
        (["nothing", "--data", ".", "--work-dir", "w"], "no recipe 'nothing'"),
        (["RECIPE"], "expected --data DIR and --work-dir DIR"),
        (["RECIPE", "--data", "missing", "--work-dir", "w"], "--data missing: expected a folder"),
        (["RECIPE", "--data", ".", "--work-dir", "w", "--set", "lr=1"], "lr: unknown key"),
        (["RECIPE", "--data", ".", "--work-dir", "w", "--resume"], "found no training_state.pth"),
        (["RECIPE", "--data", ".", "--work-dir", "w", "--resume", "--init", "x"], "exclude each other"),
        (["RECIPE", "--data", ".", "--work-dir", "w", "--device", "tpu"], "expected cpu, cuda or cuda:INDEX"),
        (["RECIPE", "--data", ".", "--work-dir", "w", "--device", "cuda"], "no usable GPU"),
        (["RECIPE", "--data", ".", "--work-dir", "w"], "people.json: can't read the labels"),
        (
            ["RECIPE", "--data", "PEOPLE", "--work-dir", "w", "--init", "x.pth"],
            "--init x.pth: expected a .pth or .safetensors file",
        ),
        (["RECIPE", "--data", "PEOPLE", "--work-dir", "w", "--init", "."], "found a folder without bundle.json"),
        (
            [
                "RECIPE",
                "--data",
                "PEOPLE",
                "--work-dir",
                "w",
                "--set",
                "guidance={onnx: g.onnx, heatmaps: h, after_block: 1}",
            ],
            "found none",
        ),
        (["RECIPE", "--data", "PEOPLE", "--work-dir", "w", "--steps", "0"], "--steps"),
        (["RECIPE", "--data", "PEOPLE", "--work-dir", "/dev/null/w"], "can't be made: /dev/null is no folder"),
        (["RECIPE", "--data", "PEOPLE", "--work-dir", "w", "--set", "start.init_head_factor=0.1"], "give --init FILE"),
        (["RECIPE", "--data", "PEOPLE", "--work-dir", "w", "--set", "batch_size=64"], "fewer than a batch of 64"),
        (["RECIPE", "--data", "PEOPLE", "--work-dir", "w", "--set", "tensorboard=true"], "needs TensorBoard"),
    ],
)
def test_mistakes_are_one_line(
    nano_recipe: Path,
    people_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    names = {"RECIPE": str(nano_recipe), "PEOPLE": str(people_folder)}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            main(command, [names.get(argument, argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "w").exists()


def test_labels_are_checked_and_counted_before_the_first_step(
    nano_recipe: Path, people_folder: Path, tmp_path: Path
) -> None:
    labels = json.loads((people_folder / "people.json").read_text())
    labels["annotations"][2]["keypoints"][-1] = 0
    labels["annotations"][3]["iscrowd"] = 1
    labels["images"][4]["file_name"] = "absent.png"
    (tmp_path / "images").symlink_to(people_folder / "images")
    arguments = [str(nano_recipe), "--data", str(tmp_path), "--set", "schedule.epochs=1", "--work-dir"]
    (tmp_path / "people.json").write_text(json.dumps(labels))
    done = CliRunner().invoke(command, [*arguments, str(tmp_path / "run")], catch_exceptions=False)
    assert done.exit_code == 0
    counts = "people.json: 14 people used, 2 left out (1 crowd, 1 whose picture is missing)"
    lines = done.output.splitlines()
    assert lines.index(counts) < next(place for place, line in enumerate(lines) if line.startswith("nano: 14 people"))
    assert f"note: missing: {tmp_path / 'images' / 'absent.png'}" in lines

    refused = CliRunner().invoke(command, [*arguments, str(tmp_path / "b"), "--set", "data.max_undecodable=0"])
    assert "people.json: 1 of its pictures are missing, more than the 0 that data.max_undecodable allows" in str(
        refused.exception
    )
    labels["annotations"][5]["keypoints"][0] = None
    labels["annotations"][5]["keypoints"][2] = 2
    (tmp_path / "people.json").write_text(json.dumps(labels))
    refused = CliRunner().invoke(command, [*arguments, str(tmp_path / "c")])
    assert isinstance(refused.exception, SourceError)
    assert refused.exception.exit_code == 2
    assert "people.json: annotation 5: keypoints: nose: expected finite x, y" in str(refused.exception)
    assert not (tmp_path / "c" / "train.jsonl").exists()


def test_the_recipes_are_listed() -> None:
    result = CliRunner().invoke(command, ["--list"])
    assert result.exit_code == 0
    assert "sharpose_small_coco_256x192" in result.output.splitlines()

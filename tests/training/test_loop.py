"""Whole small runs: learning, going on after a stop, and what is left when something goes wrong."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from sharpose.errors import CheckpointError, ConfigError, SinkError, SourceError, TrainingError
from sharpose.model import SHaRPose, load_model
from sharpose.runtime.messages import StopRequest
from sharpose.training.checkpoint import RunFolder
from sharpose.training.data.loader import Batch
from sharpose.training.distributed import Ranks
from sharpose.training.loop import Trainer
from sharpose.training.objectives.guidance import GuidedNetwork
from sharpose.training.optimizer import MuonAdamW
from sharpose.training.recipe import evaluation_dataset, parse_recipe, training_dataset

ONE = Ranks(0, 1, torch.device("cpu"))


class StopAfter(StopRequest):
    """Asks to stop once it was looked at so often: at the end of that step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def make(values: dict[str, Any], data: Path, folder: Path, *, resume: bool = False) -> Trainer:
    recipe = parse_recipe(values, source="test")
    run = RunFolder(folder)
    run.check(resume=resume)
    run.make()
    torch.manual_seed(recipe.seed if not resume else 999)
    train = training_dataset(recipe.data, data, recipe.model.skeleton, recipe.seed)
    evaluation = evaluation_dataset(recipe.data, data, recipe.model.skeleton)
    trainer = Trainer(recipe, SHaRPose(recipe.model), train, evaluation, run, ONE, lambda line: None, data)
    if resume:
        trainer.resume()
    return trainer


def run(trainer: Trainer, stop: StopRequest | None = None) -> None:
    trainer.run(StopRequest() if stop is None else stop, Console(quiet=True))


def records(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


@pytest.mark.slow
def test_it_overfits(nano_values: dict[str, Any], people_folder: Path, tmp_path: Path) -> None:
    """Every keypoint of eight people within 5 % of their keypoints' diagonal, in both stages."""
    nano_values["data"]["train"][0]["limit"] = nano_values["data"]["evaluation"][0]["limit"] = 8
    nano_values["schedule"] = {"epochs": 180, "policy": "constant", "warmup_steps": 10}
    nano_values["loss"] = {"cross_entropy": 0.1, "dense": 1.0, "quality_after_epoch": 0}
    nano_values |= {"evaluate_every": 180, "checkpoint_every": 1000, "log_every": 30}
    run(make(nano_values, people_folder, tmp_path / "run"))
    (evaluation,) = records(tmp_path / "run", "evaluation")
    assert evaluation["coarse_pck_0.05"] > 0.95
    assert evaluation["fine_pck_0.05"] > 0.95
    losses = [record["loss"] for record in records(tmp_path / "run")]
    assert len(losses) == 6
    assert losses[-1] < 0.1 * losses[0]

    # what was kept is the released format, without the auxiliary head, and finds the same
    loaded = load_model(tmp_path / "run" / "best.pth")
    assert loaded.config.name == "nano"
    assert not any("dense" in key for key in loaded.model.state_dict())
    for name in ("predictions", "regions"):
        sheet = cv2.imread(str(tmp_path / "run" / "pictures" / f"epoch_0180_{name}.jpg"))
        assert sheet is not None
        assert sheet.shape == (2 * 128, 8 * 2 * 96 + 7 * 4, 3)
        assert np.std(sheet) > 10


def test_quality_counts_only_once_its_epoch_has_passed(
    nano_values: dict[str, Any], people_folder: Path, tmp_path: Path
) -> None:
    nano_values["loss"] = {"quality_after_epoch": 1, "quality": 1000.0}
    run(make(nano_values, people_folder, tmp_path / "run"))
    for record in records(tmp_path / "run"):
        heatmaps = record["coarse_mse"] + record["fine_mse"]
        expected = heatmaps + (1000.0 * record["quality"] if record["epoch"] > 1 else 0.0)
        assert record["loss"] == pytest.approx(expected, rel=1e-5)
    assert [record["epoch"] for record in records(tmp_path / "run")] == [0, 0, 1, 1, 2, 2]


FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "drop_path": 0.3,
        "ema_decay": 0.9,
        "accumulate": 2,
        "gradient_checkpointing": True,
        "precision": "bf16",
        "loss": {"cross_entropy": 0.1, "dense": 0.5, "quality_after_epoch": 0},
        "evaluate_every": 1,
    },
    "ours": {
        "ema_decay": 0.9,
        "precision": "bf16",
        "optimizer": {"kind": "muon", "learning_rate": 3.0e-3, "weight_decay": 0.05, "gradient_clip": 1.0},
        "loss": {"cross_entropy": 0.1, "dense": 0.5, "fine_from_epoch": 1, "quality_after_epoch": -1},
    },
    "guided": {"ema_decay": 0.9, "loss": {"fine_share": 0.5}},
}


@pytest.mark.parametrize("features", FEATURES)
def test_a_resumed_run_is_the_uninterrupted_run(
    nano_values: dict[str, Any],
    guidance: dict[str, Any],
    people_folder: Path,
    tmp_path: Path,
    features: str,
) -> None:
    nano_values |= FEATURES[features]
    if features == "guided":
        nano_values["guidance"] = guidance
    nano_values["log_every"] = 2  # a stop after three steps lies within a stretch of the log
    colours = {"brightness": 0.3, "colour": 0.1, "contrast": 0.3, "lightness": 10, "cut_out_probability": 0.5}
    nano_values["data"]["augmentation"] = colours  # and the released recipe's own: chance everywhere
    whole = make(nano_values, people_folder, tmp_path / "whole")
    run(whole)

    for parts, stop_after in (("at an epoch's end", 2), ("within an epoch", 3)):
        first = make(nano_values, people_folder, tmp_path / parts)
        run(first, StopAfter(stop_after))
        assert first.step == stop_after
        second = make(nano_values, people_folder, tmp_path / parts, resume=True)
        assert second.step == stop_after
        run(second)

        assert records(tmp_path / parts) == records(tmp_path / "whole")
        assert records(tmp_path / parts, "evaluation") == records(tmp_path / "whole", "evaluation")
        for name in ("last.pth", "best.pth"):
            one, other = (load_model(tmp_path / part / name).model.state_dict() for part in ("whole", parts))
            assert all(torch.equal(one[key], other[key]) for key in one), name
        ends = [RunFolder(tmp_path / part).read_state() for part in ("whole", parts)]
        assert all(torch.equal(ends[0].network[key], ends[1].network[key]) for key in ends[0].network)
        assert torch.equal(ends[0].ranks[0].cpu, ends[1].ranks[0].cpu)
        assert ends[0].ranks[0].loader == ends[1].ranks[0].loader


def test_a_run_of_an_older_version_goes_on(nano_values: dict[str, Any], people_folder: Path, tmp_path: Path) -> None:
    """Its state lacks the chosen precision and what a recipe has had since, and counts steps for all terms together."""
    nano_values |= {"precision": "bf16", "log_every": 2}
    run(make(nano_values, people_folder, tmp_path / "run"), StopAfter(1))
    path = tmp_path / "run" / "training_state.pth"
    content = torch.load(path, weights_only=True)
    del content["precision"]
    content["window"] = {"loss": 0.75, "steps": 3.0}
    recipe = json.loads(content["recipe"])
    for name in ("brightness", "colour", "contrast", "lightness", "cut_out_probability", "cut_out_sides"):
        del recipe["data"]["augmentation"][name]
    content["recipe"] = json.dumps(recipe)
    torch.save(content, path)
    second = make(nano_values, people_folder, tmp_path / "run", resume=True)
    assert (second.step, second.stepper.precision) == (1, "bf16")
    assert second._take_window(0.5) == {"epoch": 0, "learning_rate": 0.5, "loss": 0.25}
    nano_values["data"]["augmentation"]["contrast"] = 0.3
    with pytest.raises(ConfigError, match="has another data"):
        make(nano_values, people_folder, tmp_path / "run", resume=True)


@pytest.mark.parametrize(("seconds", "chosen"), [((3.0, 2.0), "bf16"), ((2.0, 3.0), "fp32")])
def test_precision_auto_takes_the_faster_and_keeps_to_it(
    nano_values: dict[str, Any],
    people_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: tuple[float, float],
    chosen: str,
) -> None:
    passes = iter(range(1000))
    ends = itertools.accumulate(value for _ in passes for one in seconds for value in (0.0, one))
    nano_values["precision"] = "auto"
    nano_values["optimizer"] = {"kind": "muon", "learning_rate": 3.0e-3}
    trainer = make(nano_values, people_folder, tmp_path / "run")
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    lines: list[str] = []
    trainer._say = lines.append
    with monkeypatch.context() as patched:
        patched.setattr(time, "perf_counter", lambda: next(ends))
        state = torch.get_rng_state()
        trainer._prepare()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.state_dict().items())
    expected = f"of 8 people {seconds[0]:g} s in fp32, {seconds[1]:g} s in bf16: {chosen}"
    assert lines == [f"precision auto: forward and backward pass {expected}"]
    assert trainer.stepper.precision == chosen
    assert isinstance(trainer.stepper.optimizer, MuonAdamW)
    assert trainer.stepper.optimizer.dtype == (torch.bfloat16 if chosen == "bf16" else torch.float32)
    run(trainer, StopAfter(2))
    second = make(nano_values, people_folder, tmp_path / "run", resume=True)
    assert second.stepper.precision == chosen
    run(second)
    nano_values["precision"] = chosen
    run(make(nano_values, people_folder, tmp_path / "told"))
    assert records(tmp_path / "run") == records(tmp_path / "told")


def test_features_are_learnt_in_training_alone(
    nano_values: dict[str, Any], guidance: dict[str, Any], people_folder: Path, tmp_path: Path
) -> None:
    """Errors begin at their variance and fall; a line says who guides; checkpoints hold the model alone."""
    nano_values |= {"guidance": guidance | {"share": 1, "final_share": 0, "weight": 5.0}, "log_every": 2}
    nano_values["schedule"] = {"epochs": 12, "policy": "constant", "warmup_steps": 2}
    nano_values["loss"] = {"mse": 1e-3, "quality_after_epoch": 100}
    trainer = make(nano_values, people_folder, tmp_path / "run")
    assert isinstance(trainer.network, GuidedNetwork)
    assert (
        trainer.network.teacher.description
        == "guidance by deep, mid, heat of guide.onnx at 128x96, CPUExecutionProvider"
    )
    run(trainer)
    first, *_, last = records(tmp_path / "run")
    assert first["guidance_region_features"] == pytest.approx(1, abs=0.2)
    for name in ("guidance_region_features", "guidance_patch_features", "guidance_heatmaps"):
        assert last[name] < 0.8 * first[name], name
    (evaluation,) = records(tmp_path / "run", "evaluation")
    assert not any("guidance" in name for name in evaluation)
    state = RunFolder(tmp_path / "run").read_state().network
    assert state["guided.region_features.linear.weight"].shape == (3, 48)
    assert state["guided.region_features.mean"].min() > 0
    assert set(load_model(tmp_path / "run" / "last.pth").model.state_dict()) == {
        name.removeprefix("pose.") for name in state if name.startswith("pose.")
    }


def test_a_limit_of_steps_stops_and_saves(nano_values: dict[str, Any], people_folder: Path, tmp_path: Path) -> None:
    whole = make(nano_values, people_folder, tmp_path / "whole")
    run(whole)
    first = make(nano_values, people_folder, tmp_path / "run")
    lines: list[str] = []
    first._say = lines.append
    first.run(StopRequest(), Console(quiet=True), steps=1)
    assert lines == ["stopped after step 1 of 6; continue with --resume"]
    second = make(nano_values, people_folder, tmp_path / "run", resume=True)
    second.run(StopRequest(), Console(quiet=True), steps=2)
    assert RunFolder(tmp_path / "run").read_state().step == 3
    third = make(nano_values, people_folder, tmp_path / "run", resume=True)
    third.run(StopRequest(), Console(quiet=True), steps=100)
    assert records(tmp_path / "run") == records(tmp_path / "whole")


def test_accumulated_batches_equal_a_large_one(
    nano_values: dict[str, Any], people_folder: Path, tmp_path: Path
) -> None:
    losses = []
    for accumulate in (1, 2):
        nano_values["accumulate"] = accumulate
        folder = tmp_path / str(accumulate)
        run(make(nano_values, people_folder, folder))
        losses.append([record["loss"] for record in records(folder)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_averaged_weights_are_what_is_kept(nano_values: dict[str, Any], people_folder: Path, tmp_path: Path) -> None:
    nano_values["ema_decay"] = 0.9
    trainer = make(nano_values, people_folder, tmp_path / "run")
    run(trainer)
    kept = load_model(tmp_path / "run" / "last.pth").model.state_dict()
    assert trainer.average is not None
    name = "keypoint_head.heatmap_mlp.1.weight"
    assert torch.equal(kept[name], trainer.average.weights[name])
    assert not torch.equal(kept[name], trainer.network.pose.state_dict()[name])


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_last_checkpoint(
    nano_values: dict[str, Any], people_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nano_values["checkpoint_every"] = 1
    trainer = make(nano_values, people_folder, tmp_path / "run")
    run(trainer, StopAfter(2))
    before = {path.name: path.read_bytes() for path in (trainer.folder.last, trainer.folder.state)}
    second = make(nano_values, people_folder, tmp_path / "run", resume=True)

    def poisoned(batch: Batch, device: torch.device, *, non_blocking: bool = False) -> Batch:
        batch.targets[0, 0] = float("nan")
        return batch

    monkeypatch.setattr(Batch, "to", poisoned)
    with pytest.raises(TrainingError, match=r"the loss is not a finite number \(loss nan.*--resume"):
        run(second)
    assert {path.name: path.read_bytes() for path in (trainer.folder.last, trainer.folder.state)} == before
    load_model(trainer.folder.last)


def test_weights_that_are_no_numbers_are_never_saved(
    nano_values: dict[str, Any], people_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(nano_values, people_folder, tmp_path / "run")
    trainer.save()
    before = trainer.folder.last.read_bytes()
    with torch.no_grad():
        trainer.network.pose.backbone.norm.weight[3] = float("inf")
    with pytest.raises(TrainingError, match=r"NaN or infinity in 1 weight \(pose.backbone.norm.weight"):
        trainer.save()
    assert trainer.folder.last.read_bytes() == before


def test_a_full_disk_leaves_the_earlier_checkpoint(
    nano_values: dict[str, Any], people_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nano_values["checkpoint_every"] = 1
    trainer = make(nano_values, people_folder, tmp_path / "run")
    run(trainer, StopAfter(1))
    second = make(nano_values, people_folder, tmp_path / "run", resume=True)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(SinkError, match="No space left on device") as caught:
            run(second)
    assert caught.value.exit_code == 3
    load_model(trainer.folder.last)
    third = make(nano_values, people_folder, tmp_path / "run", resume=True)
    assert third.step == 1
    run(third)
    assert [record["step"] for record in records(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_resuming_another_run_is_refused(nano_values: dict[str, Any], people_folder: Path, tmp_path: Path) -> None:
    run(make(nano_values, people_folder, tmp_path / "run"), StopAfter(1))
    with pytest.raises(ConfigError, match="holds a run already"):
        make(nano_values, people_folder, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"has another seed, drop_path|has another drop_path, seed"):
        make(nano_values | {"seed": 3, "drop_path": 0.2}, people_folder, tmp_path / "run", resume=True)
    make(nano_values | {"log_every": 7, "workers": 0}, people_folder, tmp_path / "run", resume=True)
    state = tmp_path / "run" / "training_state.pth"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not a readable training state"):
        make(nano_values, people_folder, tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=r"found no training_state\.pth"):
        make(nano_values, people_folder, tmp_path / "nothing", resume=True)


def test_a_state_that_no_run_has_written_is_refused(
    nano_values: dict[str, Any], people_folder: Path, tmp_path: Path
) -> None:
    run(make(nano_values, people_folder, tmp_path / "run"), StopAfter(1))
    path = tmp_path / "run" / "training_state.pth"
    whole = torch.load(path, weights_only=True)
    (rank,) = whole["ranks"]
    moments = {number: {**values, "exp_avg": torch.zeros(7)} for number, values in whole["optimizer"]["state"].items()}
    changes: list[dict[str, Any]] = [
        {"step": "1"},
        {"step": -1},
        {"best": "0.5"},
        {"recipe": "{"},
        {"recipe": "[]"},
        {"recipe": 5},
        {"network": []},
        {"network": {"pose.x": 1}},
        {"network": {}},
        {"optimizer": 3},
        {"optimizer": {}},
        {"optimizer": {**whole["optimizer"], "state": moments}},
        {"average": [1]},
        {"window": {"loss": None}},
        {"window": {"loss": (1.0, 0)}},
        {"ranks": 5},
        {"ranks": [{}]},
        {"ranks": [rank | {"loader": 5}]},
        {"ranks": [rank | {"loader": rank["loader"] | {"batch": 10**9}}]},
        {"ranks": [rank | {"cpu": torch.zeros(3)}]},
        {"precision": "fp8"},
    ]
    for change in changes:
        torch.save(whole | change, path)
        with pytest.raises((CheckpointError, ConfigError)) as caught:
            make(nano_values, people_folder, tmp_path / "run", resume=True)
        assert str(path) in str(caught.value) or "--resume: the run in" in str(caught.value), change
    for key in whole:
        torch.save({name: value for name, value in whole.items() if name not in (key, "precision")}, path)
        if key != "precision":
            with pytest.raises(CheckpointError, match=re.escape(str(path))):
                make(nano_values, people_folder, tmp_path / "run", resume=True)
    torch.save(whole, path)
    assert make(nano_values, people_folder, tmp_path / "run", resume=True).step == 1


def test_half_precision_learns_the_same_thing(nano_values: dict[str, Any], people_folder: Path, tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16", "fp16"):
        nano_values["precision"] = precision
        run(make(nano_values, people_folder, tmp_path / precision))
        losses[precision] = [record["loss"] for record in records(tmp_path / precision)]
    assert losses["bf16"] != losses["fp32"]
    # fp16's scaler leaves out the first steps, whose scaled gradients overflow: only the first loss can be compared
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.1)
    assert losses["fp16"][0] == pytest.approx(losses["fp32"][0], rel=0.02)


def test_clipping_limits_the_gradient(nano_values: dict[str, Any], people_folder: Path, tmp_path: Path) -> None:
    nano_values["optimizer"] |= {"gradient_clip": 1e-4}
    trainer = make(nano_values, people_folder, tmp_path / "run")
    run(trainer)
    assert all(record["gradient_norm"] > 1e-4 for record in records(tmp_path / "run"))
    norms = [parameter.grad.norm() for parameter in trainer.network.parameters() if parameter.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(1e-4, rel=1e-3)


def test_the_fine_stage_counts_from_its_epoch_on(
    nano_values: dict[str, Any], people_folder: Path, tmp_path: Path
) -> None:
    nano_values["loss"] = {"fine_from_epoch": 1, "quality_after_epoch": 100}
    nano_values["log_every"] = 2  # an epoch
    run(make(nano_values, people_folder, tmp_path / "run"))
    first, *others = records(tmp_path / "run")
    assert "fine_mse" not in first
    assert first["loss"] == pytest.approx(first["coarse_mse"], rel=1e-6)
    for record in others:
        assert record["loss"] == pytest.approx(record["coarse_mse"] + record["fine_mse"], rel=1e-6)


def test_a_term_is_averaged_over_the_steps_that_have_it(
    nano_values: dict[str, Any], people_folder: Path, tmp_path: Path
) -> None:
    nano_values["loss"] = {"fine_from_epoch": 1, "quality_after_epoch": 100}  # from the third step on
    found = []
    for every in (1, 3):
        nano_values["log_every"] = every
        make(nano_values, people_folder, tmp_path / str(every)).run(StopRequest(), Console(quiet=True), steps=3)
        found.append(records(tmp_path / str(every)))
    steps, (line,) = found
    assert line["fine_mse"] == pytest.approx(steps[2]["fine_mse"])
    assert line["coarse_mse"] == pytest.approx(np.mean([step["coarse_mse"] for step in steps]))


def test_pictures_that_cannot_be_used_are_named(
    nano_values: dict[str, Any], people_folder: Path, tmp_path: Path
) -> None:
    """Where a run stops, too, and where it fails."""
    data = Path(shutil.copytree(people_folder, tmp_path / "data"))
    broken = [data / "images" / item["file_name"] for item in json.loads((data / "people.json").read_text())["images"]]
    for file in broken[:2]:
        file.write_bytes(b"no picture")
    nano_values["evaluate_every"] = 1
    trainer = make(nano_values, data, tmp_path / "run")
    lines: list[str] = []
    trainer._say = lines.append
    trainer.run(StopRequest(), Console(quiet=True), steps=4)
    messages = [f"picture {file}: can't be decoded" for file in broken[:2]]
    assert lines[:2] == [f"left out of evaluations: {message}" for message in messages]
    assert [line.partition(" ")[0] for line in lines[2:5]] == ["epoch", "epoch", "stopped"]
    # in two epochs; the second stood in for the first, too
    assert sorted(lines[5:]) == [f"skipped: {messages[0]} (2 times)", f"skipped: {messages[1]} (4 times)"]

    nano_values["data"]["max_undecodable"] = 1
    trainer = make(nano_values, data, tmp_path / "failing")
    lines.clear()
    trainer._say = lines.append
    with pytest.raises(SourceError, match="2 pictures can't be decoded, more than the 1 allowed"):
        run(trainer)
    assert sorted(line.rpartition(" (")[0] for line in lines) == [f"skipped: {message}" for message in messages]


def test_a_teacher_is_measured_on_the_device_that_trains(
    nano_values: dict[str, Any],
    guidance: dict[str, Any],
    people_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = make(nano_values | {"guidance": guidance}, people_folder, tmp_path / "run")
    seen: list[str] = []
    monkeypatch.setattr(
        trainer.network, "measure", lambda batches, mean: seen.extend(images.device.type for images in batches)
    )
    trainer.ranks = Ranks(0, 1, torch.device("meta"))
    trainer._prepare()
    assert seen == ["meta", "meta"]

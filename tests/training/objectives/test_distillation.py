"""Teachers that are real ONNX graphs, small enough that what they say is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from sharpose.config import ModelConfig
from sharpose.errors import ConfigError
from sharpose.heatmap import decode_heatmaps
from sharpose.training.objectives.distillation import Distillation, DistillationRecipe
from sharpose.training.objectives.pose import heatmap_targets
from sharpose.training.train_cli import command

CPU = torch.device("cpu")


def write_graph(
    path: Path,
    constants: list[np.ndarray[Any, np.dtype[np.float32]]],
    size: tuple[int, int] = (128, 96),
    batch: str | int = "batch",
    *,
    as_bytes: bool = False,
) -> Path:
    """A graph that answers every crop with the same constants [1, …], plus zero times the crop's mean."""
    kind, shape = (TensorProto.UINT8, [*size, 3]) if as_bytes else (TensorProto.FLOAT, [3, *size])
    image = helper.make_tensor_value_info("image", kind, [batch, *shape])
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    initializers = [numpy_helper.from_array(np.zeros(1, np.float32), "zero")]
    outputs = []
    for index, constant in enumerate(constants):
        initializers.append(numpy_helper.from_array(constant.astype(np.float32), f"c{index}"))
        source = "nothing"
        if constant.ndim == 3:
            nodes.append(helper.make_node("Squeeze", ["nothing", "axis"], [f"n{index}"]))
            source = f"n{index}"
        nodes.append(helper.make_node("Add", [f"c{index}", source], [f"out{index}"]))
        answer = [batch, *constant.shape[1:]]
        outputs.append(helper.make_tensor_value_info(f"out{index}", TensorProto.FLOAT, answer))
    initializers.append(numpy_helper.from_array(np.array([3], np.int64), "axis"))
    graph = helper.make_graph(nodes, "teacher", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def keypoints() -> np.ndarray[Any, np.dtype[np.float32]]:
    """[17, 3] well inside a crop of 128 x 96."""
    rng = np.random.default_rng(0)
    return np.stack([rng.uniform(20, 75, 17), rng.uniform(20, 105, 17), np.full(17, 0.9)], axis=1).astype(np.float32)


IMAGES = torch.zeros(3, 128, 96, 3, dtype=torch.uint8)


def test_a_teacher_with_keypoints(nano_config: ModelConfig, keypoints: Any, tmp_path: Path) -> None:
    keypoints[4, 2] = 0.1
    path = write_graph(tmp_path / "k.onnx", [keypoints[None]])
    targets, weights = Distillation(DistillationRecipe(onnx=str(path)), nano_config, 2.0, CPU)(IMAGES)
    expected, _ = heatmap_targets(keypoints, (128, 96), (32, 24))
    assert weights.tolist() == [[float(index != 4) for index in range(17)]] * 3
    known = [index for index in range(17) if index != 4]
    np.testing.assert_allclose(targets[2, known], expected[known], atol=1e-6)


def test_a_larger_teacher_with_a_fixed_batch(nano_config: ModelConfig, keypoints: Any, tmp_path: Path) -> None:
    """Heatmaps of twice the size mark the same places; three crops go through in batches of two."""
    large = keypoints * np.array([191 / 95, 255 / 127, 1], np.float32)
    heatmaps, _ = heatmap_targets(large, (256, 192), (64, 48), 4.0)
    path = write_graph(tmp_path / "h.onnx", [heatmaps[None]], (256, 192), batch=2)
    teacher = Distillation(DistillationRecipe(onnx=str(path)), nano_config, 2.0, CPU)
    targets, weights = teacher(IMAGES)
    assert targets.shape == (3, 17, 32, 24)
    assert weights.min() == 1
    found = decode_heatmaps(targets.numpy(), (128, 96))
    assert np.abs(found[2, :, :2] - keypoints[:, :2]).max() < 0.5
    assert "heatmaps at 256x192, CPUExecutionProvider" in teacher.description


def test_a_teacher_with_simcc(nano_config: ModelConfig, keypoints: Any, tmp_path: Path) -> None:
    x, y = np.zeros((1, 17, 192), np.float32), np.zeros((1, 17, 256), np.float32)  # two bins a pixel
    for joint, (px, py, _) in enumerate(keypoints):
        x[0, joint, round(2 * px)] = y[0, joint, round(2 * py)] = 0.8
    path = write_graph(tmp_path / "s.onnx", [x, y])
    targets, weights = Distillation(DistillationRecipe(onnx=str(path)), nano_config, 2.0, CPU)(IMAGES)
    assert weights.min() == 1
    found = decode_heatmaps(targets.numpy(), (128, 96))
    assert np.abs(found[0, :, :2] - keypoints[:, :2]).max() < 0.6


def test_pixels_are_normalised_as_the_recipe_says(nano_config: ModelConfig, keypoints: Any, tmp_path: Path) -> None:
    path = write_graph(tmp_path / "k.onnx", [keypoints[None]])
    recipe = DistillationRecipe(onnx=str(path), bgr=True, pixel_mean=(0.1, 0.2, 0.3), pixel_std=(0.5, 1.0, 2.0))
    images = torch.tensor([51, 102, 255], dtype=torch.uint8).expand(1, 128, 96, 3)
    fed = Distillation(recipe, nano_config, 2.0, CPU)._teacher.pixels(images)
    assert fed.shape == (1, 3, 128, 96)
    np.testing.assert_allclose(fed[0, :, 5, 5], [(1.0 - 0.3) / 2.0, (0.4 - 0.2) / 1.0, (0.2 - 0.1) / 0.5], rtol=1e-5)


def test_a_teacher_that_normalises_itself_is_told_nothing(
    nano_config: ModelConfig, keypoints: Any, tmp_path: Path
) -> None:
    path = write_graph(tmp_path / "k.onnx", [keypoints[None]], as_bytes=True)
    images = torch.tensor([51, 102, 255], dtype=torch.uint8).expand(1, 128, 96, 3)
    fed = Distillation(DistillationRecipe(onnx=str(path)), nano_config, 2.0, CPU)._teacher.pixels(images)
    assert (str(fed.dtype), fed.shape) == ("uint8", (1, 128, 96, 3))
    assert fed[0, 5, 5].tolist() == [51, 102, 255]
    changes: list[tuple[dict[str, Any], str]] = [
        ({"bgr": True}, "bgr"),
        ({"pixel_mean": (0, 0, 0), "pixel_std": (1, 1, 1)}, "pixel_mean, pixel_std"),
    ]
    for values, names in changes:
        recipe = DistillationRecipe(onnx=str(path), **values)
        with pytest.raises(ConfigError, match=rf"takes uint8 .*, RGB, which it normalises itself; leave {names} out"):
            Distillation(recipe, nano_config, 2.0, CPU)


def test_it_runs_on_the_gpu_of_its_process(
    nano_config: ModelConfig, keypoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def session(path: str, options: object, providers: list[Any]) -> None:
        given.append(providers)
        raise RuntimeError("no GPU here")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    recipe = DistillationRecipe(onnx=str(write_graph(tmp_path / "k.onnx", [keypoints[None]])))
    for device in ("cuda:3", "cuda", "cpu"):
        with pytest.raises(ConfigError, match="no GPU here"):
            Distillation(recipe, nano_config, 2.0, torch.device(device))
    first = [providers[0] for providers in given]
    assert first == [("CUDAExecutionProvider", {"device_id": number}) for number in "30"] + ["CPUExecutionProvider"]


def test_what_is_no_teacher_is_named(nano_config: ModelConfig, keypoints: Any, tmp_path: Path) -> None:
    def open_it(path: Path) -> None:
        Distillation(DistillationRecipe(onnx=str(path)), nano_config, 2.0, CPU)

    with pytest.raises(ConfigError, match="expected an ONNX file, found none"):
        open_it(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(ConfigError, match="ONNX Runtime can't load it"):
        open_it(tmp_path / "bad.onnx")
    with pytest.raises(ConfigError, match=r"keypoints \[B, 17, 2 or 3\].*it has out0 \['batch', 16, 3\]"):
        open_it(write_graph(tmp_path / "mpii.onnx", [keypoints[None, :16]]))
    with pytest.raises(ConfigError, match=r"student's aspect \(128x96\), it takes 192x192"):
        open_it(write_graph(tmp_path / "square.onnx", [keypoints[None]], (192, 192)))


@pytest.mark.soak
def test_a_student_learns_from_it(
    nano_values: dict[str, Any], people_folder: Path, keypoints: Any, tmp_path: Path
) -> None:
    """Labels switched off (their weight is next to nothing), the student comes to say what the teacher says."""
    path = write_graph(tmp_path / "k.onnx", [keypoints[None]])
    nano_values["teacher"] = {"onnx": str(path), "weight": 1.0}
    nano_values["loss"] = {"mse": 1e-6, "quality_after_epoch": 100}
    nano_values["schedule"] = {"epochs": 8, "policy": "constant", "warmup_steps": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(nano_values))
    arguments = ["--data", people_folder, "--work-dir", tmp_path / "run", "--device", "cpu"]
    result = CliRunner().invoke(command, [str(item) for item in (tmp_path / "recipe.yaml", *arguments)])
    assert result.exit_code == 0, result.output
    assert "keypoints at 128x96, CPUExecutionProvider" in result.output
    records = [json.loads(line) for line in (tmp_path / "run" / "train.jsonl").read_text().splitlines()]
    errors = [record["teacher_mse"] for record in records if record["kind"] == "train"]
    assert errors[-1] < 0.5 * errors[0]

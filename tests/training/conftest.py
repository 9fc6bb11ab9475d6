"""For the tests of training: a few drawn people as COCO files, and a recipe that is done in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from drawn_people import write_people
from onnx import TensorProto, helper, numpy_helper

PEOPLE = 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The models are so small that threads only wait for one another; and sums are then the same every time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def people_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`people.json` and `images/`: 16 people of the scene, small pictures."""
    folder = tmp_path_factory.mktemp("people")
    write_people(folder / "people.json", PEOPLE, {"id": 1, "name": "person"})
    return folder


@pytest.fixture
def nano_values() -> dict[str, object]:
    """A recipe's plain values: a model of two blocks, 8 people a step, 2 steps an epoch, no augmentation."""
    part = {"kind": "coco", "annotations": "people.json", "images": "images"}
    return {
        "model": {
            "name": "nano",
            "skeleton": "coco17",
            "crop_size": [128, 96],
            "width": 48,
            "depth": 2,
            "heads": 4,
            "alpha": 0.5,
            "quality_threshold": 0.99,
        },
        "batch_size": 8,
        "schedule": {"epochs": 3, "policy": "cosine", "warmup_steps": 2},
        "optimizer": {"learning_rate": 3.0e-3, "layer_decay": 0.9},
        "loss": {"quality_after_epoch": 0},
        "drop_path": 0.0,
        "workers": 0,
        "evaluate_every": 100,
        "log_every": 1,
        "data": {
            "train": [part],
            "evaluation": [part | {"limit": 4}],
            "augmentation": {
                "shift_probability": 0,
                "flip_probability": 0,
                "half_body_probability": 0,
                "scale": 0,
                "rotation": 0,
                "rotation_probability": 0,
            },
        },
    }


@pytest.fixture(scope="session")
def guide_onnx(people_folder: Path) -> Path:
    """`guide.onnx` beside the people: a teacher whose features are the mean colours of squares of a crop, 0 to 255.

    `deep` [B, 3, h/32, w/32], `mid` [B, 3, h/16, w/16], and `heat` [B, 17, h/4, w/4]: 0.9 where red is above 128.
    """
    free = {"image": 3, "deep": 3, "mid": 3, "heat": 17}
    ends = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", channels, f"{name} h", f"{name} w"])
        for name, channels in free.items()
    }
    nodes = [
        helper.make_node("AveragePool", ["image"], [name], kernel_shape=[side, side], strides=[side, side])
        for name, side in (("deep", 32), ("mid", 16), ("quarter", 4))
    ]
    nodes += [
        helper.make_node("Conv", ["quarter", "reds"], ["red"], kernel_shape=[1, 1]),
        helper.make_node("Greater", ["red", "half"], ["is red"]),
        helper.make_node("Where", ["is red", "high", "low"], ["heat"]),
    ]
    reds = np.zeros((17, 3, 1, 1), np.float32)
    reds[:, 0] = 1
    constants = {"reds": reds, "half": np.float32(128), "high": np.float32(0.9), "low": np.float32(0)}
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    image = ends.pop("image")
    graph = helper.make_graph(nodes, "guide", [image], list(ends.values()), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path = people_folder / "guide.onnx"
    onnx.save(model, str(path))
    return path


@pytest.fixture
def guidance(guide_onnx: Path) -> dict[str, object]:
    """A recipe's part that learns all outputs of that teacher, after the first block."""
    return {
        "onnx": guide_onnx.name,
        "pixel_mean": [0, 0, 0],
        "pixel_std": [1 / 255] * 3,
        "region_features": "deep",
        "patch_features": "mid",
        "heatmaps": "heat",
        "after_block": 1,
        "share": 0.5,
        "measured_people": 16,
    }


@pytest.fixture
def nano_recipe(nano_values: dict[str, object], tmp_path: Path) -> Path:
    """The same as a file."""
    path = tmp_path / "nano.yaml"
    path.write_text(yaml.safe_dump(nano_values))
    return path

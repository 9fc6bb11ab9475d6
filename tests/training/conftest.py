"""For the tests of training: a few drawn people as COCO files, and a recipe that is done in seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
import yaml

from sharpose.training.data.scene import SceneDataset

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
    (folder / "images").mkdir()
    dataset = SceneDataset(5, PEOPLE)
    images, annotations = [], []
    for index in range(PEOPLE):
        sample = dataset.load(index)
        height, width = sample.image_bgr.shape[:2]
        assert cv2.imwrite(str(folder / "images" / f"{index}.png"), sample.image_bgr)
        x1, y1, x2, y2 = (float(value) for value in sample.box_xyxy)
        images.append({"id": index, "file_name": f"{index}.png", "height": height, "width": width})
        annotations.append(
            {
                "id": index,
                "image_id": index,
                "category_id": 1,
                "iscrowd": 0,
                "area": 0.53 * (x2 - x1) * (y2 - y1),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "keypoints": [float(value) for value in sample.keypoints.reshape(-1)],
                "num_keypoints": int((sample.keypoints[:, 2] > 0).sum()),
            }
        )
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (folder / "people.json").write_text(json.dumps(document))
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


@pytest.fixture
def nano_recipe(nano_values: dict[str, object], tmp_path: Path) -> Path:
    """The same as a file."""
    path = tmp_path / "nano.yaml"
    path.write_text(yaml.safe_dump(nano_values))
    return path

"""Pictures and labels on disk, small enough for every test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sharpose.skeleton import COCO17
from sharpose.training.data.coco import CocoDataset


def coco_document(people: int) -> dict[str, Any]:
    """One person a picture of 120 x 90 pixels, 17 labels each."""
    rng = np.random.default_rng(3)
    annotations = []
    for number in range(people):
        points = np.column_stack([rng.uniform(20, 80, 17), rng.uniform(10, 80, 17), rng.integers(1, 3, 17)])
        annotations.append(
            {
                "id": 100 + number,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [15.0, 5.0, 70.0, 80.0],
                "area": 3000.0,
                "num_keypoints": 17,
                "keypoints": points.round(2).ravel().tolist(),
            }
        )
    images = [{"id": n, "file_name": f"{n}.png", "width": 120, "height": 90} for n in range(people)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}


@pytest.fixture
def coco_folder(tmp_path: Path) -> Path:
    """`labels.json` and the pictures of 13 people."""
    document = coco_document(13)
    rng = np.random.default_rng(4)
    for image in document["images"]:
        blocks = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
        picture = cv2.resize(blocks, (image["width"], image["height"]), interpolation=cv2.INTER_LINEAR)
        cv2.imwrite(str(tmp_path / image["file_name"]), picture)
    (tmp_path / "labels.json").write_text(json.dumps(document))
    return tmp_path


@pytest.fixture
def coco_dataset(coco_folder: Path) -> CocoDataset:
    """The 13 people."""
    return CocoDataset(coco_folder / "labels.json", coco_folder, COCO17)

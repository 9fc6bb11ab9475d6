"""Drawn people as COCO labels with their pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import cv2

from sharpose.skeleton import COCO17, Skeleton
from sharpose.training.data.scene import SceneDataset


def write_people(labels: Path, people: int, category: Mapping[str, object], skeleton: Skeleton = COCO17) -> None:
    """Write a label file, and `images/` beside it with a small picture of each person, `0.png` and so on."""
    images_folder = labels.parent / "images"
    images_folder.mkdir()
    dataset = SceneDataset(5, people, skeleton=skeleton)
    images, annotations = [], []
    for index in range(people):
        sample = dataset.load(index)
        height, width = sample.image_bgr.shape[:2]
        assert cv2.imwrite(str(images_folder / f"{index}.png"), sample.image_bgr)
        x1, y1, x2, y2 = (float(value) for value in sample.box_xyxy)
        images.append({"id": index, "file_name": f"{index}.png", "height": height, "width": width})
        annotations.append(
            {
                "id": index,
                "image_id": index,
                "category_id": category["id"],
                "iscrowd": 0,
                "area": 0.53 * (x2 - x1) * (y2 - y1),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "keypoints": [float(value) for value in sample.keypoints.ravel()],
                "num_keypoints": int((sample.keypoints[:, 2] > 0).sum()),
            }
        )
    document = {"images": images, "annotations": annotations, "categories": [dict(category)]}
    labels.write_text(json.dumps(document))

"""Labelled people in pictures that need no file, and poses for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sharpose.geometry import crop_frames
from sharpose.skeleton import COCO17
from sharpose.training.evaluation.data import EvaluationData, People
from sharpose.training.evaluation.predict import Predictions


def make_data(pictures: int, people: int = 1, seed: int = 0) -> EvaluationData:
    """`people` labelled people in each picture of 400 x 300 pixels, far from each other, every keypoint labelled."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    for image_id in range(pictures):
        for person in range(people):
            left = 10.0 + 130 * person
            points = np.column_stack([rng.uniform(left, left + 100, 17), rng.uniform(20, 280, 17), np.full(17, 2)])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [left, 20.0, 100.0, 260.0],
                    "area": 13000.0,
                    "num_keypoints": 17,
                    "keypoints": points.astype(np.float32).ravel().tolist(),
                }
            )
    boxes = np.array([item["bbox"] for item in annotations], np.float32)
    boxes[:, 2:] += boxes[:, :2]
    table = People(
        image_ids=np.array([item["image_id"] for item in annotations], np.int64),
        boxes_xyxy=boxes,
        box_scores=np.ones(len(boxes), np.float32),
        keypoints=np.array([item["keypoints"] for item in annotations], np.float32).reshape(-1, 17, 3),
        areas=np.full(len(boxes), 13000.0),
        head_sizes=np.full(len(boxes), np.nan),
        labelled=True,
    )
    images = [{"id": number, "file_name": f"{number}.png", "width": 400, "height": 300} for number in range(pictures)]
    return EvaluationData(
        name="made up",
        skeleton=COCO17,
        people=table,
        image_ids=tuple(range(pictures)),
        document={"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]},
        read=lambda image_id: np.full((300, 400, 3), image_id, np.uint8),
    )


def make_predictions(data: EvaluationData, seed: int = 0, coarse: float = 25.0, fine: float = 6.0) -> Predictions:
    """Noisy poses; quality knows, roughly, how far off the coarse one is."""
    rng = np.random.default_rng(seed)
    people = data.people
    count = len(people)
    scale = rng.uniform(0.1, 1, (count, 1, 1)) * coarse
    noise = rng.standard_normal((2, count, 17, 2)) * np.stack([scale, np.full_like(scale, fine)])
    poses = np.zeros((count, 2, 17, 3), np.float32)
    for stage in range(2):
        poses[:, stage, :, :2] = people.keypoints[:, :, :2] + noise[stage]
        poses[:, stage, :, 2] = rng.uniform(0.3, 1, (count, 17))
    quality = 1 - scale[:, 0] / max(coarse, 1) + rng.standard_normal((count, 1)) * 0.1
    frames = crop_frames(people.boxes_xyxy, (256, 192))
    areas = frames.size.astype(np.float64).prod(axis=1)
    return Predictions(people.boxes_xyxy, people.box_scores, areas, quality.astype(np.float32), poses)


@pytest.fixture
def labelled() -> Callable[..., EvaluationData]:
    """`make_data`."""
    return make_data


@pytest.fixture
def predicted() -> Callable[..., Predictions]:
    """`make_predictions`."""
    return make_predictions

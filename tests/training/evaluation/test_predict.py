"""Predictions are the runtime's poses; engines and PyTorch agree; the flip test undoes its mirror."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sharpose.bundle import open_bundle
from sharpose.config import load_config
from sharpose.engines.stages import Arrays, open_stages
from sharpose.errors import EngineError
from sharpose.model import random_model
from sharpose.model.graphs import TorchStages
from sharpose.runtime import PoseEstimator
from sharpose.skeleton import COCO17
from sharpose.training.evaluation.data import EvaluationData
from sharpose.training.evaluation.metrics import MODES
from sharpose.training.evaluation.predict import predict
from sharpose.training.objectives.pose import heatmap_targets

CROP = (256, 192)


@pytest.fixture
def noisy(labelled: Callable[..., EvaluationData]) -> EvaluationData:
    """Four people in two pictures of noise."""
    data = labelled(2, 2)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 300, 400, 3)).astype(np.uint8)
    return EvaluationData(
        data.name, data.skeleton, data.people, data.image_ids, data.document, lambda image_id: pictures[image_id]
    )


def test_predictions_are_what_the_pipeline_hands_out(nano_bundle: Path, noisy: EvaluationData) -> None:
    stages = open_stages(open_bundle(nano_bundle), "cpu", threads=1)
    told: list[int] = []
    predictions = predict(stages, noisy, on_people=told.append)
    stages.close()
    assert sum(told) == 4
    people = noisy.people
    threshold = float(np.median(predictions.quality))
    for mode in MODES:
        gated = predictions.gated(mode, threshold)
        with PoseEstimator.from_bundle(nano_bundle, refine=mode, quality_threshold=threshold, threads=1) as estimator:
            for image_id in range(2):
                rows = people.image_ids == image_id
                poses = estimator(noisy.read(image_id), people.boxes_xyxy[rows])
                # Batches differ, and with them the order of sums.
                np.testing.assert_allclose(gated.keypoints[rows], poses.keypoints, atol=0.02)
                np.testing.assert_allclose(gated.scores[rows], poses.scores, atol=1e-5)
                assert gated.refined[rows].astype(bool).tolist() == poses.refined.tolist()


def test_engines_and_pytorch_agree_with_and_without_flip_test(nano_bundle: Path, noisy: EvaluationData) -> None:
    bundle = open_bundle(nano_bundle)
    model = random_model(bundle.model, seed=0).model
    for flip in (False, True):
        torch_run = predict(TorchStages(model, max_batch=3), noisy, flip_test=flip)
        stages = open_stages(bundle, "cpu", threads=1)
        engine_run = predict(stages, noisy, flip_test=flip)
        stages.close()
        assert torch_run.quality.shape == (4, 2 if flip else 1)
        assert torch_run.poses.shape == ((4, 2, 2, 17, 3) if flip else (4, 2, 17, 3))
        np.testing.assert_allclose(engine_run.quality, torch_run.quality, atol=1e-4)
        np.testing.assert_allclose(engine_run.poses[..., 2], torch_run.poses[..., 2], atol=1e-4)
        moved = np.linalg.norm(engine_run.poses[..., :2] - torch_run.poses[..., :2], axis=-1)
        assert np.median(moved) < 0.01  # a peak of random weights may jump where two pixels tie


class Painted:
    """Stages whose heatmaps are the labels', mirrored when the crop is: a flip test must change nothing."""

    max_batch = 3
    config = load_config("sharpose_tiny_coco_256x192")

    def __init__(self) -> None:
        self.points = np.column_stack([np.linspace(30, 160, 17), np.linspace(40, 220, 17), np.full(17, 2)]).astype(
            np.float32
        )

    def coarse(self, crops: npt.NDArray[np.uint8]) -> Arrays:
        mirrored = crops[0, 0, 0, 0] > crops[0, 0, -1, 0]
        points = self.points
        if mirrored:
            points = points[list(COCO17.flip_order)]
            points[:, 0] = 191 - points[:, 0]
        heatmaps, _ = heatmap_targets(points, CROP, (64, 48))
        quality = np.full(len(crops), 0.4 if mirrored else 0.6, np.float32)
        self.outputs: Arrays = {
            "quality": quality,
            "keypoints": np.tile(points[None], (len(crops), 1, 1)),
            "heatmaps": np.tile(heatmaps[None], (len(crops), 1, 1, 1)),
            "region_order": np.tile(np.arange(self.config.num_regions), (len(crops), 1)),
            "region_features": quality,
            "region_embeddings": quality,
        }
        return self.outputs

    def fine(self, inputs: Arrays) -> Arrays:
        return self.outputs

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("broken", "what"), [("keypoints", "pose"), ("quality", "quality")])
def test_numbers_that_are_none_are_an_error_that_names_the_picture(
    noisy: EvaluationData, broken: str, what: str
) -> None:
    class Broken(Painted):
        def coarse(self, crops: npt.NDArray[np.uint8]) -> Arrays:
            outputs = super().coarse(crops)
            if len(crops) == 1:  # the last person of four, in batches of three
                outputs[broken][0] = np.nan
            return outputs

    expected = rf"picture 1: expected finite numbers of the engine, got a {what} with NaN or infinity \(1 person of its"
    with pytest.raises(EngineError, match=expected):
        predict(Broken(), noisy)


def test_a_flip_test_of_a_consistent_model_changes_nothing(labelled: Callable[..., EvaluationData]) -> None:
    data = labelled(4)
    brightening = np.tile(np.linspace(0, 255, 400).astype(np.uint8)[None, :, None], (300, 1, 3))
    boxes = np.tile(np.array([[150, 60, 250, 240]], np.float32), (4, 1))
    people = type(data.people)(**{**vars(data.people), "boxes_xyxy": boxes})
    data = EvaluationData(data.name, data.skeleton, people, data.image_ids, data.document, lambda image_id: brightening)
    plain = predict(Painted(), data)
    flipped = predict(Painted(), data, flip_test=True)
    assert flipped.quality.tolist() == [[pytest.approx(0.6), pytest.approx(0.4)]] * 4
    gated = flipped.gated("auto", 0.5)
    assert gated.refined.tolist() == [0.5] * 4  # the mirrored pass alone asks for a closer look
    # Targets are cut off three deviations from the peak, which costs a decoded point up to 0.1 crop pixels.
    np.testing.assert_allclose(gated.keypoints[..., :2], plain.gated("never", 0).keypoints[..., :2], atol=0.15)

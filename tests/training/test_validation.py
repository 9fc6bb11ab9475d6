"""Validation between epochs, and its contact sheets."""

import contextlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sharpose.config import ModelConfig
from sharpose.errors import SourceError
from sharpose.skeleton import COCO17
from sharpose.training.data.sample import Sample, UndecodableImageError
from sharpose.training.distributed import Ranks
from sharpose.training.evaluation.metrics import keypoint_diagonals, pck
from sharpose.training.objectives.network import TrainedNetwork, TrainingOutput
from sharpose.training.recipe import DataRecipe
from sharpose.training.validation import (
    Picture,
    Shown,
    Validation,
    Validator,
    prediction_sheet,
    region_sheet,
    write_sheets,
)


class DrawnPeople:
    """Four people in grey pictures, of whom the odd ones have a single label; `broken` can't be decoded."""

    name, skeleton = "drawn", COCO17

    def __init__(self, *broken: int) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 4

    def load(self, index: int, epoch: int = 0) -> Sample:
        if index in self.broken:
            raise UndecodableImageError(f"picture {index}: can't be decoded")
        keypoints = np.zeros((17, 3), np.float32)
        keypoints[: 1 if index % 2 else 17] = 48, 64, 2
        keypoints[:, :2] += np.random.default_rng(index).uniform(-20, 20, (17, 2))
        keypoints *= keypoints[:, 2:] > 0
        box = np.array([8, 8, 88, 120], np.float32)
        trust = (keypoints[:, 2] > 0).astype(np.float32)
        return Sample(np.full((128, 96, 3), 128, np.uint8), box, keypoints, trust, index, index, "drawn")


class Clairvoyant(TrainedNetwork):
    """Says what it was told: the targets, but for noses, which are elsewhere."""

    told = torch.zeros(0)

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, images: torch.Tensor) -> TrainingOutput:
        found = self.told[: len(images)]
        quality, order = torch.zeros(len(images)), torch.zeros(len(images), 12, dtype=torch.int64)
        return TrainingOutput(found, found, quality, None, order, quality)


def validator(config: ModelConfig, *broken: int) -> Validator:
    recipe = DataRecipe.model_validate({"train": [{"kind": "scene"}]})
    return Validator(DrawnPeople(*broken), config, recipe, 4, 0, Ranks(0, 1, torch.device("cpu")))


def validated(config: ModelConfig, *broken: int) -> tuple[Validation, list[int], float]:
    """What a validator finds, the people it measured, and the PCK at 5 % that `sharpose-eval` gives the same poses."""
    measures, network = validator(config, *broken), Clairvoyant()
    assert measures._loader is not None
    (batch,) = measures._loader
    network.told = torch.cat([batch.targets[:, :1].roll(9, dims=2), batch.targets[:, 1:]], dim=1)
    found = measures.run(network, lambda *given: {"loss": torch.tensor(0.5)}, contextlib.nullcontext, 0)
    labels, poses = batch.keypoints.numpy(), measures._decode(network.told).numpy()
    return found, batch.image_ids.tolist(), pck(poses, labels, keypoint_diagonals(labels), 0.05)


def test_pck_is_that_of_an_evaluation(nano_config: ModelConfig) -> None:
    """People of one labelled keypoint have no unit, so they count neither as right nor as wrong."""
    found, people, expected = validated(nano_config)
    assert people == [0, 1, 2, 3]
    assert found.score == pytest.approx(expected) == pytest.approx(32 / 34)
    assert (found.values["loss"], found.undecodable) == (0.5, ())


def test_who_cannot_be_shown_is_left_out_and_named(nano_config: ModelConfig) -> None:
    found, people, expected = validated(nano_config, 0, 1)
    assert people == [2, 3]  # nobody twice
    assert found.score == pytest.approx(expected) == pytest.approx(16 / 17)
    assert found.values["loss"] == 0.5  # the mean of those who were measured
    assert found.undecodable == ("picture 0: can't be decoded", "picture 1: can't be decoded")
    with pytest.raises(SourceError, match="of drawn: expected pictures that can be decoded; picture 0: can't be"):
        validator(nano_config, 0, 1, 2, 3).run(Clairvoyant(), lambda *given: {}, contextlib.nullcontext, 0)


@pytest.fixture
def crops() -> Picture:
    return np.full((3, 128, 96, 3), (200, 100, 50), dtype=np.uint8)  # RGB


def test_labels_are_rings_where_they_are_and_unsure_predictions_are_left_out(crops: Picture) -> None:
    labels = np.zeros((3, 17, 3), np.float32)
    labels[1, 0] = 40, 60, 2
    predictions = np.zeros((3, 17, 3), np.float32)
    predictions[..., :2] = 20
    predictions[2, 5] = 30, 50, 0.9
    sheet = prediction_sheet(crops, labels, predictions, COCO17)
    assert sheet.shape == (256, 3 * 192 + 2 * 4, 3)
    assert (sheet[:, :192] == (50, 100, 200)).all()  # nothing on the first, in BGR
    second, third = sheet[:, 196:388], sheet[:, 392:]
    drawn = np.argwhere((second != (50, 100, 200)).any(axis=2))
    assert drawn.mean(axis=0) == pytest.approx((120.5, 80.5), abs=1)
    drawn = np.argwhere((third != (50, 100, 200)).any(axis=2))
    assert drawn.mean(axis=0) == pytest.approx((100.5, 60.5), abs=1)


def test_only_selected_regions_are_bright(crops: Picture) -> None:
    order = np.stack([np.roll(np.arange(12), shift) for shift in (0, -4, 0)])
    sheet = region_sheet(crops, order, selected=3)
    second = sheet[:, 196:388].reshape(4, 64, 3, 64, 3)[:, 60, :, 60]  # a corner of every region
    bright = second[..., 2] == 200
    assert np.argwhere(bright).tolist() == [[1, 1], [1, 2], [2, 0]]  # regions 4, 5, 6


def test_sheets_are_picture_files(crops: Picture, nano_config: ModelConfig, tmp_path: Path) -> None:
    nothing, order = np.zeros((3, 17, 3), np.float32), np.tile(np.arange(12), (3, 1))
    write_sheets(Shown(crops, nothing, nothing, order), tmp_path, "epoch_0001", nano_config)
    for name in ("predictions", "regions"):
        sheet = cv2.imread(str(tmp_path / f"epoch_0001_{name}.jpg"))
        assert sheet is not None
        assert sheet.shape == (256, 3 * 192 + 2 * 4, 3)

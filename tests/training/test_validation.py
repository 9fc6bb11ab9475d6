"""Validation between epochs, and its contact sheets."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from sharpose.config import ModelConfig
from sharpose.skeleton import COCO17
from sharpose.training.validation import Picture, Shown, prediction_sheet, region_sheet, write_sheets


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

"""Which of a graph's boxes a detector keeps, and how they return to the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detector_graphs import SIZE, picture, says, yolov8_columns, yolox_rows

from sharpose.errors import DetectorError, EngineError
from sharpose.runtime.detectors.families import Letterbox
from sharpose.runtime.detectors.onnx import Detector


def test_suppression_is_greedy_and_per_class(tmp_path: Path) -> None:
    overlapping = [[50, 50, 20, 40], [52, 50, 20, 40], [50, 50, 20, 40], [90, 50, 20, 40]]
    scores = [[0.6, 0, 0], [0.9, 0, 0], [0, 0.5, 0], [0.4, 0, 0]]
    columns = yolov8_columns(*[[*box, *score] for box, score in zip(overlapping, scores, strict=True)])
    path = says(tmp_path / "d.onnx", output0=columns)
    image = picture(*SIZE)
    np.testing.assert_allclose(Detector.from_onnx(path)(image).scores, [0.9, 0.4])
    np.testing.assert_allclose(Detector.from_onnx(path, classes=(0, 1))(image).scores, [0.9, 0.5, 0.4])
    np.testing.assert_allclose(Detector.from_onnx(path, classes=[1])(image).scores, [0.5])
    np.testing.assert_allclose(Detector.from_onnx(path, iou=0.9)(image).scores, [0.9, 0.6, 0.4])
    np.testing.assert_allclose(Detector.from_onnx(path, conf=0.5)(image).scores, [0.9])
    np.testing.assert_allclose(Detector.from_onnx(path, conf=0.4)(image).scores, [0.9, 0.4])


def test_boxes_that_are_none_are_dropped(tmp_path: Path) -> None:
    rows = [
        [10, 10, 30, 30, 0.9],
        [30, 10, 10, 30, 0.8],  # turned over
        [10, 10, 10, 30, 0.8],  # no width
        [500, 10, 600, 30, 0.8],  # beside the picture
        [np.nan, 10, 30, 30, 0.8],
        [10, 10, np.inf, 30, 0.8],
        [10, 10, 30, 30, np.nan],
        [-1e30, -20, 1e30, 200, 0.5],
    ]
    dets = np.array([rows], np.float32)
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", dets=dets, labels=np.zeros((1, len(rows)), np.int64)))
    boxes = detector(picture(*SIZE))
    np.testing.assert_allclose(boxes.xyxy, [[10, 10, 30, 30], [0, 0, 128, 96]])
    np.testing.assert_allclose(boxes.scores, [0.9, 0.5])


def test_boxes_that_overflow_are_dropped(tmp_path: Path) -> None:
    rows = yolox_rows((3, [0, 0, 1000, 1000, 1, 1, 0, 0]), (5, [0.5, 0.5, 1, 1, 1, 0.5, 0, 0]))
    with np.errstate(all="raise"):
        boxes = Detector.from_onnx(says(tmp_path / "d.onnx", output=rows))(picture(*SIZE))
    np.testing.assert_allclose(boxes.scores, [0.5])


def test_scores_that_are_all_nan_are_an_error(tmp_path: Path) -> None:
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", output=yolox_rows() * np.nan))
    with pytest.raises(EngineError, match="none of its 252 scores is a finite number"):
        detector(picture(*SIZE))


def test_scores_above_one_are_an_error(tmp_path: Path) -> None:
    # A pose graph without metadata: one class, then keypoints, which read like scores.
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", output0=yolov8_columns([64, 48, 20, 40, 0.7, 61, 33])))
    with pytest.raises(DetectorError, match="scores from 0 to 1, got 61"):
        detector(picture(*SIZE))


@pytest.mark.parametrize("picture_size", [(1, 1), (1, 5000), (5000, 1), (97, 129)])
@pytest.mark.parametrize("centred", [False, True])
def test_letterbox_corners_return_to_the_picture(picture_size: tuple[int, int], centred: bool) -> None:
    letterbox = Letterbox.fit(picture_size, SIZE, centred=centred)
    canvas = letterbox.apply(np.full((*picture_size, 3), 255, np.uint8))
    assert canvas.shape == (*SIZE, 3)
    rows, columns = np.nonzero((canvas == 255).all(axis=2))
    assert (canvas[(canvas != 255).any(axis=2)] == 114).all()
    corners = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    np.testing.assert_allclose(letterbox.to_picture(corners), [[0, 0, picture_size[1], picture_size[0]]], rtol=1e-6)
    grey = [columns.min(), rows.min()], [SIZE[1] - columns.max() - 1, SIZE[0] - rows.max() - 1]
    assert np.abs(np.subtract(*grey)).max() <= 1 if centred else grey[0] == [0, 0]

"""People of scenes on the disk: cut where their labels say, readable as COCO."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from sharpose.errors import SinkError
from sharpose.scene import Scene, SceneConfig, SceneFrame
from sharpose.skeleton import COCO17
from sharpose.training.data.coco import CocoDataset
from sharpose.training.draw_scenes import command, cut_people


def frame_with_dots(box: tuple[float, ...], size: tuple[int, int] = (900, 1200)) -> SceneFrame:
    """Nobody but a white dot at every keypoint of a person in `box`."""
    x1, y1, x2, y2 = box
    rng = np.random.default_rng(0)
    keypoints = np.zeros((1, 17, 3), np.float32)
    keypoints[0, :, 0] = np.linspace(x1 + 20, x2 - 20, 17).round()
    keypoints[0, :, 1] = rng.permutation(np.linspace(y1 + 20, y2 - 20, 17)).round()
    keypoints[0, :, 2] = 2
    image = np.zeros((*size, 3), np.uint8)
    for x, y, _ in keypoints[0]:
        cv2.circle(image, (int(x), int(y)), 5, (255, 255, 255), -1)
    return SceneFrame(image, 0, 0.0, np.array([box], np.float32), keypoints, np.array([7]))


@pytest.mark.parametrize("box", [(300.0, 100.0, 480.0, 340.0), (100.0, 60.0, 500.0, 860.0)], ids=["small", "reduced"])
def test_labels_stay_on_what_they_label(box: tuple[float, ...]) -> None:
    frame = frame_with_dots(box)
    (picture,) = cut_people(frame)
    factor = min(320 / (box[3] - box[1]), 1.0)
    assert picture.annotation_id == 7
    assert picture.box_xyxy[3] - picture.box_xyxy[1] == pytest.approx(factor * (box[3] - box[1]), rel=0.01)
    assert picture.image_bgr.shape[0] <= 1.8 * 320 + 1
    light = picture.image_bgr[..., 0].astype(float)
    reach = 7 * factor
    for x, y, v in picture.keypoints:
        assert v == 2
        rows, columns = np.mgrid[: light.shape[0], : light.shape[1]]
        weights = light * (np.hypot(columns - x, rows - y) < reach)
        assert (weights * columns).sum() / weights.sum() == pytest.approx(x, abs=0.1)
        assert (weights * rows).sum() / weights.sum() == pytest.approx(y, abs=0.1)


def test_who_is_tiny_or_outside_is_left_out() -> None:
    frame = frame_with_dots((300.0, 100.0, 480.0, 340.0))
    hidden = frame.keypoints * np.array([1, 1, 0], np.float32)
    assert cut_people(SceneFrame(frame.image, 0, 0.0, frame.boxes_xyxy, hidden, frame.ids)) == []
    tiny = np.array([[300, 100, 330, 147]], np.float32)
    assert cut_people(SceneFrame(frame.image, 0, 0.0, tiny, frame.keypoints, frame.ids)) == []


def test_a_keypoint_outside_the_picture_is_unlabelled() -> None:
    scene = Scene(SceneConfig(seed=3, people=6, frames=400, height=360, width=640))
    for index in range(0, 400, 100):
        for picture in cut_people(scene.frame(index)):
            height, width = picture.image_bgr.shape[:2]
            seen = picture.keypoints[:, 2] > 0
            assert not picture.keypoints[~seen].any()
            assert (picture.keypoints[seen, :2] >= -0.5).all()
            assert (picture.keypoints[seen, :2] <= np.array([width, height]) - 0.5).all()


def test_the_dataset_is_read_as_coco_and_the_same_every_time(tmp_path: Path) -> None:
    for name, processes in (("one", "1"), ("two", "2")):
        arguments = ["--scenes", "2", "--moments", "2", "--seed", "40", "--processes", processes]
        done = CliRunner().invoke(command, ["--output", str(tmp_path / name), *arguments], catch_exceptions=False)
        assert done.exit_code == 0
    labels = [(tmp_path / name / "person_keypoints_train.json").read_text() for name in ("one", "two")]
    assert labels[0] == labels[1]
    dataset = CocoDataset(tmp_path / "one" / "person_keypoints_train.json", tmp_path / "one" / "images", COCO17)
    assert f"{len(dataset)} people of 2 scenes" in done.output
    assert len(dataset) >= 3
    sample = dataset.load(0)
    assert sample.weights.sum() == (sample.keypoints[:, 2] > 0).sum() > 0
    assert 48 <= max(sample.box_xyxy[2:] - sample.box_xyxy[:2]) <= 321


def test_an_earlier_dataset_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "person_keypoints_train.json").write_text("{}")
    with pytest.raises(SinkError, match="exists; choose another --output"):
        CliRunner().invoke(command, ["--output", str(tmp_path), "--scenes", "1"], catch_exceptions=False)
    assert (tmp_path / "person_keypoints_train.json").read_text() == "{}"

"""The demo's sheet, and how right the bundle that comes with the package is on the scene."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from demo import PHOTOGRAPHS, command, read_photograph

from sharpose.cli import main
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.scene import Scene, SceneConfig


def test_photographs_hold_their_boxes_and_their_origin_is_noted() -> None:
    origins = (Path(__file__).parents[2] / "examples" / "photographs" / "ORIGIN.md").read_text("utf-8")
    for photograph in PHOTOGRAPHS:
        image = read_photograph(photograph)
        x1, y1, x2, y2 = photograph.box
        assert image.shape == (512, 512, 3)
        assert 0 <= x1 < x2 <= 511
        assert 0 <= y1 < y2 <= 511
        assert f"`{photograph.file}`" in origins


def test_the_sheet_is_written_and_says_what_it_shows(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(command, ["--output", str(tmp_path / "new" / "sheet.jpg")])
    assert caught.value.code == 0
    sheet = cv2.imread(str(tmp_path / "new" / "sheet.jpg"))
    assert sheet is not None
    assert sheet.shape[1] == 1526
    assert np.std(sheet) > 20


@pytest.mark.parametrize(
    ("name", "message"), [("file/sheet.jpg", "can't be written"), ("sheet.gif", "ends in .jpg or .png")]
)
def test_a_place_that_cannot_be_written_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as caught:
        main(command, ["--output", str(tmp_path / name)])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("refine", "least"), [("never", 0.92), ("auto", 0.93), ("always", 0.93)])
def test_keypoints_of_the_scene_are_as_right_as_the_model_card_says(refine: str, least: float) -> None:
    """Within a tenth of the diagonal of the person's keypoints, in scenes that weren't trained on; the card measures
    more people.
    """
    estimator = PoseEstimator.from_bundle(refine=refine, threads=1)  # type: ignore[arg-type]
    right = labelled = 0
    for seed, index in itertools.product(range(9_600_000, 9_600_012), (0, 30)):
        frame = Scene(SceneConfig(seed=seed, people=3, frames=60, height=360, width=640)).frame(index)
        if not len(frame.boxes_xyxy):
            continue
        poses = estimator(frame.image, frame.boxes_xyxy)
        for found, label in zip(poses.keypoints, frame.keypoints, strict=True):
            known = label[:, 2] > 0
            if not known.any():
                continue
            diagonal = np.linalg.norm(np.ptp(label[known, :2], axis=0))
            distance = np.linalg.norm(found[known, :2] - label[known, :2], axis=1)
            right += int((distance <= 0.1 * diagonal).sum())
            labelled += int(known.sum())
    assert labelled > 500
    assert right / labelled > least

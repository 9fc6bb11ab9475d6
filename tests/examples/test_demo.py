"""The contact sheet of the demo, and the accuracy of the shipped bundle on the built-in scene."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import demo
import numpy as np
import pytest
from demo import PHOTOGRAPHS, SheetRow, Tile, command, draw_sheet, read_photograph

from sharpose.cli import main
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.scene import Scene, SceneConfig, SceneFrame

RED, GREEN = (0, 0, 255), (0, 255, 0)


def tile(colour: tuple[int, int, int], height: int = 90, width: int = 160) -> Tile:
    return Tile(np.full((height, width, 3), colour, np.uint8), "caption")


def area(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a colour."""
    rows, columns = np.nonzero((sheet == colour).all(axis=2))
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def test_tiles_stand_in_their_columns_at_their_aspect() -> None:
    sheet = draw_sheet("title", ("one", "two"), [SheetRow(tile(RED), tile(GREEN))], ["a note"])
    red, green = area(sheet, RED), area(sheet, GREEN)
    assert red[:2] == green[:2]
    assert red[3] < green[2]
    height, width = red[1] - red[0] + 1, red[3] - red[2] + 1
    assert width / height == pytest.approx(160 / 90, abs=0.01)
    assert (sheet == RED).all(axis=2).sum() == height * width  # nothing is written across a picture


def test_a_longer_note_and_more_rows_make_it_longer() -> None:
    row = SheetRow(tile(RED), tile(GREEN))
    short = draw_sheet("title", ("one", "two"), [row], [])
    long = draw_sheet("title", ("one", "two"), [row, row], ["x", "y"])
    assert long.shape[0] > short.shape[0] + 300
    assert long.shape[1] == short.shape[1]


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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr(demo, "demo_sheet", lambda: np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as caught:
        main(command, ["--output", str(tmp_path / name)])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def frames() -> list[SceneFrame]:
    """Frames of scenes that were not trained on."""
    seeds_and_indices = itertools.product(range(9_600_000, 9_600_012), (0, 30))
    drawn = (
        Scene(SceneConfig(seed=seed, people=3, frames=60, height=360, width=640)).frame(index)
        for seed, index in seeds_and_indices
    )
    return [frame for frame in drawn if len(frame.boxes_xyxy)]


@pytest.mark.parametrize(("refine", "least"), [("never", 0.83), ("auto", 0.85), ("always", 0.85)])
def test_keypoints_of_the_scene_are_as_right_as_the_model_card_says(
    frames: list[SceneFrame], refine: str, least: float
) -> None:
    """PCK@0.1 of fewer people than in the model card."""
    estimator = PoseEstimator.from_bundle(refine=refine, threads=1)  # type: ignore[arg-type]
    right = labelled = 0
    for frame in frames:
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

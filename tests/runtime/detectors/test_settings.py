"""--conf, --iou and --classes: what is understood, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detector_graphs import picture, says, yolox_rows

from sharpose.errors import InputError
from sharpose.runtime.boxes import BoxesFile, FileBoxes
from sharpose.runtime.detectors.onnx import COCO_CLASSES, Detector, PeopleFrom, check_detector_options, parse_classes
from sharpose.runtime.frames import Frame


def test_coco_has_eighty_classes() -> None:
    assert len(set(COCO_CLASSES)) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[16], COCO_CLASSES[79]) == ("person", "dog", "toothbrush")


@pytest.mark.parametrize(
    ("text", "ids"),
    [("person", (0,)), ("0,16", (0, 16)), (" Dog , sports ball", (16, 32)), ("120", (120,))],
)
def test_classes(text: str, ids: tuple[int, ...]) -> None:
    assert parse_classes(text) == ids


@pytest.mark.parametrize("text", ["", "human", "0,,1", "-1", "1.5", "0,person", "²"])
def test_classes_that_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--classes"):
        parse_classes(text)


@pytest.mark.parametrize(
    ("people_from", "given", "refused"),
    [
        ("boxes", {"iou": 0.5}, "--iou"),
        ("boxes", {"classes": "person"}, "--classes"),
        ("motion", {"conf": 0.5}, "--conf"),
        ("full-frame", {"conf": 0.5}, "--conf"),
        ("scene", {"classes": "0"}, "--classes"),
        ("detector", {"conf": 1.01}, "--conf"),
        ("detector", {"iou": float("nan")}, "--iou"),
        ("detector", {"classes": "wolf"}, "--classes"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    people_from: PeopleFrom, given: dict[str, float | str], refused: str
) -> None:
    options = {"conf": None, "iou": None, "classes": None} | given
    with pytest.raises(InputError, match=refused) as caught:
        check_detector_options(people_from, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_options_that_do_something_pass() -> None:
    check_detector_options("detector", conf=0.5, iou=0.5, classes="person,dog")
    check_detector_options("boxes", conf=0, iou=None, classes=None)
    check_detector_options("motion", conf=None, iou=None, classes=None)


def test_conf_leaves_a_files_poor_boxes_out(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(
        '[{"image_id": 0, "bbox": [1, 2, 3, 4], "score": 0.4}, {"image_id": 0, "bbox": [5, 6, 7, 8], "score": 0.5}]'
    )
    frame = Frame(picture(20, 20), 0, 0.0, 0)
    assert len(FileBoxes(BoxesFile.load(path)).boxes_for(frame)) == 2
    np.testing.assert_array_equal(FileBoxes(BoxesFile.load(path), 0.5).boxes_for(frame).xyxy, [[5, 6, 12, 14]])


def test_iou_is_refused_where_the_graph_suppresses_overlaps_itself(tmp_path: Path) -> None:
    path = says(tmp_path / "e.onnx", dets=np.zeros((1, 1, 5), np.float32), labels=np.zeros((1, 1), np.int64))
    assert Detector.from_onnx(path).iou == 0.65
    with pytest.raises(InputError, match="iou would do nothing"):
        Detector.from_onnx(path, iou=0.65)


def test_classes_and_iou_reach_the_detector(tmp_path: Path) -> None:
    rows = [(0, [2, 2, 1, 1, 1, 0.9, 0, 0]), (1, [1, 2, 1, 1, 1, 0, 0, 0.8]), (40, [2, 2, 1, 1, 1, 0.7, 0, 0])]
    path = says(tmp_path / "d.onnx", output=yolox_rows(*rows))
    image = picture(96, 128)
    assert len(Detector.from_onnx(path)(image)) == 2
    np.testing.assert_allclose(Detector.from_onnx(path, classes=(2,))(image).scores, [0.8], atol=1e-6)
    assert len(Detector.from_onnx(path, classes=(0, 2))(image)) == 3
    assert len(Detector.from_onnx(path, conf=0.75)(image)) == 1

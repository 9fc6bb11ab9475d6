"""Tiny real ONNX graphs of each family, run on pictures: what they are fed, and which of their boxes are kept."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from detector_graphs import FED, FLOAT, HALF, INT64, SIZE, finder, picture, save, says, yolov8_columns, yolox_rows
from onnx import helper

from sharpose.errors import DetectorError, EngineError, InputError
from sharpose.runtime.boxes.sources import DetectorBoxes
from sharpose.runtime.detectors.families import Letterbox, Yolox
from sharpose.runtime.detectors.onnx import Detector
from sharpose.runtime.frames import Frame


@pytest.mark.parametrize("family", ["yolox", "yolov8", "yolo-end-to-end", "end-to-end"])
@pytest.mark.parametrize(
    ("height", "width"), [(96, 128), (480, 640), (480, 300), (100, 400), (48, 64), (31, 77), (720, 1280)]
)
def test_rectangle_is_found_in_the_picture(tmp_path: Path, family: str, height: int, width: int) -> None:
    red, threshold = FED[family]
    detector = Detector.from_onnx(finder(tmp_path / "d.onnx", family, threshold=threshold, red=red))
    image = picture(height, width)
    x1, y1, x2, y2 = width // 2, height // 8, width * 7 // 8, height * 3 // 4
    image[y1:y2, x1:x2] = (0, 0, 255)
    image[height * 7 // 8 :, : width // 4] = (255, 255, 0)  # found where red and blue are mistaken for each other
    before = image.copy()

    boxes = detector(image)

    np.testing.assert_array_equal(image, before)
    pixel = max(height / SIZE[0], width / SIZE[1])  # an input pixel, in picture pixels
    assert boxes.xyxy.shape == (1, 4)
    np.testing.assert_allclose(boxes.xyxy[0], [x1, y1, x2, y2], atol=pixel * 1.01 + 0.5)
    np.testing.assert_allclose(boxes.scores, [0.9], atol=1e-6)
    assert len(detector(picture(height, width))) == 0


@pytest.mark.parametrize(
    "anchor", [(0, 0, 0, 8), (16, 0, 1, 8), (191, 15, 11, 8), (192 + 8, 0, 1, 16), (251, 3, 2, 32)]
)
def test_yolox_grid_order(tmp_path: Path, anchor: tuple[int, int, int, int]) -> None:
    detector = Detector.from_onnx(finder(tmp_path / "d.onnx", "yolox", threshold=200, red=2, anchor=anchor))
    image = picture(*SIZE)
    image[20:70, 30:50] = (0, 0, 255)
    np.testing.assert_allclose(detector(image).xyxy, [[30, 20, 50, 70]], atol=1e-3)


def test_yolox_raw_boxes_and_scores(tmp_path: Path) -> None:
    # Anchor 192 + 8 + 3 is cell (3, 1) of the stride-16 grid, 8 cells wide.
    row = [0.5, 0.25, np.log(2), np.log(3), 0.8, 0.75, 0.5, 0.1]
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", output=yolox_rows((203, row))))
    assert detector.family.name == "YOLOX"
    assert detector.input_size == SIZE
    boxes = detector(picture(192, 160))  # half its size in the top left
    np.testing.assert_allclose(boxes.xyxy, [[80, 0, 144, 88]], atol=1e-3)  # centre (56, 20), size 32x48, clipped above
    np.testing.assert_allclose(boxes.scores, [0.6], atol=1e-6)


def test_yolox_decoded_in_the_graph_is_told_apart(tmp_path: Path) -> None:
    raw = yolox_rows((203, [0.5, 0.25, np.log(2), np.log(3), 0.8, 0.75, 0.5, 0.1]))
    cells, strides = [], []
    for stride in (8, 16, 32):
        for y in range(SIZE[0] // stride):
            for x in range(SIZE[1] // stride):
                cells.append((x, y))
                strides.append(stride)
    decoded = raw.copy()
    decoded[0, :, :2] = (raw[0, :, :2] + cells) * np.array(strides)[:, None]
    decoded[0, :, 2:4] = np.exp(raw[0, :, 2:4]) * np.array(strides)[:, None]
    one = Detector.from_onnx(says(tmp_path / "raw.onnx", output=raw))
    other = Detector.from_onnx(says(tmp_path / "decoded.onnx", output=decoded))
    assert isinstance(one.family, Yolox)
    assert isinstance(other.family, Yolox)
    assert (one.family.decoded, other.family.decoded) == (False, True)
    np.testing.assert_allclose(one(picture(*SIZE)).xyxy, other(picture(*SIZE)).xyxy, atol=1e-3)
    np.testing.assert_allclose(other(picture(*SIZE)).xyxy, [[40, 0, 72, 44]], atol=1e-3)


def test_yolov8_boxes_are_centre_and_size(tmp_path: Path) -> None:
    columns = yolov8_columns([64, 48, 20, 40, 0.7, 0.1, 0.2], [10, 10, 8, 8, 0.2, 0.9, 0.1])
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", output0=columns))
    assert detector.family.name == "YOLOv8-style"
    boxes = detector(picture(96, 64))  # lies in the middle: 32 grey pixels on the left
    np.testing.assert_allclose(boxes.xyxy, [[22, 28, 42, 68]], atol=1e-4)
    np.testing.assert_allclose(boxes.scores, [0.7], atol=1e-6)


def test_end_to_end_boxes_are_corners(tmp_path: Path) -> None:
    dets = np.array([[[10, 20, 30, 60, 0.4], [5, 5, 9, 9, 0.9], [10, 21, 30, 61, 0.8], [1, 1, 9, 9, 0.1]]], np.float32)
    labels = np.array([[0, 2, 0, 0]], np.int32)
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", dets=dets, labels=labels))
    assert detector.family.name == "end-to-end"
    boxes = detector(picture(96, 64))  # best first; in the top left; suppression is the graph's own
    np.testing.assert_allclose(boxes.xyxy, [[10, 21, 30, 61], [10, 20, 30, 60]])
    np.testing.assert_allclose(boxes.scores, [0.8, 0.4])


def test_end_to_end_that_finds_nobody(tmp_path: Path) -> None:
    path = says(tmp_path / "d.onnx", dets=np.zeros((1, 0, 5), np.float32), labels=np.zeros((1, 0), np.int64))
    assert len(Detector.from_onnx(path)(picture(50, 50))) == 0


def test_end_to_end_labels_may_be_floats(tmp_path: Path) -> None:
    dets = np.array([[[10, 20, 30, 60, 0.4], [5, 5, 9, 9, 0.9]]], np.float32)
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", dets=dets, labels=np.array([[0, 2]], np.float32)))
    np.testing.assert_allclose(detector(picture(96, 64)).xyxy, [[10, 20, 30, 60]])
    halves = says(tmp_path / "h.onnx", dets=dets, labels=np.array([[0, 0.5]], np.float32))
    with pytest.raises(DetectorError, match="expected whole numbers as classes"):
        Detector.from_onnx(halves)


def test_yolo_end_to_end_rows_are_corners_score_and_class(tmp_path: Path) -> None:
    rows = np.zeros((1, 300, 6), np.float32)  # the rest is padding
    rows[0, :4] = [
        [42, 20, 62, 60, 0.4, 0],
        [45, 5, 49, 9, 0.9, 2],
        [42, 21, 62, 61, 0.8, 0],  # overlaps the first: suppression was the graph's own
        [40, 1, 49, 9, 0.1, 0],
    ]
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", output0=rows))
    assert detector.family.name == "YOLO end-to-end"
    boxes = detector(picture(96, 64))  # lies in the middle: 32 grey pixels on the left
    np.testing.assert_allclose(boxes.xyxy, [[10, 21, 30, 61], [10, 20, 30, 60]])
    np.testing.assert_allclose(boxes.scores, [0.8, 0.4], atol=1e-6)
    np.testing.assert_allclose(Detector.from_onnx(tmp_path / "d.onnx", classes=(2,))(picture(96, 64)).scores, [0.9])
    with pytest.raises(InputError, match="iou would do nothing"):
        Detector.from_onnx(tmp_path / "d.onnx", iou=0.5)


def test_yolo_end_to_end_may_find_nobody(tmp_path: Path) -> None:
    assert (
        len(Detector.from_onnx(says(tmp_path / "d.onnx", output0=np.zeros((1, 0, 6), np.float32)))(picture(9, 9))) == 0
    )


def test_six_numbers_an_anchor_are_not_end_to_end(tmp_path: Path) -> None:
    one_class = says(tmp_path / "x.onnx", output=np.zeros((1, 252, 6), np.float32))  # as many rows as anchors
    assert Detector.from_onnx(one_class).family.name == "YOLOX"
    for place, rows in enumerate((np.zeros((1, 756, 6)), np.zeros((1, 1001, 6)), np.full((1, 300, 6), 0.5))):
        with pytest.raises(DetectorError, match="YOLO end-to-end"):  # YOLOv5 with one class
            Detector.from_onnx(says(tmp_path / f"{place}.onnx", output0=rows.astype(np.float32)))


MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)


def normalised_reader(path: Path, fed: tuple[float, float, float]) -> Path:
    """An end-to-end graph whose scores are 1 - |mean of a channel - what is expected|, channel by channel."""
    node = helper.make_node
    nodes = [
        node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),  # [1, 3]
        node("Sub", ["means", "fed"], ["off"]),
        node("Abs", ["off"], ["away"]),
        node("Sub", ["one", "away"], ["near"]),
        node("Clip", ["near", "zero", "one"], ["score"]),
        node("Reshape", ["score", "columns"], ["scores"]),
        node("Concat", ["boxes", "scores"], ["dets"], axis=2),
        node("Identity", ["kinds"], ["labels"]),
    ]
    boxes = np.array([[[10 * i, 10, 10 * i + 9, 40] for i in (1, 2, 3)]], np.float32)
    constants = {
        "fed": np.array([fed], np.float32),
        "one": np.float32(1),
        "zero": np.float32(0),
        "columns": np.array([1, 3, 1]),
        "boxes": boxes,
        "kinds": np.zeros((1, 3), np.int64),
    }
    return save(path, nodes, [("dets", FLOAT, (1, 3, 5)), ("labels", INT64, (1, 3))], constants=constants)


@pytest.mark.parametrize(
    ("options", "fed"),
    [
        ({"mean": MEAN, "std": STD}, ((10 - 103.53) / 57.375, (100 - 116.28) / 57.12, (200 - 123.675) / 58.395)),
        (
            {"mean": MEAN, "std": STD, "rgb": True},
            ((200 - 103.53) / 57.375, (100 - 116.28) / 57.12, (10 - 123.675) / 58.395),
        ),
        ({"mean": (1, 2, 3)}, (9, 98, 197)),
        ({"std": (2.0, 4.0, 5.0)}, (5, 25, 40)),
        ({"rgb": True}, (200, 100, 10)),
        ({}, (10, 100, 200)),
    ],
)
def test_a_graph_gets_its_mean_and_std(tmp_path: Path, options: dict[str, object], fed: tuple[float, ...]) -> None:
    path = normalised_reader(tmp_path / "d.onnx", fed)  # type: ignore[arg-type]
    image = np.empty((*SIZE, 3), np.uint8)
    image[:] = (10, 100, 200)
    np.testing.assert_allclose(Detector.from_onnx(path, **options)(image).scores, [1, 1, 1], atol=1e-3)  # type: ignore[arg-type]
    if options:
        assert len(Detector.from_onnx(path, conf=0.9)(image)) < 3


def test_yolo_with_its_own_mean_is_not_scaled_as_well(tmp_path: Path) -> None:
    red, _ = FED["yolov8"]
    path = finder(tmp_path / "d.onnx", "yolov8", threshold=100, red=red)
    image = picture(*SIZE)
    image[20:70, 30:50] = (0, 0, 255)
    assert len(Detector.from_onnx(path)(image)) == 0
    found = Detector.from_onnx(path, mean=(50, 50, 50))(image)
    np.testing.assert_allclose(found.xyxy, [[30, 20, 50, 70]], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"std": (0.229, 0.224, 0.225)}, "multiply a mean and std for pixels of 0 to 1 by 255"),
        ({"std": (50, 50)}, "expected three numbers"),
        ({"mean": (1, 2, float("nan"))}, "expected three numbers"),
        ({"std": (0, 50, 50)}, "grey levels of 1 or more"),
    ],
)
def test_a_mean_and_std_that_can_not_be(tmp_path: Path, options: dict[str, object], said: str) -> None:
    path = says(tmp_path / "d.onnx", output0=yolov8_columns())
    with pytest.raises(InputError, match=said):
        Detector.from_onnx(path, **options)  # type: ignore[arg-type]


def test_a_picture_of_oblong_pixels_is_fed_with_square_ones(tmp_path: Path) -> None:
    red, threshold = FED["yolox"]
    detector = Detector.from_onnx(finder(tmp_path / "d.onnx", "yolox", threshold=threshold, red=red))
    image = picture(96, 90)  # shown 128 wide, and so not scaled
    image[20:70, 45:63] = (0, 0, 255)
    np.testing.assert_allclose(detector.find(image, 128 / 90).xyxy, [[45, 20, 63, 70]], atol=0.8)
    letterbox = Letterbox.fit((96, 90), SIZE, centred=True, sample_aspect_ratio=128 / 90)
    assert (letterbox.scaled, letterbox.offset) == ((96, 128), (0, 0))
    frame = Frame(image, 0, 0.0, 0, sample_aspect_ratio=Fraction(128, 90))
    np.testing.assert_array_equal(DetectorBoxes(detector).boxes_for(frame).xyxy, detector.find(image, 128 / 90).xyxy)


@pytest.mark.parametrize("family", ["yolox", "yolov8", "yolo-end-to-end", "end-to-end"])
def test_half_precision_input(tmp_path: Path, family: str) -> None:
    red, threshold = FED[family]
    detector = Detector.from_onnx(finder(tmp_path / "d.onnx", family, threshold=threshold, red=red, dtype=HALF))
    image = picture(*SIZE)
    image[20:70, 30:50] = (0, 0, 255)
    np.testing.assert_allclose(detector(image).xyxy, [[30, 20, 50, 70]], atol=1e-3)


def test_half_precision_output(tmp_path: Path) -> None:
    columns = yolov8_columns([64, 48, 20, 40, 0.75, 0, 0]).astype(np.float16)
    boxes = Detector.from_onnx(says(tmp_path / "d.onnx", output0=columns))(picture(*SIZE))
    np.testing.assert_allclose(boxes.xyxy, [[54, 28, 74, 68]])
    assert boxes.scores.dtype == np.float32


@pytest.mark.parametrize("family", ["yolox", "yolov8", "yolo-end-to-end", "end-to-end"])
def test_dynamic_size_runs_at_640(tmp_path: Path, family: str) -> None:
    red, threshold = FED[family]
    path = finder(tmp_path / "d.onnx", family, threshold=threshold, red=red, shape=("batch", 3, "height", "width"))
    detector = Detector.from_onnx(path)
    assert detector.input_size == (640, 640)
    image = picture(320, 640)
    image[40:200, 100:160] = (0, 0, 255)
    np.testing.assert_allclose(detector(image).xyxy, [[100, 40, 160, 200]], atol=1e-2)


def test_detector_as_a_source_of_boxes(tmp_path: Path) -> None:
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", output0=yolov8_columns([64, 48, 20, 40, 0.7, 0, 0])))
    boxes = DetectorBoxes(detector).boxes_for(Frame(picture(*SIZE), index=0, time=0.0, image_id=0))
    np.testing.assert_allclose(boxes.xyxy, [[54, 28, 74, 68]], atol=1e-4)


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


NAN = float("nan")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([NAN] * 6, "expected whole numbers as classes, found NaN in output0"),
        ([10, 10, 60, 90, 0.9, 0.5], "expected whole numbers as classes, found 0.5 in output0"),
        ([0.1, 0.1, 0.5, 0.9, 0.9, 0], r"boxes in pixels of the input, got \[0.1, 0.1, 0.5, 0.9\]"),
        ([60, 90, 10, 10, 0.9, 0], r"with x1 <= x2, y1 <= y2, got \[60.0, 90.0, 10.0, 10.0\]"),
    ],
)
def test_yolo_end_to_end_rows_that_are_none(tmp_path: Path, row: list[float], words: str) -> None:
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, 0] = row
    path = says(tmp_path / "d.onnx", output0=rows)
    with pytest.raises(DetectorError, match=words):
        Detector.from_onnx(path)(picture(96, 128))

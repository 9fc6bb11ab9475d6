"""Detectors: tiny real ONNX graphs of each family, run through ONNX Runtime on pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sharpose.errors import DetectorError, EngineError, InputError
from sharpose.runtime.box_sources import DetectorBoxes
from sharpose.runtime.detector import Detector
from sharpose.runtime.detectors.families import Yolox
from sharpose.runtime.detectors.letterbox import Letterbox
from sharpose.runtime.detectors.nms import suppress
from sharpose.runtime.frames import Frame

FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
SIZE = (96, 128)  # height and width of the test graphs' input
ANCHORS = 12 * 16 + 6 * 8 + 3 * 4
CLASSES = 3


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    *,
    inputs: Sequence[tuple[str, int, Sequence[int | str]]] = (("images", FLOAT, (1, 3, *SIZE)),),
    constants: dict[str, np.ndarray] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "detector",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info(*item) for item in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def says(path: Path, **outputs: np.ndarray) -> Path:
    """A graph that says the same of every picture."""
    types = {"f2": HALF, "f4": FLOAT, "f8": TensorProto.DOUBLE, "i8": INT64, "i4": TensorProto.INT32}
    nodes = [helper.make_node("Identity", [f"{name}_value"], [name]) for name in outputs]
    declared = [(name, types[value.dtype.str[1:]], value.shape) for name, value in outputs.items()]
    return save(path, nodes, declared, constants={f"{name}_value": value for name, value in outputs.items()})


def yolox_rows(*rows: tuple[int, Sequence[float]], size: tuple[int, int] = SIZE) -> np.ndarray:
    anchors = sum((size[0] // s) * (size[1] // s) for s in (8, 16, 32))
    output = np.zeros((1, anchors, 5 + CLASSES), np.float32)
    for anchor, row in rows:
        output[0, anchor] = row
    return output


def yolov8_columns(*columns: Sequence[float]) -> np.ndarray:
    output = np.zeros((1, 4 + CLASSES, ANCHORS), np.float32)
    for anchor, column in enumerate(columns):
        output[0, :, 7 * anchor] = column
    return output


def refused(path: Path, **options: object) -> str:
    with pytest.raises(DetectorError) as caught:
        Detector.from_onnx(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    assert message.startswith(f"detector {path}: ")
    return message


def picture(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 60, np.uint8)


def finder(
    path: Path,
    family: str,
    *,
    threshold: float,
    red: int,
    shape: Sequence[int | str] = (1, 3, *SIZE),
    dtype: int = FLOAT,
    anchor: tuple[int, int, int, int] = (0, 0, 0, 8),
) -> Path:
    """A graph that finds the one rectangle whose channel `red` exceeds `threshold`, as a detector of `family`.

    `anchor` is the one that answers: its place among all, its cell's x and y, its stride.
    """
    place, cell_x, cell_y, stride = anchor
    height, width = (side if isinstance(side, int) else 640 for side in shape[2:])
    anchors = sum((height // s) * (width // s) for s in (8, 16, 32))
    one = np.ones(1, np.float32)
    constants: dict[str, np.ndarray] = {
        "channel": np.array([red], np.int64),
        "threshold": np.float32(threshold),
        "one": one,
        "half": one / 2,
        "score": one * 0.9,
        "cells": np.array([cell_x, cell_y], np.float32),
        "stride": one * stride,
        "none": np.zeros(CLASSES - 1, np.float32),
        "flat": np.array([-1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["images"], ["picture"], to=FLOAT),
        node("Gather", ["picture", "channel"], ["channel_of"], axis=1),
        node("Greater", ["channel_of", "threshold"], ["mask"]),
        node("Cast", ["mask"], ["bright"], to=FLOAT),
        node("ReduceMax", ["bright"], ["across"], axes=[0, 1, 2], keepdims=0),
        node("ReduceMax", ["bright"], ["down"], axes=[0, 1, 3], keepdims=0),
        node("ReduceMax", ["bright"], ["seen"], axes=[0, 1, 2, 3], keepdims=0),
        node("Mul", ["seen", "score"], ["sure"]),
    ]
    for name, profile in (("x", "across"), ("y", "down")):
        nodes += [
            node("ArgMax", [profile], [f"{name}1i"], axis=0, keepdims=1),
            node("ArgMax", [profile], [f"{name}2i"], axis=0, keepdims=1, select_last_index=1),
            node("Cast", [f"{name}1i"], [f"{name}1"], to=FLOAT),
            node("Cast", [f"{name}2i"], [f"{name}2last"], to=FLOAT),
            node("Add", [f"{name}2last", "one"], [f"{name}2"]),
        ]
    if family == "end-to-end":
        constants |= {"dets_shape": np.array([1, 1, 5]), "first": np.zeros((1, 1), np.int64)}
        nodes += [
            node("Concat", ["x1", "y1", "x2", "y2", "sure"], ["row"], axis=0),
            node("Reshape", ["row", "dets_shape"], ["dets"]),
            node("Identity", ["first"], ["labels"]),
        ]
        outputs: list[tuple[str, int, Sequence[int | str]]] = [("labels", INT64, (1, 1)), ("dets", FLOAT, (1, 1, 5))]
    else:
        nodes += [
            node("Concat", ["x1", "y1"], ["top_left"], axis=0),
            node("Concat", ["x2", "y2"], ["bottom_right"], axis=0),
            node("Sub", ["bottom_right", "top_left"], ["size"]),
            node("Add", ["bottom_right", "top_left"], ["sum"]),
            node("Mul", ["sum", "half"], ["centre"]),
        ]
        if family == "yolov8":
            constants |= {
                "shape": np.array([1, 4 + CLASSES, 1]),
                "pads": np.array([0, 0, place, 0, 0, anchors - 1 - place]),
            }
            nodes.append(node("Concat", ["centre", "size", "sure", "none"], ["row"], axis=0))
            outputs = [("output0", FLOAT, (1, 4 + CLASSES, anchors if isinstance(shape[2], int) else "anchors"))]
        else:
            constants |= {
                "shape": np.array([1, 1, 5 + CLASSES]),
                "pads": np.array([0, place, 0, 0, anchors - 1 - place, 0]),
            }
            nodes += [
                node("Div", ["centre", "stride"], ["in_cells"]),
                node("Sub", ["in_cells", "cells"], ["offset"]),
                node("Div", ["size", "stride"], ["size_in_cells"]),
                node("Log", ["size_in_cells"], ["log_size"]),
                node("Concat", ["offset", "log_size", "one", "sure", "none"], ["row"], axis=0),
            ]
            outputs = [("output", FLOAT, (1, anchors if isinstance(shape[2], int) else "anchors", 5 + CLASSES))]
        nodes += [node("Reshape", ["row", "shape"], ["shaped"]), node("Pad", ["shaped", "pads"], [outputs[0][0]])]
    return save(path, nodes, outputs, inputs=[("images", dtype, shape)], constants=constants)


# Which channel is red, and what exceeds only the rectangle's 255, in what each family wants to be fed.
FED = {"yolox": (2, 200.0), "end-to-end": (2, 200.0), "yolov8": (0, 200 / 255)}


@pytest.mark.parametrize("family", ["yolox", "yolov8", "end-to-end"])
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


@pytest.mark.parametrize("family", ["yolox", "yolov8", "end-to-end"])
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


@pytest.mark.parametrize("family", ["yolox", "yolov8", "end-to-end"])
def test_dynamic_size_runs_at_640(tmp_path: Path, family: str) -> None:
    red, threshold = FED[family]
    path = finder(tmp_path / "d.onnx", family, threshold=threshold, red=red, shape=("batch", 3, "height", "width"))
    detector = Detector.from_onnx(path)
    assert detector.input_size == (640, 640)
    image = picture(320, 640)
    image[40:200, 100:160] = (0, 0, 255)
    np.testing.assert_allclose(detector(image).xyxy, [[100, 40, 160, 200]], atol=1e-2)


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


def test_suppression_agrees_with_opencv() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 50, 300):
        xyxy = rng.uniform(0, 100, (count, 2)).repeat(2, axis=0).reshape(count, 4)[:, [0, 2, 1, 3]]
        xyxy[:, 2:] += rng.uniform(1, 60, (count, 2))
        scores = rng.permutation(count).astype(np.float32) + 1
        xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)
        for iou in (0.3, 0.65):
            ours = suppress(xyxy.astype(np.float32), scores, np.zeros(count, np.int64), iou)
            assert ours.tolist() == list(cv2.dnn.NMSBoxes(xywh.tolist(), scores.tolist(), 0.0, iou))
    assert suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), 0.5).tolist() == []


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


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1000),
        (1, 3, 96, 128),
        (1, 8400, 8),  # anchors of 640x640
        (1, 8, 8400),
        (1, 300, 6),
        (1, 3 * ANCHORS, 8),  # anchor boxes, as YOLOv5 has
        (2, ANCHORS, 8),
        (1, ANCHORS, 5),
        (1, 4, ANCHORS),
        (ANCHORS, 8),
        (1,),
    ],
)
def test_other_outputs_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    message = refused(says(tmp_path / "d.onnx", probs=np.zeros(shape, np.float32)))
    assert f"probs float32 {list(shape)}" in message
    for family in ("YOLOX", "YOLOv8-style", "end-to-end"):
        assert family in message


def test_wrong_size_names_the_anchors(tmp_path: Path) -> None:
    message = refused(says(tmp_path / "d.onnx", output=np.zeros((1, 8400, 85), np.float32)))
    assert "96x128 has 252 anchors" in message


def test_shape_that_two_families_have_is_refused(tmp_path: Path) -> None:
    message = refused(says(tmp_path / "d.onnx", output=np.zeros((1, ANCHORS, ANCHORS), np.float32)))
    assert "another input size" in message


def test_other_output_kinds_are_refused(tmp_path: Path) -> None:
    rows = np.zeros((1, ANCHORS, 8))
    assert "int64" in refused(says(tmp_path / "i.onnx", output=rows.astype(np.int64)))
    two = {"a": rows.astype(np.float32), "b": rows.astype(np.float32)}
    assert "b float32 [1, 252, 8]" in refused(says(tmp_path / "2.onnx", **two))
    dets, labels = np.zeros((1, 4, 5), np.float32), np.zeros((1, 4), np.int64)
    bad = [(dets[0], labels), (dets[:, :, :4], labels), (dets, labels[0]), (dets, labels[:, :3]), (dets, dets[:, :, 0])]
    for place, (d, lab) in enumerate(bad):
        assert "expected dets float [1, n, 5] and labels int [1, n]" in refused(
            says(tmp_path / f"e{place}.onnx", dets=d, labels=lab)
        )


def test_sequence_output_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.onnx"
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["images"], ["all"])],
        "detector",
        [helper.make_tensor_value_info("images", FLOAT, (1, 3, *SIZE))],
        [helper.make_tensor_sequence_value_info("all", FLOAT, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    assert "seq(tensor(float))" in refused(path)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (FLOAT, (1, *SIZE, 3)),
        (FLOAT, (3, *SIZE)),
        (FLOAT, (8, 3, *SIZE)),
        (FLOAT, (1, 1, *SIZE)),
        (FLOAT, (1, 3)),
        (TensorProto.UINT8, (1, 3, *SIZE)),
        (TensorProto.DOUBLE, (1, 3, *SIZE)),
    ],
)
def test_other_inputs_are_refused(tmp_path: Path, dtype: int, shape: tuple[int, ...]) -> None:
    node = helper.make_node("Identity", ["images"], ["output"])
    path = save(tmp_path / "d.onnx", [node], [("output", dtype, shape)], inputs=[("images", dtype, shape)])
    message = refused(path)
    assert "expected one picture as input" in message
    assert str(list(shape)) in message


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    inputs = [("images", FLOAT, (1, 3, *SIZE)), ("scale", FLOAT, (1, 3, 1, 1))]
    node = helper.make_node("Mul", ["images", "scale"], ["output"])
    assert "scale" in refused(save(tmp_path / "d.onnx", [node], [("output", FLOAT, (1, 3, *SIZE))], inputs=inputs))


def test_graph_that_does_not_run_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Dynamic in name only: it wants 96x128, and is run at 640x640."""
    nodes = [helper.make_node("Reshape", ["images", "shape"], ["output"])]
    path = save(
        tmp_path / "d.onnx",
        nodes,
        [("output", FLOAT, (1, "anchors", 8))],
        inputs=[("images", FLOAT, (1, 3, "h", "w"))],
        constants={"shape": np.array([1, 3 * 96 * 128 // 8, 8])},
    )
    assert "does not run at its input size 640x640" in refused(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("task", ["pose", "segment", "obb", "classify"])
def test_exports_for_other_tasks_are_refused(tmp_path: Path, task: str) -> None:
    path = says(tmp_path / "d.onnx", output0=yolov8_columns())
    model = onnx.load(path)
    helper.set_model_props(model, {"task": task})
    onnx.save(model, path)
    assert f"task '{task}'" in refused(path)
    helper.set_model_props(model, {"task": "detect"})
    onnx.save(model, path)
    assert Detector.from_onnx(path).family.name == "YOLOv8-style"


def test_files_that_are_no_graphs_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "found nothing" in refused(tmp_path / "missing.onnx")
    assert "found a directory" in refused(tmp_path)
    good = says(tmp_path / "d.onnx", output0=yolov8_columns()).read_bytes()
    for content in (b"", b"hello, this is no graph\n", good[: len(good) // 2], bytes(1000)):
        path = tmp_path / "bad.onnx"
        path.write_bytes(content)
        assert "expected an ONNX graph" in refused(path)
    assert capfd.readouterr() == ("", "")


def test_devices(tmp_path: Path) -> None:
    path = says(tmp_path / "d.onnx", output0=yolov8_columns())
    assert len(Detector.from_onnx(path, device="cpu")(picture(9, 9))) == 0
    for device in ("gpu", "cuda:x", "tensorrt", ""):
        with pytest.raises(EngineError, match=r"expected (one of )?cpu, cuda"):
            Detector.from_onnx(path, device=device)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "ort-tensorrt"])
def test_missing_gpu_provider_is_an_error(tmp_path: Path, device: str) -> None:
    path = says(tmp_path / "d.onnx", output0=yolov8_columns())
    with pytest.raises(EngineError, match=r"sharpose\[gpu\]"):
        Detector.from_onnx(path, device=device)


def test_missing_onnxruntime_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = says(tmp_path / "d.onnx", output0=yolov8_columns())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"pip install \"sharpose\[cpu\]\""):
        Detector.from_onnx(path)


def test_options_are_checked(tmp_path: Path) -> None:
    path = says(tmp_path / "d.onnx", output0=yolov8_columns())
    for options in ({"conf": 1.5}, {"conf": float("nan")}, {"iou": -0.1}):
        with pytest.raises(InputError, match="conf and iou"):
            Detector.from_onnx(path, **options)  # type: ignore[arg-type]
    for classes in ((), (3,), (0, -1)):
        with pytest.raises(InputError, match="among its 3"):
            Detector.from_onnx(path, classes=classes)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_other_pictures_are_refused(tmp_path: Path, image: np.ndarray) -> None:
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", output0=yolov8_columns()))
    with pytest.raises(InputError, match=r"uint8 \[H, W, 3\]"):
        detector(image)


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


def test_detector_as_a_source_of_boxes(tmp_path: Path) -> None:
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", output0=yolov8_columns([64, 48, 20, 40, 0.7, 0, 0])))
    boxes = DetectorBoxes(detector).boxes_for(Frame(picture(*SIZE), index=0, time=0.0, image_id=0))
    np.testing.assert_allclose(boxes.xyxy, [[54, 28, 74, 68]], atol=1e-4)

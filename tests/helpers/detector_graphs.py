"""Tiny real ONNX graphs of each detector family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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
        "behind": np.array([-1], np.int64),
        "front": np.array([-(1 << 31)], np.int64),
        "back": np.array([-1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["images"], ["picture"], to=FLOAT),
        node("Gather", ["picture", "channel"], ["channel_of"], axis=1),
        node("Greater", ["channel_of", "threshold"], ["mask"]),
        node("Cast", ["mask"], ["bright"], to=FLOAT),
        node("ReduceMax", ["bright"], ["across"], axes=[0, 1, 2]),
        node("ReduceMax", ["bright"], ["down"], axes=[0, 1, 3]),
        node("ReduceMax", ["bright"], ["seen"], axes=[0, 1, 2, 3]),
        node("Reshape", ["seen", "flat"], ["seen_flat"]),
        node("Mul", ["seen_flat", "score"], ["sure"]),
        node("Shape", ["bright"], ["bright_shape"]),
    ]
    # The last index as the first from behind: TensorRT's parser knows no `select_last_index`, nor ArgMax of one axis.
    for name, profile, axis in (("x", "across", 3), ("y", "down", 2)):
        constants[f"{name}_axis"] = np.array([axis], np.int64)
        nodes += [
            node("ArgMax", [profile], [f"{name}1i"], axis=axis),
            node("Cast", [f"{name}1i"], [f"{name}1c"], to=FLOAT),
            node("Reshape", [f"{name}1c", "flat"], [f"{name}1"]),
            node("Slice", [profile, "behind", "front", f"{name}_axis", "back"], [f"{name}_turned"]),
            node("ArgMax", [f"{name}_turned"], [f"{name}2i"], axis=axis),
            node("Cast", [f"{name}2i"], [f"{name}2c"], to=FLOAT),
            node("Reshape", [f"{name}2c", "flat"], [f"{name}2f"]),
            node("Gather", ["bright_shape", f"{name}_axis"], [f"{name}_size"]),
            node("Cast", [f"{name}_size"], [f"{name}_side"], to=FLOAT),
            node("Sub", [f"{name}_side", f"{name}2f"], [f"{name}2"]),
        ]
    if family == "yolo-end-to-end":
        constants |= {"shape": np.array([1, 1, 6]), "kind": np.zeros(1, np.float32)}
        nodes += [
            node("Concat", ["x1", "y1", "x2", "y2", "sure", "kind"], ["row"], axis=0),
            node("Reshape", ["row", "shape"], ["output0"]),
        ]
        outputs: list[tuple[str, int, Sequence[int | str]]] = [("output0", FLOAT, (1, "n", 6))]
    elif family == "end-to-end":
        constants |= {"dets_shape": np.array([1, 1, 5]), "first": np.zeros((1, 1), np.int64)}
        nodes += [
            node("Concat", ["x1", "y1", "x2", "y2", "sure"], ["row"], axis=0),
            node("Reshape", ["row", "dets_shape"], ["dets"]),
            node("Identity", ["first"], ["labels"]),
        ]
        outputs = [("labels", INT64, (1, 1)), ("dets", FLOAT, (1, 1, 5))]
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
FED = {
    "yolox": (2, 200.0),
    "end-to-end": (2, 200.0),
    "yolov8": (0, 200 / 255),
    "yolo-end-to-end": (0, 200 / 255),
}

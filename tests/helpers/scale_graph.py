"""A graph that multiplies: inputs `values` and `factor`, outputs `scaled` and its sums, `total`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sharpose.bundle import GraphEntry, TensorEntry
from sharpose.engines.base import Value

MAX_BATCH = 4


def entry(*, factor_shape: tuple[int | str, ...] = ("N",), total: str = "total") -> GraphEntry:
    return GraphEntry(
        file="scale.onnx",
        opset=17,
        inputs=(
            TensorEntry(name="values", dtype="float32", shape=("N", 3)),
            TensorEntry(name="factor", dtype="int32", shape=factor_shape),
        ),
        outputs=(
            TensorEntry(name="scaled", dtype="float32", shape=("N", 3)),
            TensorEntry(name=total, dtype="float32", shape=("N",)),
        ),
    )


def write_graph(path: Path) -> Path:
    """Outputs `scaled` = values * factor, and `total`, its sum over the last axis."""
    node = helper.make_node
    nodes = [
        node("Cast", ["factor"], ["as_float"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["as_float", "last"], ["column"]),
        node("Mul", ["values", "column"], ["scaled"]),
        node("ReduceSum", ["scaled", "last"], ["total"], keepdims=0),
    ]
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "scale",
            [value("values", TensorProto.FLOAT, ["N", 3]), value("factor", TensorProto.INT32, ["N"])],
            [value("scaled", TensorProto.FLOAT, ["N", 3]), value("total", TensorProto.FLOAT, ["N"])],
            [numpy_helper.from_array(np.array([1], np.int64), "last")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def scale_inputs(people: int) -> dict[str, Value]:
    return {
        "values": np.arange(people * 3, dtype=np.float32).reshape(people, 3),
        "factor": np.arange(people, dtype=np.int32) + 1,
    }

"""A graph of nodes of one's own, for tests of engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sharpose.bundle import GraphEntry, TensorEntry


def chain(path: Path, nodes: Sequence[onnx.NodeProto], outputs: Sequence[onnx.ValueInfoProto], width: int = 3) -> Path:
    """A graph `chain.onnx` from `values` [N, width] to `outputs`; its nodes may use `matrix`, ones on the diagonal."""
    constants = [numpy_helper.from_array(np.eye(width, dtype=np.float32), "matrix")]
    inputs = [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["N", width])]
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    made = helper.make_model(
        helper.make_graph(list(nodes), "chain", inputs, list(outputs), constants), opset_imports=domains, ir_version=8
    )
    onnx.save(made, path)
    return path


def chained(output: str, width: int = 3) -> GraphEntry:
    """What the bundle would say of it."""
    both = (TensorEntry(name=name, dtype="float32", shape=("N", width)) for name in ("values", output))
    first, second = both
    return GraphEntry(file="chain.onnx", opset=17, inputs=(first,), outputs=(second,))

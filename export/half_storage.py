"""Weights stored as halves and used as float32: half the bytes to ship, the same graphs to run.

A `Cast` stands behind every weight that is stored so. Engines fold it when they load the graph, so a run costs nothing
more.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from sharpose.errors import ExportError
from sharpose.export.shared_weights import INLINE_BYTES
from sharpose.model import SHaRPose

__all__ = ["round_to_half", "store_as_half"]


def round_to_half(model: SHaRPose) -> SHaRPose:
    """A copy of a float32 model whose parameters are those that a half can say.

    Raises:
        ExportError: a parameter is too large for a half.
    """
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            parameter.copy_(parameter.half().float())
            if not torch.isfinite(parameter).all():
                raise ExportError(
                    f"--store-weights fp16: {name} has values beyond 65504, the largest half; store it as fp32"
                )
    return rounded


def store_as_half(model: onnx.ModelProto) -> int:
    """Let a graph keep as halves what halves say exactly: the weights of a model that `round_to_half` made.

    Constants of the graph's own (normalisation, decoding) are no halves and stay as they are, as do small tensors.

    Args:
        model: Changed in place; its tensors lie in it, not in a file.

    Returns:
        How many tensors are halves now.
    """
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if values.nbytes < INLINE_BYTES or not np.array_equal(halves.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return len(casts)

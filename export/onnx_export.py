"""From a model to its two ONNX graphs."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.export import Dim

from sharpose.errors import ExportError
from sharpose.export.graphs import CoarseGraph, FineGraph
from sharpose.manifest import GraphEntry, TensorEntry
from sharpose.model import SHaRPose
from sharpose.tokens import PATCH_SIZE, PATCHES_PER_REGION

__all__ = ["COARSE_OUTPUTS", "FINE_INPUTS", "FINE_OUTPUTS", "MAX_OPSET", "MIN_OPSET", "describe_graph", "export_graphs"]

COARSE_OUTPUTS = ["keypoints", "quality", "region_order", "region_features", "region_embeddings", "heatmaps"]
FINE_INPUTS = ["rows", "patches", "region_order", "region_features", "region_embeddings"]
FINE_OUTPUTS = ["keypoints", "heatmaps"]

MIN_OPSET, MAX_OPSET = 18, 22
"""18 for parsers that don't know `Gelu` (opset 20); from 23 on attention exports as an operator few engines have."""

_DTYPES: dict[int, str] = {
    TensorProto.UINT8: "uint8",
    TensorProto.INT32: "int32",
    TensorProto.FLOAT16: "float16",
    TensorProto.FLOAT: "float32",
}


def export_graphs(model: SHaRPose, *, max_batch: int, opset: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The coarse and the fine graph, with N and M dynamic from 1 to `max_batch` and every other axis static.

    Raises:
        ExportError: `opset` isn't supported.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"opset: expected {MIN_OPSET} to {MAX_OPSET}, got {opset}")
    config = model.config
    # An example batch of 1 would be specialised to 1; the two batch axes must differ to be told apart.
    coarse_batch, fine_batch = 2, 3
    people = Dim("N", min=1, max=max(max_batch, coarse_batch))
    rows = Dim("M", min=1, max=max(max_batch, fine_batch))
    coarse = CoarseGraph(model).eval()
    image = torch.zeros((coarse_batch, *config.crop_size, 3), dtype=torch.uint8)
    coarse_model = _export(coarse, (image,), ["image"], COARSE_OUTPUTS, ({0: people},), opset)
    with torch.no_grad():
        _, _, order, features, embeddings, _ = coarse(image)
    patches = torch.zeros(
        (fine_batch, PATCHES_PER_REGION * config.num_selected, PATCH_SIZE * PATCH_SIZE * 3), dtype=torch.uint8
    )
    fine_model = _export(
        FineGraph(model).eval(),
        (torch.arange(fine_batch, dtype=torch.int32) % coarse_batch, patches, order, features, embeddings),
        FINE_INPUTS,
        FINE_OUTPUTS,
        ({0: rows}, {0: rows}, {0: people}, {0: people}, {0: people}),
        opset,
    )
    return coarse_model, fine_model


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    dynamic_shapes: tuple[dict[int, Dim], ...],
    opset: int,
) -> onnx.ModelProto:
    with _quiet():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=opset,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no program; expected torch 2.6 or later")
    model: onnx.ModelProto = program.model_proto
    _strip_debris(model)
    return model


def _strip_debris(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes for its own authors; it holds paths of the machine that exported."""
    del model.metadata_props[:]
    graph = model.graph
    del graph.metadata_props[:]
    del graph.value_info[:]
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on packages and axes it doesn't use from the user's screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def describe_graph(model: onnx.ModelProto, file: str) -> GraphEntry:
    """What `bundle.json` says of a graph."""
    opset = next(item.version for item in model.opset_import if item.domain == "")
    inputs, outputs = (
        tuple(_describe_tensor(value) for value in values) for values in (model.graph.input, model.graph.output)
    )
    return GraphEntry(file=file, opset=opset, inputs=inputs, outputs=outputs)


def _describe_tensor(value: onnx.ValueInfoProto) -> TensorEntry:
    tensor = value.type.tensor_type
    shape = tuple(axis.dim_param or axis.dim_value for axis in tensor.shape.dim)
    dtype = _DTYPES.get(tensor.elem_type)
    if dtype is None:
        name = helper.tensor_dtype_to_string(tensor.elem_type)
        raise ExportError(f"{value.name}: expected one of {sorted(_DTYPES.values())}, the graph has {name}")
    return TensorEntry.model_validate({"name": value.name, "dtype": dtype, "shape": shape})

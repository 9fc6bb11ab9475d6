"""Exporting a model to its two ONNX graphs: precisions, one file of weights for both, weights stored as float16."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from torch import Tensor, nn
from torch.export import Dim

from sharpose.bundle import PATCHES_AXIS, GraphEntry, TensorEntry
from sharpose.errors import ExportError
from sharpose.model import SHaRPose
from sharpose.model.backbone import LayerNorm, QualityPredictor
from sharpose.model.graphs import COARSE_OUTPUTS, FINE_INPUTS, FINE_OUTPUTS, CoarseGraph, FineGraph
from sharpose.tokens import PATCHES_PER_REGION, patches_shape

INLINE_BYTES = 1024
"""Smaller tensors stay in the graph, where shape inference can see them."""

_ALIGNMENT = 64

Translations: TypeAlias = dict[Any, Callable[..., Any]]
"""ONNX of operators, as `torch.onnx.export` takes it."""


def save_graphs(models: Mapping[str, onnx.ModelProto], folder: Path, weights: str) -> None:
    """Write graphs whose large tensors all lie in one file.

    Args:
        models: Graphs by file name; changed in place.
        folder: Where to write.
        weights: File name of the weights.
    """
    offsets: dict[bytes, int] = {}
    with (folder / weights).open("wb") as file:
        for model in models.values():
            for tensor in model.graph.initializer:
                data = onnx.numpy_helper.to_array(tensor).tobytes()
                if len(data) < INLINE_BYTES:
                    continue
                digest = hashlib.sha256(data).digest()
                if digest not in offsets:
                    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                    offsets[digest] = file.tell()
                    file.write(data)
                for field in ("float_data", "int32_data", "int64_data"):
                    tensor.ClearField(field)
                tensor.raw_data = b""  # set_external_data wants the field to be there
                external_data_helper.set_external_data(tensor, weights, offsets[digest], len(data))
                tensor.ClearField("raw_data")
    for name, model in models.items():
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))


def round_to_half(model: SHaRPose) -> SHaRPose:
    """A copy of a float32 model with its parameters rounded to float16.

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
    """Store weights as float16, in place, where that is exact, as in the graphs of a model that `round_to_half` made.

    The graph's own constants (normalisation, decoding) and small tensors stay as they are. Returns how many tensors,
    which must lie in the graph and not in a file, are float16 now.
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


def half_model(model: SHaRPose) -> SHaRPose:
    """A float16 copy of a float32 model, with float32 islands.

    The islands are every LayerNorm, the quality head (a gate compares its output with a threshold) and the relevance
    branch: the mined attention rows, their softmax, the sum over blocks and the TopK
    (`sharpose.model.backbone.Attention.row_attention` casts for itself). Pixels are normalised, and heatmaps decoded,
    in float32 by the graphs around the model (`sharpose.model.graphs`).

    Raises:
        ExportError: a weight is too large for float16.
    """
    half = copy.deepcopy(model)
    islands = [module for module in half.modules() if isinstance(module, LayerNorm | QualityPredictor)]
    kept = {parameter for module in islands for parameter in module.parameters()}
    largest = torch.finfo(torch.float16).max
    too_large = []
    for name, parameter in half.named_parameters():
        if parameter in kept:
            continue
        if parameter.abs().max() > largest:
            too_large.append(name)
        parameter.data = parameter.data.half()
    if too_large:
        raise ExportError(
            f"precision fp16: {', '.join(too_large[:4])} has weights beyond {largest:.0f}, which float16 can't hold; "
            "export with --precision fp32"
        )
    return half


MIN_OPSET, MAX_OPSET = 18, 22
"""18 for parsers that don't know `Gelu` (opset 20); from 23 on attention exports as an operator few engines have."""

_DTYPES: dict[int, str] = {
    TensorProto.UINT8: "uint8",
    TensorProto.INT32: "int32",
    TensorProto.FLOAT16: "float16",
    TensorProto.FLOAT: "float32",
}


def export_graphs(
    model: SHaRPose, *, max_batch: int, opset: int, translations: Translations | None = None
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The coarse and the fine graph: N and M are dynamic from 1 to `max_batch`, and K, where R is at least 4, to R.

    `translations` are of operators that PyTorch doesn't have.

    Raises:
        ExportError: `opset` isn't supported.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"opset: expected {MIN_OPSET} to {MAX_OPSET}, got {opset}")
    config = model.config
    # An example batch of 1 would be specialised to 1, and so would one region, or none, that is selected or isn't; the
    # two batch axes must differ to be told apart.
    coarse_batch, fine_batch, selected = 2, 3, config.num_regions // 2
    people = Dim("N", min=1, max=max(max_batch, coarse_batch))
    rows = Dim("M", min=1, max=max(max_batch, fine_batch))
    patches_axes = {0: rows}
    if selected > 1:
        patches_axes[1] = PATCHES_PER_REGION * Dim("K", min=1, max=config.num_regions)
    else:
        selected = config.num_selected
    coarse = CoarseGraph(model).eval()
    image = torch.zeros((coarse_batch, *config.crop_size, 3), dtype=torch.uint8)
    coarse_model = _export(coarse, (image,), ["image"], COARSE_OUTPUTS, ({0: people},), opset, translations)
    with torch.no_grad():
        _, _, order, features, embeddings, _ = coarse(image)
    patches = torch.zeros(patches_shape(fine_batch, selected), dtype=torch.uint8)
    fine_model = _export(
        FineGraph(model).eval(),
        (torch.arange(fine_batch, dtype=torch.int32) % coarse_batch, patches, order, features, embeddings),
        FINE_INPUTS,
        FINE_OUTPUTS,
        ({0: rows}, patches_axes, {0: people}, {0: people}, {0: people}),
        opset,
        translations,
    )
    patches_sides = fine_model.graph.input[FINE_INPUTS.index("patches")].type.tensor_type.shape.dim
    if patches_sides[1].dim_param:  # PyTorch's name for it is its own affair
        patches_sides[1].dim_param = PATCHES_AXIS
    return coarse_model, fine_model


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    dynamic_shapes: tuple[dict[int, Dim], ...],
    opset: int,
    translations: Translations | None,
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
            custom_translation_table=translations,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no program; expected torch 2.6 or later")
    model: onnx.ModelProto = program.model_proto
    graph = model.graph
    # What the exporter notes for its own authors holds paths of the machine that exported.
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    _measure_after_cast(graph)
    return model


def _measure_after_cast(graph: onnx.GraphProto) -> None:
    """Let `Shape` read the cast of a uint8 input instead of the input, of which TensorRT takes nothing but casts."""
    pixels = {item.name for item in graph.input if item.type.tensor_type.elem_type == TensorProto.UINT8}
    shapes = [node for node in graph.node if node.op_type == "Shape" and node.input[0] in pixels]
    casts = [node for node in graph.node if node.op_type == "Cast" and node.input[0] in pixels]
    for shape in shapes:
        shape.input[0] = next(cast.output[0] for cast in casts if cast.input[0] == shape.input[0])
    nodes = [*casts, *(node for node in graph.node if node not in casts)] if shapes else list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)


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

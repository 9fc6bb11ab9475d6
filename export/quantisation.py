"""Int8 graphs, EXPERIMENTAL: weights and activations of the linear layers in 8 bits, calibrated on pictures.

Quantise and dequantise nodes stand before the linear layers (QDQ), symmetric as TensorRT wants them, weights by
channel. The mined attention rows, all attention between tokens, the quality head, LayerNorm, GELU, patch embedding and
decoding stay in float32. How good that is depends on the model and on the pictures: parity is reported, never enforced.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from sharpose.engines.stages import Arrays, Stages, fine_inputs

_LINEAR = ("MatMul", "Gemm")


class _Inputs(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, inputs: list[Arrays]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> Arrays | None:
        return next(self._inputs, None)


def quantise_graphs(
    coarse: Path, fine: Path, stages: Stages, crops: npt.NDArray[np.uint8]
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Both graphs in int8.

    Args:
        coarse: The float32 coarse graph; scratch files are left beside it.
        fine: The float32 fine graph.
        stages: The model in float32, for what the fine graph is calibrated on.
        crops: uint8 [n, H, W, 3], RGB; the ranges of all activations are taken from these.
    """
    batches = [np.ascontiguousarray(crop[None]) for crop in crops]
    inputs_of_fine = [fine_inputs(batch, stages.coarse(batch), stages.config) for batch in batches]
    return _quantise(coarse, [{"image": batch} for batch in batches]), _quantise(fine, inputs_of_fine)


def _quantise(path: Path, inputs: list[Arrays]) -> onnx.ModelProto:
    output = path.with_suffix(".int8.onnx")
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # its advice on pre-processing is not the user's concern
    try:
        quantize_static(
            path,
            output,
            _Inputs(inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_LINEAR),
            per_channel=True,
            reduce_range=True,  # 7-bit weights: 8-bit sums overflow on processors without VNNI
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(_kept_in_float(onnx.load(path, load_external_data=False).graph)),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": list(_LINEAR),  # what they give is added up in float32
            },
        )
    finally:
        logging.root.setLevel(level)
    return onnx.load(output)


def _kept_in_float(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of the linear nodes that aren't quantised: products of activations, the blur, and the quality head."""
    weights = {item.name for item in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        constants = [name for name in node.input[:2] if name in weights]
        if node.op_type in _LINEAR and (constants != [node.input[1]] or _is_decoding(node, makers)):
            yield node.name
    pending = ["quality"]
    while pending:
        made_by = makers.get(pending.pop())
        if made_by is not None and made_by.op_type != "LayerNormalization":
            yield made_by.name
            pending.extend(made_by.input)


def _is_decoding(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether it is the second product of the blur, whose first has its constant on the left."""
    before = makers.get(node.input[0])
    return before is not None and before.op_type == "MatMul"

"""From an ONNX file to TensorRT's network, and what the network says of itself before anything is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sharpose.engines.base import TensorSpec
from sharpose.engines.tensorrt_flavour import TensorRtFlavour
from sharpose.engines.tensorrt_logger import collect_errors, tensorrt_logger
from sharpose.engines.untyped import Untyped
from sharpose.errors import EngineError

__all__ = ["Layer", "ParsedNetwork", "describe_layers", "numpy_dtype", "parse_network"]

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class Layer:
    """A layer of a network as it was parsed.

    Attributes:
        name: Begins with the ONNX node's name.
        kind: `MATRIX_MULTIPLY`, `NORMALIZATION` …
        inputs: dtypes, `float16`, say.
        outputs: dtypes.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class ParsedNetwork:
    """A network, and the objects that must outlive it. All but the flavour are TensorRT's own, without types."""

    flavour: TensorRtFlavour
    builder: Untyped
    network: Untyped
    parser: Untyped
    path: Path

    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs; a dynamic axis has the name that the graph gives it."""
        return tuple(_spec(self.network.get_input(index)) for index in range(self.network.num_inputs))

    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs, likewise."""
        return tuple(_spec(self.network.get_output(index)) for index in range(self.network.num_outputs))

    def layers(self) -> tuple[Layer, ...]:
        """Every layer with its dtypes; the network is strongly typed, so the engine keeps them."""
        return tuple(describe_layers(self.network))


def parse_network(flavour: TensorRtFlavour, path: Path) -> ParsedNetwork:
    """Parse an ONNX file, with the weights that lie beside it, into a strongly typed network.

    Raises:
        EngineError: TensorRT can't start here, or can't parse the graph.
    """
    trt = flavour.module
    logger = tensorrt_logger(flavour)
    with collect_errors() as messages:
        try:
            builder = trt.Builder(logger)
        except TypeError:  # pybind's way of saying that the constructor returned null
            raise EngineError(f"{flavour} can't start its builder here{_because(messages)}") from None
        # On 11 every network is strongly typed, and the flag is ignored.
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if typed is None else 1 << int(typed))
        parser = trt.OnnxParser(network, logger)
        # From a path, not from bytes: the weights are found beside it.
        if not parser.parse_from_file(str(path)):
            reasons = [" ".join(parser.get_error(index).desc().split()) for index in range(parser.num_errors)]
            raise EngineError(f"{path}: {flavour} can't parse it: {'; '.join(reasons) or 'no reason given'}")
    return ParsedNetwork(flavour, builder, network, parser, path)


def describe_layers(network: Untyped) -> Iterator[Layer]:
    """Kinds and dtypes of the layers of TensorRT's `INetworkDefinition`."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = (layer.get_input(number) for number in range(layer.num_inputs))
        outputs = (layer.get_output(number) for number in range(layer.num_outputs))
        yield Layer(
            layer.name,
            layer.type.name,
            tuple(numpy_dtype(tensor.dtype) for tensor in inputs if tensor is not None),
            tuple(numpy_dtype(tensor.dtype) for tensor in outputs if tensor is not None),
        )


def count_layers(layers: tuple[Layer, ...]) -> dict[str, int]:
    """How many layers of every kind and output dtype, as `NORMALIZATION float16`."""
    counts = Counter(f"{layer.kind} {layer.outputs[0] if layer.outputs else '-'}" for layer in layers)
    return dict(sorted(counts.items()))


def numpy_dtype(dtype: Untyped) -> str:
    """The name in numpy of a TensorRT dtype."""
    name: str = dtype.name
    return _DTYPES.get(name, name.lower())


def _spec(tensor: Untyped) -> TensorSpec:
    import numpy as np

    shape = tuple(
        (tensor.get_dimension_name(axis) or f"axis{axis}") if size < 0 else size
        for axis, size in enumerate(tuple(tensor.shape))
    )
    return TensorSpec(tensor.name, np.dtype(numpy_dtype(tensor.dtype)), shape)


def _because(messages: list[str]) -> str:
    return f" ({' '.join(messages[0].split())})" if messages else ""

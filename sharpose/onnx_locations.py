"""Which files an ONNX graph wants beside it, read from its bytes without the onnx package.

The runtime must know before an engine opens anything: a graph may name any path as the place of its weights. Only the
few fields of the protobuf message on the way to `TensorProto.external_data` are looked at (onnx.proto3, stable field
numbers); everything else is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

from sharpose.errors import BundleError

__all__ = ["external_data_locations"]

_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_TRAINING_INITIALIZATION, _TRAINING_ALGORITHM = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE_INITIALIZER = 1, 5, 15
_FUNCTION_NODE, _FUNCTION_ATTRIBUTE = 7, 11
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_EXTERNAL_DATA = 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

_GRAPH, _NODE, _ATTRIBUTE, _SPARSE, _TENSOR, _FUNCTION = "graph", "node", "attribute", "sparse", "tensor", "function"
_TRAINING = "training"
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {_MODEL_GRAPH: _GRAPH, _MODEL_TRAINING: _TRAINING, _MODEL_FUNCTIONS: _FUNCTION},
    _TRAINING: {_TRAINING_INITIALIZATION: _GRAPH, _TRAINING_ALGORITHM: _GRAPH},
    _GRAPH: {_GRAPH_NODE: _NODE, _GRAPH_INITIALIZER: _TENSOR, _GRAPH_SPARSE_INITIALIZER: _SPARSE},
    _FUNCTION: {_FUNCTION_NODE: _NODE, _FUNCTION_ATTRIBUTE: _ATTRIBUTE},
    _NODE: {_NODE_ATTRIBUTE: _ATTRIBUTE},
    _ATTRIBUTE: {
        _ATTRIBUTE_TENSOR: _TENSOR,
        _ATTRIBUTE_TENSORS: _TENSOR,
        _ATTRIBUTE_GRAPH: _GRAPH,
        _ATTRIBUTE_GRAPHS: _GRAPH,
        _ATTRIBUTE_SPARSE: _SPARSE,
        _ATTRIBUTE_SPARSES: _SPARSE,
    },
    _SPARSE: {_SPARSE_VALUES: _TENSOR, _SPARSE_INDICES: _TENSOR},
}


def external_data_locations(model: bytes) -> frozenset[str]:
    """All `location` values of external tensors in a serialised ONNX `ModelProto`.

    Raises:
        BundleError: the bytes are not a protobuf message.
    """
    found: set[str] = set()
    pending = [("model", memoryview(model))]
    while pending:
        kind, message = pending.pop()
        for field, payload in _length_delimited_fields(message):
            if kind == _TENSOR:
                if field == _TENSOR_EXTERNAL_DATA:
                    entry = dict(_length_delimited_fields(payload))
                    if bytes(entry.get(_ENTRY_KEY, b"")) == b"location":
                        found.add(bytes(entry.get(_ENTRY_VALUE, b"")).decode("utf-8", "replace"))
            elif field in _CHILDREN[kind]:
                pending.append((_CHILDREN[kind][field], payload))
    return frozenset(found)


def _length_delimited_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Field number and payload of every length-delimited field; other wire types are skipped."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position)
        if tag >> 32:  # some readers drop the upper bits, and would see a field that we don't
            raise BundleError("not an ONNX file: a field number is out of range")
        wire_type = tag & 7
        if wire_type == 0:
            _, position = _varint(message, position)
        elif wire_type == 1:
            position += 8
        elif wire_type == 2:
            length, position = _varint(message, position)
            if position + length > end:
                raise BundleError("not an ONNX file: a field reaches past its end")
            yield tag >> 3, message[position : position + length]
            position += length
        elif wire_type == 5:
            position += 4
        else:
            raise BundleError(f"not an ONNX file: unknown protobuf wire type {wire_type}")
    if position != end:
        raise BundleError("not an ONNX file: a field reaches past its end")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A base-128 number at `position`, and where it ends."""
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise BundleError("not an ONNX file: a number reaches past its end")

"""The external data files of an ONNX graph, read from its bytes without the onnx package.

The runtime must know before an engine opens anything: a graph may name any path as the place of its weights. Only the
few fields of the protobuf message on the way to `TensorProto.external_data` are looked at (onnx.proto3, stable field
numbers); everything else is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

from sharpose.errors import BundleError

__all__ = ["external_data_locations"]

# Kind of message: its fields that lead to tensors, by number, and what they hold.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},  # initialization, algorithm
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},  # values, indices
}
_DEPTH = 100  # as protobuf's own readers have it
_EXTERNAL_DATA = 13  # of a tensor: entries of a key (field 1) and a value (field 2)


def external_data_locations(model: bytes) -> frozenset[str]:
    """All `location` values of external tensors in a serialised ONNX `ModelProto`.

    Raises:
        BundleError: the bytes are not a protobuf message.
    """
    found: set[str] = set()
    opened = [("model", _length_delimited_fields(memoryview(model)))]
    while opened:
        kind, fields = opened[-1]
        field, payload = next(fields, (None, memoryview(b"")))
        if field is None:
            opened.pop()
        elif kind == "tensor":
            if field == _EXTERNAL_DATA:
                entry = dict(_length_delimited_fields(payload))
                if bytes(entry.get(1, b"")) == b"location":
                    found.add(bytes(entry.get(2, b"")).decode("utf-8", "replace"))
        elif field in _CHILDREN[kind]:
            opened.append((_CHILDREN[kind][field], _length_delimited_fields(payload)))
            if len(opened) > _DEPTH:
                raise BundleError(f"not an ONNX file: messages are nested in more than {_DEPTH} levels")
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

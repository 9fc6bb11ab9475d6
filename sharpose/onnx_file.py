"""What an ONNX file refers to, read from its bytes without the onnx package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from sharpose.errors import BundleError
from sharpose.files import file_sha256

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
_METADATA = 14  # of a model: likewise


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


def check_node_inputs(model: bytes) -> None:
    """Refuse nodes with an input left out, Clip's minimum aside: ONNX Runtime crashes on some."""
    for field, graph in _length_delimited_fields(memoryview(model)):
        nodes = _length_delimited_fields(graph) if _CHILDREN["model"].get(field) == "graph" else iter(())
        for kind, node in nodes:
            if _CHILDREN["graph"].get(kind) == "node":
                fields = list(_length_delimited_fields(node))
                operator = next((bytes(text) for number, text in fields if number == 4), b"")
                if operator != b"Clip" and any(number == 1 and not text for number, text in fields):
                    raise BundleError(f"a node of type {operator.decode(errors='replace')[:80]!r} lacks an input")


def declared_inputs(model: bytes) -> dict[str, tuple[int | None, ...]]:
    """Shapes of the inputs of a serialised ONNX `ModelProto`, by name; None is an axis of any size.

    Raises:
        BundleError: the bytes are not a protobuf message.
    """
    # Of the graph its inputs (11), and of each its name (1); then its type (2), of a tensor (1) the shape (2), the axes
    # (1), and of an axis its size (1), a number.
    values = [
        value
        for field, graph in _length_delimited_fields(memoryview(model))
        if _CHILDREN["model"].get(field) == "graph"
        for value in _messages(graph, 11)
    ]
    found = {}
    for value in values:
        name = b"".join(bytes(text) for text in _messages(value, 1))
        axes = [axis for kind in _messages(value, 2) for axis in _messages(kind, 1, 2, 1)]
        sizes = [[size for field, size in _fields(axis) if field == 1 and isinstance(size, int)] for axis in axes]
        found[name.decode("utf-8", "replace")] = tuple(size[-1] if size else None for size in sizes)
    return found


def graph_sha256(path: Path) -> str:
    """sha256 of an ONNX file together with the files that its weights lie in, in hexadecimal.

    Raises:
        BundleError: it is not an ONNX file, or one of the files can't be read.
    """
    digest = hashlib.sha256()
    try:
        model = path.read_bytes()
        digest.update(hashlib.sha256(model).digest())
        for location in sorted(external_data_locations(model)):
            digest.update(bytes.fromhex(file_sha256(path.parent / location)))
    except OSError as error:
        raise BundleError(f"{error.filename}: can't be read ({error.strerror})") from error
    return digest.hexdigest()


def model_metadata(model: bytes) -> dict[str, str]:
    """The metadata of a serialised ONNX `ModelProto`, as exporters write it; raises as `external_data_locations`."""
    entries = (
        dict(_length_delimited_fields(payload))
        for field, payload in _length_delimited_fields(memoryview(model))
        if field == _METADATA
    )
    return {
        bytes(entry.get(1, b"")).decode("utf-8", "replace"): bytes(entry.get(2, b"")).decode("utf-8", "replace")
        for entry in entries
    }


def _messages(message: memoryview, *path: int) -> Iterator[memoryview]:
    """The payloads at the end of a path of field numbers."""
    for field, payload in _length_delimited_fields(message):
        if field == path[0]:
            yield from _messages(payload, *path[1:]) if path[1:] else (payload,)


def _length_delimited_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Field number and payload of every length-delimited field; other wire types are skipped."""
    return ((field, value) for field, value in _fields(message) if isinstance(value, memoryview))


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Field number and value of every field that is length-delimited or a number of any length."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position)
        if tag >> 32:  # some readers drop the upper bits, and would see a field that we don't
            raise BundleError("not an ONNX file: a field number is out of range")
        wire_type = tag & 7
        if wire_type == 0:
            number, position = _varint(message, position)
            yield tag >> 3, number
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

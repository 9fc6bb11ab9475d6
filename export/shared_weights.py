"""Several ONNX graphs, one file of weights: tensors with equal bytes are stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import external_data_helper

__all__ = ["INLINE_BYTES", "save_graphs"]

INLINE_BYTES = 1024
"""Smaller tensors stay in the graph, where shape inference can see them."""

_ALIGNMENT = 64


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

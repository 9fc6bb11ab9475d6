"""A bundle with shifted heatmaps: trained models have no peaks in the first column, where rows could go wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from sharpose.bundle import Bundle, open_bundle
from sharpose.engines.stages import open_stages
from sharpose.files import file_sha256

_DTYPES = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.FLOAT16: np.float16}
_PASSED = ("Cast", "Reshape", "Add", "Gemm", "MatMul")


def shift_heatmaps(bundle: Bundle, folder: Path, columns: int) -> Bundle:
    """A copy of a bundle in a new folder, whose heatmaps are rolled to the left by some columns, in all precisions.

    The graphs stay as they are: it is the weights of the heatmap head's last layer that change places.
    """
    shutil.copytree(bundle.path, folder)
    height, width = bundle.model.heatmap_size
    weights = folder / bundle.manifest.weights
    data = bytearray(weights.read_bytes())
    tensors = {
        (offset, length): dtype
        for pair in bundle.manifest.graphs.values()
        for entry in (pair.coarse, pair.fine)
        for offset, length, dtype in _last_layer(folder / entry.file, height * width)
    }
    for (offset, length), dtype in tensors.items():
        flat: npt.NDArray[Any] = np.frombuffer(data, dtype, length // np.dtype(dtype).itemsize, offset)
        data[offset : offset + length] = np.roll(flat.reshape(-1, height, width), -columns, axis=2).tobytes()
    weights.write_bytes(data)
    manifest = json.loads((folder / "bundle.json").read_text("utf-8"))
    manifest["files"][weights.name] = file_sha256(weights)
    (folder / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    return open_bundle(folder)


def peak_columns(bundle: Bundle, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The columns of all peaks of the coarse heatmaps of crops uint8 [n, H, W, 3], computed on the CPU."""
    stages = open_stages(bundle, "cpu", "fp32")
    heatmaps = stages.coarse(crops)["heatmaps"]
    stages.close()
    peaks = heatmaps.reshape(-1, heatmaps.shape[-2] * heatmaps.shape[-1]).argmax(axis=-1)
    return np.asarray(peaks % heatmaps.shape[-1], dtype=np.int64)


def _last_layer(path: Path, pixels: int) -> Iterator[tuple[int, int, type]]:
    """Offset, length in bytes and dtype of weights and bias that give a graph's heatmaps, found from their output."""
    graph = onnx.load(path, load_external_data=False).graph
    makers = {output: node for node in graph.node for output in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    pending = ["heatmaps"]
    while pending:
        name = pending.pop()
        if name in tensors and tensors[name].dims[-1] == pixels:
            fields = {item.key: item.value for item in tensors[name].external_data}
            yield int(fields["offset"]), int(fields["length"]), _DTYPES[tensors[name].data_type]
        node = makers.get(name)
        if node is not None and node.op_type in _PASSED:
            # behind the product lie the keypoint tokens
            pending += node.input[1:] if node.op_type in ("Gemm", "MatMul") else node.input

"""The weights of a bundle by the names that a checkpoint gives them: what its graphs were exported from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sharpose.bundle import Manifest, open_bundle
from sharpose.errors import CheckpointError, how_to_install
from sharpose.model.stages import SHaRPose

_STAGE = "stage."  # before a weight's name in both graphs
_STORED = ".half"  # behind the name of one that is stored as a half and cast


def read_bundle_weights(folder: Path, what: str) -> tuple[dict[str, Tensor], Manifest]:
    """All weights of the bundle's model, in float32 (rounded, where it stores halves), and the bundle's manifest.

    The export names every weight but the matrices of linear layers, which it transposes. Such a matrix is found by
    its layer's bias, which has its name and is added to the product.

    Args:
        folder: The bundle.
        what: What errors call it.

    Raises:
        BundleError: it is no bundle, or a damaged one.
        CheckpointError: it holds quantised graphs alone, or weights that can't be told apart, since the export stores
            equal tensors once, as untrained models have; or the onnx package isn't there.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise CheckpointError(f"{what} {folder}: reading a bundle needs onnx: {how_to_install('export')}") from None
    bundle = open_bundle(folder)
    precision = next((item for item in bundle.precisions if item in ("fp32", "fp16")), None)
    if precision is None:
        raise CheckpointError(
            f"{what} {folder}: expected a bundle with fp32 or fp16 graphs, it has {', '.join(bundle.precisions)} alone"
        )
    state: dict[str, Tensor] = {}
    for stage in ("coarse", "fine"):
        graph = onnx.load(str(bundle.graph(stage, precision)[0])).graph
        arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        made_by = {node.output[0]: node for node in graph.node}
        arrays |= {  # before these, as they are stored: in halves
            name: arrays[node.input[0]]
            for name, node in made_by.items()
            if node.op_type == "Cast" and node.input[0] in arrays
        }
        found = {name: arrays[name] for name in arrays if name.startswith(_STAGE) and not name.endswith(_STORED)}
        for node in graph.node:
            for bias, other in zip(node.input, reversed(node.input), strict=True):
                product = made_by.get(other)
                if node.op_type == "Add" and bias in found and product is not None and product.op_type == "MatMul":
                    found[bias.removesuffix("bias") + "weight"] = arrays[product.input[1]].T
        state |= {name.removeprefix(_STAGE): torch.from_numpy(array.copy()).float() for name, array in found.items()}
    with torch.device("meta"):
        missing = sorted(set(SHaRPose(bundle.model).state_dict()) - set(state))
    if missing:
        raise CheckpointError(
            f"{what} {folder}: {len(missing)} weights can't be told from others that equal them, as in an untrained "
            f"model ({missing[0]} …); give the checkpoint that it was exported from"
        )
    return state, bundle.manifest

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from reference_model import reference_crops

from sharpose.bundle import open_bundle
from sharpose.errors import ExportError
from sharpose.export.bundle import ExportOptions, export_bundle
from sharpose.export.onnx import round_to_half, save_graphs, store_as_half
from sharpose.export.pictures import ParityPictures
from sharpose.model import LoadedModel, SHaRPose

SHAPE = (8, 64)  # 2 KiB


def halves(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float16).astype(np.float32)


def graph_of(**tensors: np.ndarray) -> onnx.ModelProto:
    """Adds up its tensors and its input."""
    sums = ["a", *(f"sum_{name}" for name in tensors)]
    nodes = [helper.make_node("Add", [sums[i], name], [sums[i + 1]]) for i, name in enumerate(tensors)]
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, list(SHAPE)) for name in ("a", sums[-1]))
    stored = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", [a], [b], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_what_a_half_says_exactly_is_stored_so_and_the_graph_computes_the_same(tmp_path: Path) -> None:
    exact, other = halves(0), halves(1) + np.float32(1e-4)
    small = halves(2)[:1]  # 256 bytes: stays as it is
    model = graph_of(exact=exact, other=other, small=small)
    assert store_as_half(model) == 1
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert stored == {"exact.half": TensorProto.FLOAT16, "other": TensorProto.FLOAT, "small": TensorProto.FLOAT}
    save_graphs({"g.onnx": model}, tmp_path, "weights.bin")
    onnx.checker.check_model(str(tmp_path / "g.onnx"), full_check=True)
    assert (tmp_path / "weights.bin").stat().st_size == exact.nbytes // 2 + other.nbytes
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"))
    found = session.run(None, {"a": np.ones(SHAPE, np.float32)})[0]
    assert np.array_equal(found, ((1 + exact) + other) + small)


def test_infinity_and_too_large_a_value_stay_float32() -> None:
    large = halves(0)
    large[0, 0] = 1e6
    model = graph_of(large=large)
    assert store_as_half(model) == 0
    assert numpy_helper.to_array(model.graph.initializer[0]).max() == 1e6


def test_rounding_leaves_the_model_alone_and_refuses_what_is_too_large(little_model: SHaRPose) -> None:
    before = {name: value.clone() for name, value in little_model.state_dict().items()}
    rounded = round_to_half(little_model)
    for name, value in rounded.named_parameters():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name].half().float())
    assert all(torch.equal(value, before[name]) for name, value in little_model.state_dict().items())
    with torch.no_grad():
        rounded.backbone.norm.weight[0] = 1e5
    with pytest.raises(ExportError, match=r"backbone.norm.weight has values beyond 65504"):
        round_to_half(rounded)


@pytest.fixture(scope="module")
def half_stored(little_model: SHaRPose, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    def make(folder: Path) -> None:
        loaded = LoadedModel(little_model, little_model.config, "the tests' reference weights", ())
        pictures = ParityPictures(reference_crops(4, little_model.config.crop_size), "blocks of colour")
        options = ExportOptions(precisions=("fp32", "fp16"), max_batch=4, store_weights="fp16")
        export_bundle(loaded, folder, pictures, options)

    return made_once("half_stored", make)


def test_a_bundle_is_half_as_large_and_keeps_parity_with_the_model_as_it_was(
    half_stored: Path, little_model: SHaRPose
) -> None:
    bundle = open_bundle(half_stored)
    parameters = sum(value.numel() for value in little_model.parameters())
    # half graphs beside them share the bytes, but for their quality head and decoding, which stay float32
    assert (half_stored / "weights.bin").stat().st_size < 2.6 * parameters
    report = bundle.manifest.parity["fp32"]
    assert report.failures == ()
    assert max(item.max_abs_difference for item in report.outputs) > 1e-5  # rounding shows: it isn't left out
    assert all(item.dtype != "float16" for entry in (bundle.graph("coarse")[1],) for item in entry.outputs)


def test_onnx_runtime_folds_the_casts(half_stored: Path, tmp_path: Path) -> None:
    """So a run costs what it costs without them."""
    for name in ("coarse.onnx", "fine.onnx"):
        stored = onnx.load(str(half_stored / name), load_external_data=False)
        casts = {node.name for node in stored.graph.node if node.op_type == "Cast" and node.name.endswith(".cast")}
        assert len(casts) > 8
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / name)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        onnxruntime.InferenceSession(str(half_stored / name), options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(str(tmp_path / name), load_external_data=False)
        assert not casts & {node.name for node in optimised.graph.node}

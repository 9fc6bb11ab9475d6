"""Int8 models: what is quantised, how ranges are chosen, and that graphs in integers do what PyTorch does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from reference_model import reference_crops, reference_state
from torch import nn

from sharpose.bundle import Bundle, ParityReport, open_bundle
from sharpose.config import ModelConfig
from sharpose.engines.precision import tolerance_for
from sharpose.engines.stages import open_stages
from sharpose.export.bundle import ExportOptions, export_bundle
from sharpose.export.parity import StageRuns, compare, run_stages
from sharpose.export.pictures import LEAST_CROPS, ParityPictures
from sharpose.export.quantisation import QuantisedLinear, int8_model
from sharpose.model import LoadedModel, SHaRPose
from sharpose.model.backbone import Block
from sharpose.model.graphs import TorchStages

CROPS = 8


def _model(config: ModelConfig) -> SHaRPose:
    model = SHaRPose(config).eval()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(value) for name, value in reference_state(shapes).items()})
    return model


@pytest.fixture(scope="module")
def model(nano_config: ModelConfig) -> SHaRPose:
    return _model(nano_config.replace({"depth": 1}))


@pytest.fixture(scope="module")
def quantised(model: SHaRPose) -> SHaRPose:
    return int8_model(model, reference_crops(LEAST_CROPS, model.config.crop_size))


@pytest.fixture(scope="module")
def reference(model: SHaRPose) -> StageRuns:
    return run_stages(TorchStages(model), reference_crops(CROPS, model.config.crop_size), (CROPS,))


@pytest.fixture(scope="module")
def bundle(model: SHaRPose, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    crops = reference_crops(LEAST_CROPS, model.config.crop_size)
    pictures = ParityPictures(
        crops, "blocks of colour", calibration=reference_crops(LEAST_CROPS, model.config.crop_size)
    )
    loaded = LoadedModel(model, model.config, "the tests' reference weights", ())
    export_bundle(loaded, folder, pictures, ExportOptions(precisions=("int8",), max_batch=CROPS))
    return open_bundle(folder)


def _compare(model: SHaRPose, reference: StageRuns, runs: StageRuns) -> ParityReport:
    tolerance = tolerance_for("int8")
    return compare(reference, runs, model.config, 0.99, tolerance, pictures="crops", judged="int8", sizes=(CROPS,))


def test_all_linear_layers_but_the_quality_heads_are_quantised(quantised: SHaRPose) -> None:
    kinds = {name: type(module) for name, module in quantised.named_modules()}
    kept = {name for name, kind in kinds.items() if kind is nn.Linear}
    assert kept == {f"backbone.quality_predictor.mlp.{place}" for place in (0, 3, 6)}
    blocks = 4 * quantised.config.depth
    patches, reuse, head = 1, 2, 1
    assert sum(kind is QuantisedLinear for kind in kinds.values()) == blocks + patches + reuse + head


def test_weights_have_seven_bits_by_channel(model: SHaRPose, quantised: SHaRPose) -> None:
    # Of which isn't smoothed.
    layer, plain = (one.get_submodule("backbone.blocks.0.mlp.fc2") for one in (quantised, model))
    assert isinstance(plain, nn.Linear)
    assert isinstance(layer, QuantisedLinear)
    assert layer.weight.dtype == torch.int8
    assert layer.weight.abs().amax(dim=0).unique().tolist() == [63]
    off = (layer.weight * layer.weight_scale - plain.weight.detach().T).abs() / layer.weight_scale
    assert 0.4 < float(off.max()) < 0.501
    assert torch.equal(layer.bias, plain.bias)


def test_poses_are_within_the_limits(model: SHaRPose, quantised: SHaRPose, reference: StageRuns) -> None:
    crops = reference_crops(CROPS, model.config.crop_size)
    report = _compare(model, reference, run_stages(TorchStages(quantised), crops, (CROPS,), reference))
    assert report.failures == ()
    heatmaps = next(item for item in report.outputs if (item.graph, item.output) == ("fine", "heatmaps"))
    assert 1e-4 < heatmaps.mean_abs_difference / heatmaps.reference_range < 0.01


def test_onnx_runtime_computes_in_integers_what_pytorch_rounds(
    model: SHaRPose, quantised: SHaRPose, reference: StageRuns, bundle: Bundle
) -> None:
    crops = reference_crops(CROPS, model.config.crop_size)
    stages = open_stages(bundle, "cpu", "int8", threads=1)
    runs = run_stages(stages, crops, (CROPS,), reference)
    stages.close()
    assert _compare(model, reference, runs).failures == ()
    rounded = run_stages(TorchStages(quantised), crops, (CROPS,), reference)
    for stage in ("coarse", "fine"):
        expected, found = getattr(rounded, stage)["heatmaps"], getattr(runs, stage)["heatmaps"]
        exact = getattr(reference, stage)["heatmaps"]
        # A value at the edge of two steps may be rounded either way; else both are the same.
        assert np.abs(found - expected).mean() < 0.2 * np.abs(exact - expected).mean()


def test_graphs_are_symmetric_as_tensorrt_wants_them(quantised: SHaRPose, bundle: Bundle) -> None:
    for stage, more in (("coarse", 0), ("fine", 3)):
        graph = onnx.load(bundle.graph(stage, "int8")[0]).graph
        constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        made_by = {output: node for node in graph.node for output in node.output}
        quantise = [node for node in graph.node if node.op_type == "QuantizeLinear"]
        layers = 4 * quantised.config.depth + 1 + more  # in the fine stage the reuse MLP and the patches, too
        assert len(quantise) == layers
        for node in quantise:
            assert constants[node.input[2]].dtype == np.int8
            assert constants[node.input[2]] == 0
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and made_by.get(node.input[0]) not in quantise:
                weight, scale = (constants[name] for name in node.input[:2])
                assert weight.dtype == np.int8
                assert scale.shape == weight.shape[1:]
                assert np.abs(weight).max() <= 63  # two products of 8 and 7 bits fit into 16 bits


def test_a_channel_that_sticks_out_is_smoothed_away(model: SHaRPose, reference: StageRuns) -> None:
    """The same model, one channel of whose norms is a hundred times as large, and the weights behind it as small."""
    crops = reference_crops(CROPS, model.config.crop_size)
    spread = _model(model.config)
    for block in spread.backbone.blocks:
        assert isinstance(block, Block)
        for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
            norm.weight.data[3] *= 100
            norm.bias.data[3] *= 100
            linear.weight.data[:, 3] /= 100
    report = _compare(model, reference, run_stages(TorchStages(int8_model(spread, crops)), crops, (CROPS,), reference))
    assert report.failures == ()
    heatmaps = next(item for item in report.outputs if (item.graph, item.output) == ("fine", "heatmaps"))
    assert heatmaps.mean_abs_difference / heatmaps.reference_range < 0.01


def test_tensorrt_rtx_builds_engines_in_int8(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (see the README)")
    from sharpose.engines.tensorrt.build import build_bundle_engines
    from sharpose.engines.tensorrt.library import BuildOptions, find_flavour

    options = BuildOptions(max_batch=CROPS)
    build_bundle_engines(bundle, tmp_path, "int8", options, lambda _: None, flavour=find_flavour("tensorrt_rtx"))
    for stage in ("coarse", "fine"):
        layers = json.loads((tmp_path / f"{stage}.json").read_text())["layers"]
        assert layers["QUANTIZE int8"] > 4 * bundle.model.depth

"""The half model and its graphs: what is float16, what stays float32, and what that does to poses."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto
from reference_model import reference_crops

from sharpose.bundle import Bundle
from sharpose.errors import ExportError
from sharpose.export.onnx import half_model
from sharpose.export.parity import run_stages
from sharpose.export.pictures import scene_pictures
from sharpose.model import SHaRPose
from sharpose.model.graphs import TorchStages

_HALF, _FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
_QUALITY_LAYERS = 3


class _Graph:
    """A graph of a bundle with the dtype of every value."""

    def __init__(self, bundle: Bundle, stage: str) -> None:
        path, _ = bundle.graph(stage, "fp16")
        model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), strict_mode=True)
        graph = model.graph
        self.nodes = list(graph.node)
        self.initializers = {item.name: item for item in graph.initializer}
        self.dtypes = {name: item.data_type for name, item in self.initializers.items()}
        for value in (*graph.value_info, *graph.input, *graph.output):
            self.dtypes[value.name] = value.type.tensor_type.elem_type
        self._makers = {output: node for node in self.nodes for output in node.output}

    def of_type(self, op_type: str) -> list[NodeProto]:
        return [node for node in self.nodes if node.op_type == op_type]

    def maker(self, value: str) -> NodeProto:
        """The node that gives a value."""
        return self._makers[value]

    def island(self, value: str) -> Iterator[NodeProto]:
        """The nodes that a value is computed from, back to the casts from half."""
        seen: set[str] = set()
        pending = [value]
        while pending:
            node = self._makers.get(pending.pop())
            if node is None or node.output[0] in seen:
                continue
            seen.add(node.output[0])
            yield node
            if not (node.op_type == "Cast" and self.dtypes[node.input[0]] == _HALF):
                pending.extend(node.input)


@pytest.fixture(scope="module")
def coarse(two_precisions: Bundle) -> _Graph:
    return _Graph(two_precisions, "coarse")


@pytest.fixture(scope="module")
def fine(two_precisions: Bundle) -> _Graph:
    return _Graph(two_precisions, "fine")


def test_every_layer_norm_is_one_node_with_float32_statistics(
    coarse: _Graph, fine: _Graph, two_precisions: Bundle
) -> None:
    per_stage = 2 * two_precisions.model.depth + 1 + 1  # of the blocks, the final one, the heatmap head's
    for graph, expected in ((coarse, per_stage + 1), (fine, per_stage + 1)):  # the quality head's; the reuse MLP's
        norms = graph.of_type("LayerNormalization")
        assert len(norms) == expected
        for norm in norms:
            assert [item.i for item in norm.attribute if item.name == "stash_type"] in ([], [1])  # 1 is the default
        assert not graph.of_type("Pow")
        assert not graph.of_type("Sqrt")


def test_every_layer_norm_is_float32_between_two_casts(coarse: _Graph, fine: _Graph) -> None:
    for graph in (coarse, fine):
        for norm in graph.of_type("LayerNormalization"):
            assert {graph.dtypes[name] for name in (*norm.input, *norm.output)} == {_FLOAT}
            before = graph.maker(norm.input[0])
            assert (before.op_type, graph.dtypes[before.input[0]]) == ("Cast", _HALF)
            readers = [node for node in graph.nodes if norm.output[0] in node.input]
            if norm.output[0] not in {node.output[0] for node in coarse.island("quality")}:  # it goes on in float32
                assert [(node.op_type, graph.dtypes[node.output[0]]) for node in readers] == [("Cast", _HALF)]


def test_relevance_is_float32_from_the_mined_rows_to_the_topk(coarse: _Graph, two_precisions: Bundle) -> None:
    (topk,) = coarse.of_type("TopK")
    island = list(coarse.island(topk.input[0]))
    mined = two_precisions.model.depth - two_precisions.model.depth // 4
    kinds = [node.op_type for node in island]
    assert kinds.count("Softmax") == mined
    assert kinds.count("MatMul") == mined
    assert kinds.count("Cast") >= 2 * mined  # queries and keys
    floating = {coarse.dtypes[node.output[0]] for node in island} & {_HALF, _FLOAT}
    assert floating == {_FLOAT}


def test_the_quality_head_is_float32(coarse: _Graph) -> None:
    island = list(coarse.island("quality"))
    kinds = [node.op_type for node in island]
    assert kinds.count("Gemm") + kinds.count("MatMul") == _QUALITY_LAYERS
    assert kinds.count("Gelu") == _QUALITY_LAYERS
    assert kinds.count("LayerNormalization") == 1
    assert {coarse.dtypes[node.output[0]] for node in island} & {_HALF, _FLOAT} == {_FLOAT}


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_heatmaps_are_decoded_in_float32_and_the_blocks_run_in_half(
    stage: str, coarse: _Graph, fine: _Graph, two_precisions: Bundle
) -> None:
    graph = {"coarse": coarse, "fine": fine}[stage]
    (argmax,) = graph.of_type("ArgMax")
    assert graph.dtypes[argmax.input[0]] == _FLOAT
    (convolution,) = graph.of_type("Conv")
    assert graph.dtypes[convolution.input[0]] == _HALF
    in_half = [node for node in graph.of_type("Softmax") if graph.dtypes[node.output[0]] == _HALF]
    assert len(in_half) == two_precisions.model.depth
    assert not [node for node in graph.nodes if node.op_type == "Cast" and graph.dtypes[node.output[0]] == 11]  # double


def test_inputs_and_outputs_have_the_contracts_dtypes(two_precisions: Bundle) -> None:
    _, coarse = two_precisions.graph("coarse", "fp16")
    _, fine = two_precisions.graph("fine", "fp16")
    assert {item.name: item.dtype for item in (*coarse.inputs, *coarse.outputs)} == {
        "image": "uint8",
        "keypoints": "float32",
        "quality": "float32",
        "region_order": "int32",
        "region_features": "float16",
        "region_embeddings": "float16",
        "heatmaps": "float32",
    }
    assert {item.name: item.dtype for item in (*fine.inputs, *fine.outputs)} == {
        "rows": "int32",
        "patches": "uint8",
        "region_order": "int32",
        "region_features": "float16",
        "region_embeddings": "float16",
        "keypoints": "float32",
        "heatmaps": "float32",
    }


def test_both_precisions_share_one_file_of_weights(two_precisions: Bundle) -> None:
    assert sorted(two_precisions.manifest.files) == [
        "coarse.fp16.onnx",
        "coarse.onnx",
        "fine.fp16.onnx",
        "fine.onnx",
        "weights.bin",
    ]
    places = []
    for precision in two_precisions.precisions:
        path, _ = two_precisions.graph("coarse", precision)
        model = onnx.load(path, load_external_data=False)
        places.append(
            {
                entry.value
                for item in model.graph.initializer
                if item.data_type == _FLOAT and list(item.dims) == [96, 96]  # the quality head's two square layers
                for entry in item.external_data
                if entry.key == "offset"
            }
        )
    assert len(places[1]) == _QUALITY_LAYERS - 1
    assert places[1] < places[0]  # in float32 the blocks' output projections are square, too


def test_the_report_compares_half_with_float32_pytorch(two_precisions: Bundle) -> None:
    report = two_precisions.manifest.parity["fp16"]
    assert report.judged == "PyTorch in float16 against PyTorch in float32"
    assert report.pictures == "blocks of colour"
    heatmaps = next(item for item in report.outputs if (item.graph, item.output) == ("fine", "heatmaps"))
    assert 1e-5 < heatmaps.max_abs_difference / heatmaps.reference_range < 5e-3  # half it is, and not ruined
    assert two_precisions.manifest.parity["fp32"].outputs[5].max_abs_difference < 1e-4


def test_half_finds_the_same_regions_and_keypoints(little_model: SHaRPose) -> None:
    size = little_model.config.crop_size
    crops = np.concatenate([scene_pictures(size, 12).crops, reference_crops(12, size)])
    exact = run_stages(TorchStages(little_model), crops, (8,))
    half = run_stages(TorchStages(half_model(little_model)), crops, (8,), exact)
    selected = little_model.config.num_selected
    orders = [runs.coarse["region_order"][:, :selected] for runs in (exact, half)]
    same = [
        set(exactly) == set(roughly) for exactly, roughly in zip(*(order.tolist() for order in orders), strict=True)
    ]
    assert np.mean(same) >= 0.95
    ours, theirs = (runs.whole["keypoints"][..., :2].astype(np.float64) for runs in (exact, half))
    assert np.median(np.linalg.norm(ours - theirs, axis=-1)) < 0.05
    quality = np.abs(exact.coarse["quality"].astype(np.float64) - half.coarse["quality"].astype(np.float64))
    assert quality.max() < 0.01


def test_the_model_itself_stays_as_it_was(little_model: SHaRPose) -> None:
    half = half_model(little_model)
    assert {value.dtype for value in little_model.parameters()} == {torch.float32}
    for name, value in half.named_parameters():
        is_norm = re.search(r"norm|reuse_block\.0|heatmap_mlp\.[03]", name)
        assert value.dtype == (torch.float32 if is_norm or "quality_predictor" in name else torch.float16), name
    exact = dict(little_model.named_parameters())
    kept = {name: value for name, value in half.named_parameters() if value.dtype == torch.float32}
    assert len(kept) > 2 * 2 * little_model.config.depth
    assert all(torch.equal(value, exact[name]) for name, value in kept.items())


def test_a_weight_beyond_half_is_refused_by_name(little_model: SHaRPose) -> None:
    model = copy.deepcopy(little_model)
    with torch.no_grad():
        dict(model.named_parameters())["backbone.blocks.0.mlp.fc1.weight"][0, 0] = 1e5
    with pytest.raises(ExportError, match=r"backbone\.blocks\.0\.mlp\.fc1\.weight has weights beyond 65504"):
        half_model(model)

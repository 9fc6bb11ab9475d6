"""The parity report says how far graphs are from the model, and what is beyond tolerance."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from reference_model import reference_crops

from sharpose.bundle import open_bundle
from sharpose.engines.onnxrt import OnnxRuntimeRunner
from sharpose.export.onnx import save_graphs
from sharpose.export.parity import batch_sizes, failures, measure_parity, run_stages, strict_failures, tolerance_for
from sharpose.export.pictures import ParityPictures
from sharpose.model import random_model
from sharpose.model.graphs import TorchStages
from sharpose.runtime.stages import EngineStages

STAGES = ("coarse", "fine")
FP32 = tolerance_for("fp32")


@pytest.fixture(scope="module")
def model(tiny_bundle):
    return random_model(open_bundle(tiny_bundle).model, seed=0).model


@pytest.fixture(scope="module")
def pictures():
    return ParityPictures(reference_crops(5, (256, 192)), "blocks")


@pytest.fixture(scope="module")
def measure(tiny_bundle, model, pictures):
    """The report on the tiny bundle's graphs after `change` was done to their protobufs."""
    bundle = open_bundle(tiny_bundle)
    reference = run_stages(TorchStages(model), pictures.crops, batch_sizes(4))

    def run(folder, change=None):
        graphs = {file: onnx.load(str(tiny_bundle / file)) for file in ("coarse.onnx", "fine.onnx")}
        if change is not None:
            change(graphs)
        save_graphs(graphs, folder, "weights.bin")
        runners = (OnnxRuntimeRunner(folder / f"{stage}.onnx", bundle.graph(stage)[1], 16) for stage in STAGES)
        return measure_parity(reference, EngineStages(bundle.model, "fp32", *runners), pictures, None)

    return run


@pytest.fixture(scope="module")
def good(measure, tmp_path_factory):
    return measure(tmp_path_factory.mktemp("good"))


def change_bias(graphs, file, amount):
    """Add to the bias of the heatmap head, found by its 64 x 48 values."""
    graph = graphs[file].graph
    tensor = next(item for item in graph.initializer if list(item.dims) == [64 * 48])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(amount), tensor.name))


def test_good_graphs_pass(good):
    assert good.failures == ()
    assert strict_failures(good, FP32) == []
    assert good.region_set_agreement == 1
    assert good.gate_agreement == 1
    assert good.gate_flips == 0
    assert good.keypoint_pixels_median < 0.01
    assert good.crops == 5
    assert good.batch_sizes == (1, 3, 8)
    assert good.pictures == "blocks"
    assert good.tolerance == 1e-3


def test_every_output_is_measured(good):
    measured = {(item.graph, item.output): item for item in good.outputs}
    assert set(measured) == {
        *(
            ("coarse", name)
            for name in ("keypoints", "quality", "region_order", "region_features", "region_embeddings", "heatmaps")
        ),
        ("fine", "keypoints"),
        ("fine", "heatmaps"),
    }
    for item in measured.values():
        assert 0 <= item.mean_abs_difference <= item.max_abs_difference
    heatmaps = measured["fine", "heatmaps"]
    assert heatmaps.reference_range > 1
    assert heatmaps.max_abs_difference < 1e-4


def test_a_difference_is_measured_exactly(measure, tmp_path):
    report = measure(tmp_path, lambda graphs: change_bias(graphs, "fine.onnx", 0.25))
    measured = {(item.graph, item.output): item for item in report.outputs}
    assert measured["fine", "heatmaps"].max_abs_difference == pytest.approx(0.25, abs=1e-4)
    assert measured["fine", "heatmaps"].mean_abs_difference == pytest.approx(0.25, abs=1e-4)
    assert measured["coarse", "heatmaps"].max_abs_difference < 1e-4
    (failure,) = report.failures
    assert failure.startswith("fine heatmaps off by 0.25, more than 0.001 of its range")


def test_not_a_number_is_beyond_tolerance(measure, tmp_path):
    report = measure(tmp_path, lambda graphs: change_bias(graphs, "coarse.onnx", np.nan))
    assert any(line.startswith("coarse heatmaps off by nan") for line in report.failures)


def test_strict_refuses_what_else_moved(good):
    moved = good.model_copy(
        update={
            "region_set_agreement": 0.8,
            "gate_flips": 1,
            "keypoint_pixels_median": 0.02,
            "keypoint_pixels_p99": 0.3,
        }
    )
    assert failures(moved, FP32) == []
    found = " | ".join(strict_failures(moved, FP32))
    assert "region sets agree on 80.0%" in found
    assert "0.02 px at the median" in found
    assert "0.3 px at the 99th percentile" in found
    assert "1 gate decisions flipped" in found


@pytest.mark.parametrize(
    "change", [{"region_set_agreement": 0.5}, {"keypoint_pixels_median": 0.5}, {"keypoint_pixels_median": float("nan")}]
)
def test_ruined_graphs_fail_without_strict(good, change):
    assert len(failures(good.model_copy(update=change), FP32)) == 1

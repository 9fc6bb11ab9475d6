"""Comparing two runs: the numbers of the report, what is beyond tolerance, and graphs against the model."""

from __future__ import annotations

import io
import signal
import threading
import time
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from reference_model import reference_crops
from rich.console import Console

from sharpose.bundle import ParityReport, open_bundle
from sharpose.config import ModelConfig, load_config
from sharpose.engines.onnxrt import OnnxRuntimeRunner
from sharpose.engines.precision import failures, strict_failures, tolerance_for
from sharpose.engines.stages import Arrays, EngineStages
from sharpose.errors import EngineError
from sharpose.export.onnx import save_graphs
from sharpose.export.parity import (
    StageRuns,
    batch_sizes,
    compare,
    measure_parity,
    print_parity,
    run_stages,
)
from sharpose.export.pictures import ParityPictures
from sharpose.model import random_model
from sharpose.model.graphs import TorchStages

STAGES = ("coarse", "fine")
FP32 = tolerance_for("fp32")


@pytest.fixture(scope="module")
def model(nano_bundle):
    return random_model(open_bundle(nano_bundle).model, seed=0).model


@pytest.fixture(scope="module")
def pictures(nano_config):
    return ParityPictures(reference_crops(5, nano_config.crop_size), "blocks")


@pytest.fixture(scope="module")
def measure(nano_bundle, model, pictures):
    """The report on the nano bundle's graphs after `change` was done to their protobufs."""
    bundle = open_bundle(nano_bundle)
    reference = run_stages(TorchStages(model), pictures.crops, batch_sizes(4))

    def run(folder, change=None):
        graphs = {file: onnx.load(str(nano_bundle / file)) for file in ("coarse.onnx", "fine.onnx")}
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
    """Add to the bias of the heatmap head, found by its 32 x 24 values."""
    graph = graphs[file].graph
    tensor = next(item for item in graph.initializer if list(item.dims) == [32 * 24])
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


_PEOPLE = 4


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return load_config("sharpose_tiny_coco_256x192")


def _runs(config: ModelConfig) -> StageRuns:
    order = np.tile(np.arange(config.num_regions, dtype=np.int32), (_PEOPLE, 1))
    keypoints = np.zeros((_PEOPLE, config.num_keypoints, 3), np.float32)
    heatmaps = np.linspace(0, 1, _PEOPLE * 4, dtype=np.float32).reshape(_PEOPLE, 1, 2, 2)
    quality = np.array([0.5, 0.98, 0.995, 1.5], np.float32)
    coarse: Arrays = {"keypoints": keypoints, "quality": quality, "region_order": order, "heatmaps": heatmaps}
    fine: Arrays = {"keypoints": keypoints.copy(), "heatmaps": heatmaps.copy()}
    return StageRuns(coarse, fine, {name: value.copy() for name, value in fine.items()})


def _compare(config: ModelConfig, reference: StageRuns, actual: StageRuns) -> ParityReport:
    return compare(
        reference, actual, config, 0.99, tolerance_for("fp16"), pictures="arrays", judged="a test", sizes=(1,)
    )


def _changed(runs: StageRuns, name: str, value: npt.NDArray[np.generic]) -> StageRuns:
    return StageRuns(runs.coarse | {name: value}, runs.fine, runs.whole)


def test_equal_runs_agree_in_everything(config: ModelConfig) -> None:
    report = _compare(config, _runs(config), _runs(config))
    assert (report.region_set_agreement, report.gate_agreement, report.gate_flips) == (1.0, 1.0, 0)
    assert report.gate_near_threshold == 2
    assert report.keypoint_pixels_max == 0
    assert report.failures == ()
    assert {(item.graph, item.output) for item in report.outputs} >= {("coarse", "quality"), ("fine", "heatmaps")}


def test_an_order_within_the_selected_regions_does_not_matter(config: ModelConfig) -> None:
    runs = _runs(config)
    order = runs.coarse["region_order"].copy()
    order[0, :2] = order[0, 1::-1]
    assert _compare(config, runs, _changed(runs, "region_order", order)).region_set_agreement == 1.0
    order[1, 0], order[1, -1] = order[1, -1], order[1, 0]
    assert _compare(config, runs, _changed(runs, "region_order", order)).region_set_agreement == 0.75


def test_gate_flips_are_told_apart_by_how_near_they_are(config: ModelConfig) -> None:
    runs = _runs(config)
    report = _compare(config, runs, _changed(runs, "quality", np.array([1.2, 0.999, 0.995, 1.5], np.float32)))
    assert (report.gate_flips, report.gate_flips_near_threshold, report.gate_near_threshold) == (2, 1, 2)
    assert report.gate_agreement == 0.5


def test_keypoints_are_measured_in_pixels_over_both_stages(config: ModelConfig) -> None:
    runs = _runs(config)
    moved = runs.whole["keypoints"].copy()
    moved[..., 0] += 3
    moved[..., 1] -= 4
    report = _compare(config, runs, StageRuns(runs.coarse, runs.fine, runs.whole | {"keypoints": moved}))
    assert report.keypoint_pixels_max == 5.0
    assert report.keypoint_pixels_median == 2.5  # half of them, those of the coarse stage, stayed
    assert "keypoints moved 2.5 px" in report.failures[0]


def test_differences_of_heatmaps_fail_with_their_range(config: ModelConfig) -> None:
    runs = _runs(config)
    report = _compare(config, runs, _changed(runs, "heatmaps", runs.coarse["heatmaps"] * np.float32(1.5)))
    assert report.failures == ("coarse heatmaps off by 0.5, more than 0.02 of its range 1",)


class _Recorder:
    """Stages that give recognisable numbers and remember what they were given."""

    def __init__(self, config: ModelConfig, offset: int) -> None:
        self.config, self.max_batch = config, 8
        self.offset = offset
        self.batches: list[int] = []
        self.features: list[float] = []

    def coarse(self, crops: npt.NDArray[np.uint8]) -> Arrays:
        self.batches.append(len(crops))
        order = np.tile(np.arange(self.config.num_regions, dtype=np.int32), (len(crops), 1))
        features = np.full((len(crops), 1), self.offset, np.float32) + crops[:, 0, 0, :1]
        return {"region_order": order, "region_features": features, "region_embeddings": features}

    def fine(self, inputs: Arrays) -> Arrays:
        self.features += [float(value) for value in inputs["region_features"][:, 0].astype(np.float64)]
        return {"keypoints": inputs["region_features"]}

    def close(self) -> None:
        pass


def test_crops_run_in_batches_and_fine_is_judged_on_the_references_outputs(config: ModelConfig) -> None:
    crops = np.zeros((6, *config.crop_size, 3), np.uint8)
    crops[:, 0, 0, 0] = np.arange(6)
    exact, other = _Recorder(config, 0), _Recorder(config, 100)
    reference = run_stages(exact, crops, (1, 3))
    actual = run_stages(other, crops, (1, 3), reference)
    assert other.batches == [1, 3, 1, 1]
    assert actual.fine["keypoints"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert actual.whole["keypoints"][:, 0].tolist() == [100, 101, 102, 103, 104, 105]
    assert exact.features == [0, 1, 2, 3, 4, 5]


def test_batches_are_no_larger_than_the_bundle_takes() -> None:
    assert batch_sizes(16) == (1, 3, 8)
    assert batch_sizes(4) == (1, 3)
    assert batch_sizes(1) == (1,)


def test_the_table_names_every_output_and_what_it_means_for_poses(nano_bundle):
    report = open_bundle(nano_bundle).manifest.parity["fp32"]
    changed = report.model_copy(
        update={"keypoint_pixels_p99": 0.25, "region_set_agreement": 0.75, "pictures": "blocks of colour"}
    )
    out = io.StringIO()
    print_parity("fp32", changed, Console(file=out, width=200))
    text = " ".join(out.getvalue().split())
    for item in report.outputs:
        assert f"{item.graph} {item.output}" in text
        assert f"{item.max_abs_difference:.2e}" in text
    assert "blocks of colour" in text
    assert "2.5e-01 px at the 99th percentile" in text
    assert "75.0%" in text


def test_regions_are_counted_one_by_one_too(config: ModelConfig) -> None:
    runs = _runs(config)
    order = runs.coarse["region_order"].copy()
    order[1, 0], order[1, -1] = order[1, -1], order[1, 0]
    report = _compare(config, runs, _changed(runs, "region_order", order))
    assert report.region_slot_agreement == pytest.approx(1 - 1 / (_PEOPLE * config.num_selected))


class Slow:
    """In place of a graph's runner: a run that takes ten seconds unless it is terminated, as ONNX Runtime's can be."""

    max_batch = 4
    inputs: ClassVar[dict[str, object]] = {}
    outputs: ClassVar[dict[str, object]] = {}

    def __init__(self) -> None:
        self.terminated = threading.Event()

    def run(self, *given: object) -> dict[str, object]:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if self.terminated.is_set():
                raise EngineError("terminated")
            time.sleep(0.005)
        raise AssertionError("it ran to its end")

    def terminate(self) -> None:
        self.terminated.set()


def test_a_signal_ends_the_batch_that_engines_are_at(nano_config):
    """The handler itself is put off, as Python puts it off while an engine runs."""
    stages = EngineStages(nano_config, "fp32", Slow(), Slow())
    put_off = signal.signal(signal.SIGINT, lambda number, frame: None)
    sender = threading.Timer(0.05, signal.raise_signal, [signal.SIGINT])
    sender.start()
    try:
        with pytest.raises(EngineError, match="terminated"):
            run_stages(stages, np.zeros((2, *nano_config.crop_size, 3), np.uint8), (2,))
    finally:
        sender.join()
        signal.signal(signal.SIGINT, put_off)
    assert stages.fine_runner.terminated.is_set()

"""Comparing two runs: each number of the report, from arrays made for it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from sharpose.bundle import ParityReport
from sharpose.config import ModelConfig, load_config
from sharpose.export.parity import StageRuns, batch_sizes, compare, run_stages, tolerance_for
from sharpose.runtime.stages import Arrays

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

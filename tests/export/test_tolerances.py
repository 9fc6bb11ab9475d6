"""What is within tolerance, and what isn't."""

from __future__ import annotations

import math

import pytest

from sharpose.bundle import OutputParity, ParityReport
from sharpose.export.parity import failures, strict_failures, tolerance_for


def _report(**changes: object) -> ParityReport:
    heatmaps = OutputParity(
        graph="fine", output="heatmaps", max_abs_difference=1e-6, mean_abs_difference=1e-7, reference_range=2.0
    )
    values: dict[str, object] = {
        "pictures": "none",
        "crops": 16,
        "batch_sizes": (1,),
        "outputs": (heatmaps,),
        "region_set_agreement": 1.0,
        "gate_agreement": 1.0,
        "keypoint_pixels_median": 0.0,
        "keypoint_pixels_p99": 0.0,
        "keypoint_pixels_max": 0.0,
        "tolerance": 1e-3,
    }
    return ParityReport.model_validate(values | changes)


def _off_by(difference: float, output: str = "heatmaps") -> ParityReport:
    item = OutputParity(
        graph="coarse", output=output, max_abs_difference=difference, mean_abs_difference=0.0, reference_range=2.0
    )
    return _report(outputs=(item,))


def test_a_good_report_passes_even_strictly() -> None:
    assert failures(_report(), tolerance_for("fp32")) == []
    assert strict_failures(_report(), tolerance_for("fp32")) == []


@pytest.mark.parametrize(
    ("precision", "device", "within", "beyond"),
    [("fp32", "cpu", 0.0019, 0.0021), ("fp32", "cuda:0", 0.019, 0.021), ("fp16", "cpu", 0.039, 0.041)],
)
def test_heatmaps_may_be_off_by_a_share_of_their_range(
    precision: str, device: str, within: float, beyond: float
) -> None:
    tolerance = tolerance_for("fp16" if precision == "fp16" else "fp32", device)
    assert failures(_off_by(within), tolerance) == []
    (line,) = failures(_off_by(beyond), tolerance)
    assert line.startswith("coarse heatmaps off by")


def test_nan_is_beyond_every_tolerance() -> None:
    assert failures(_off_by(math.nan, "quality"), tolerance_for("fp16"))
    assert failures(_report(keypoint_pixels_median=math.nan), tolerance_for("fp16"))


def test_outputs_that_are_not_poses_are_only_reported() -> None:
    assert failures(_off_by(47.0, "region_order"), tolerance_for("fp32")) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_lost_regions_and_moved_keypoints_fail(precision: str) -> None:
    tolerance = tolerance_for("fp16" if precision == "fp16" else "fp32")
    assert failures(_report(region_set_agreement=0.5), tolerance)[0].startswith("region sets agree on 50.0%")
    assert failures(_report(keypoint_pixels_median=2.0), tolerance)[0].startswith("keypoints moved 2 px")


def test_strict_adds_small_moves_and_keeps_what_failed_already() -> None:
    report = _report(
        region_set_agreement=0.9, keypoint_pixels_median=0.04, keypoint_pixels_p99=0.5, failures=("in ONNX Runtime: x",)
    )
    lines = strict_failures(report, tolerance_for("fp32"))
    assert lines[0] == "in ONNX Runtime: x"
    assert len(lines) == 4
    assert len(strict_failures(report, tolerance_for("fp16"))) == 2  # the regions: 95 % must agree


def test_gates_may_flip_near_the_threshold_in_half_only() -> None:
    near = _report(gate_flips=2, gate_flips_near_threshold=2, gate_near_threshold=3)
    far = _report(gate_flips=2, gate_flips_near_threshold=1, gate_near_threshold=3)
    assert strict_failures(near, tolerance_for("fp16")) == []
    assert strict_failures(near, tolerance_for("fp32")) == ["2 gate decisions flipped"]
    assert strict_failures(far, tolerance_for("fp16")) == [
        "1 gate decisions flipped further than 0.02 from the threshold"
    ]

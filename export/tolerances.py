"""How far a graph or an engine may be from its reference before a check says no, by precision. Torch-free.

Measured for orientation: float32 graphs in ONNX Runtime differ from PyTorch by less than 1e-5 of a heatmap's range,
half models by less than 1e-3, with keypoints moved by 0.01 pixels at the median. The limits leave room for other
hardware and stay far below what a ruined graph does (LayerNorm statistics in half: not one region set in 64 is right).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sharpose.manifest import ParityReport, Precision

__all__ = ["GATE_MARGIN", "Tolerance", "failures", "strict_failures", "tolerance_for"]

GATE_MARGIN = 0.02
"""A crop is near the gate's threshold if its quality is off it by at most this; nothing else may flip in half."""


@dataclass(frozen=True)
class Tolerance:
    """Limits.

    Attributes:
        share_of_range: Of its own range that a heatmap or a quality may be off by.
        rounding: What either may be off by in any case (an untrained quality hardly has a range).
        region_sets: Least share of crops with the same set of selected regions.
        pixels_median: Most that keypoints may move at the median, in crop pixels.
        strict_region_sets: The same for `--strict-parity`, as the next two.
        strict_pixels_median: In crop pixels.
        strict_pixels_p99: At the 99th percentile, in crop pixels.
        strict_flips_near: Whether gate decisions may flip within `GATE_MARGIN` of the threshold.
        enforced: Whether anything is refused; int8 is experimental, and only reported.
    """

    share_of_range: float
    rounding: float
    region_sets: float
    pixels_median: float
    strict_region_sets: float
    strict_pixels_median: float
    strict_pixels_p99: float
    strict_flips_near: bool
    enforced: bool = True


_FP32 = Tolerance(1e-3, 1e-5, 0.75, 0.25, 1.0, 0.01, 0.1, False)
# GPUs multiply float32 matrices in TF32, with the mantissa of a half, unless they are told not to.
_FP32_ON_GPU = Tolerance(1e-2, 1e-3, 0.75, 0.25, 0.95, 0.05, 1.0, True)
_FP16 = Tolerance(2e-2, 2e-3, 0.75, 0.5, 0.95, 0.05, 1.0, True)
_INT8 = dataclasses.replace(_FP16, enforced=False)


def tolerance_for(precision: Precision, device: str = "cpu") -> Tolerance:
    """The limits for graphs of a precision on a device (`cpu`, `cuda:0` …)."""
    if precision == "int8":
        return _INT8
    if precision == "fp32":
        return _FP32 if device == "cpu" else _FP32_ON_GPU
    return _FP16


def failures(report: ParityReport, tolerance: Tolerance) -> list[str]:
    """What is beyond tolerance, a line each; a NaN is."""
    if not tolerance.enforced:
        return []
    share = tolerance.share_of_range
    found = [
        f"{item.graph} {item.output} off by {item.max_abs_difference:.3g}, "
        f"more than {share:g} of its range {item.reference_range:.3g}"
        for item in report.outputs
        if item.output in ("heatmaps", "quality")
        and not item.max_abs_difference <= max(share * item.reference_range, tolerance.rounding)
    ]
    return found + _moved(report, tolerance.region_sets, tolerance.pixels_median)


def strict_failures(report: ParityReport, tolerance: Tolerance) -> list[str]:
    """What `--strict-parity` also refuses: differing regions, flipped gates, keypoints that moved."""
    if not tolerance.enforced:
        return []
    found = list(report.failures)
    moved = _moved(report, tolerance.strict_region_sets, tolerance.strict_pixels_median)
    found += [line for line in moved if line not in found]
    if not report.keypoint_pixels_p99 <= tolerance.strict_pixels_p99:
        found.append(
            f"keypoints moved {report.keypoint_pixels_p99:.3g} px at the 99th percentile "
            f"(limit {tolerance.strict_pixels_p99:g})"
        )
    flips = report.gate_flips - (report.gate_flips_near_threshold if tolerance.strict_flips_near else 0)
    if flips:
        where = f" further than {GATE_MARGIN:g} from the threshold" if tolerance.strict_flips_near else ""
        found.append(f"{flips} gate decisions flipped{where}")
    return found


def _moved(report: ParityReport, region_sets: float, pixels_median: float) -> list[str]:
    found = []
    if not report.region_set_agreement >= region_sets:
        found.append(
            f"region sets agree on {report.region_set_agreement:.1%} of the crops (at least {region_sets:.0%} must)"
        )
    if not report.keypoint_pixels_median <= pixels_median:
        found.append(f"keypoints moved {report.keypoint_pixels_median:.3g} px at the median (limit {pixels_median:g})")
    return found

"""The precision that both stages compute in: what bundle and device have, what `auto` takes, tolerances. Torch-free.

Nothing heavy is imported: command lines read `PRECISIONS` before they know whether anything will run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from sharpose.engines.device import UNTRIED, Device, engine_of, hardware_of, parse_device
from sharpose.errors import BundleError, EngineError, InputError

if TYPE_CHECKING:
    from sharpose.bundle import Bundle, ParityReport, Precision, Verified

RunPrecision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]
"""What a stage computes in: that of its graphs; or bf16, to which an engine rounds float32 graphs."""
PrecisionChoice: TypeAlias = Literal["auto", "fp32", "fp16", "bf16", "int8"]
"""What a user asks for: a precision, or the fastest right one."""
PRECISIONS: tuple[PrecisionChoice, ...] = get_args(PrecisionChoice)

_ENOUGH_CROPS = 16  # those of the built-in scene: fewer say nothing of flips
_FASTER = 0.95  # of the usual precision's time: less of a difference may be chance
_ON_CPU: tuple[Precision, ...] = ("fp32", "int8", "fp16")  # by preference
_NEVER_FASTER = ("cpu", "fp16")  # ONNX Runtime computes it in float32; a measurement that says otherwise was disturbed
_ON_GPU: tuple[Precision, ...] = ("fp16", "fp32", "int8")
_ON_UNTRIED: tuple[Precision, ...] = ("fp32", "fp16", "int8")


def graphs_of(precision: RunPrecision) -> Precision:
    """The precision of the graphs that a stage computing in `precision` runs."""
    return "fp32" if precision == "bf16" else precision


def graphs_for(bundle: Bundle, device: Device, precision: RunPrecision) -> Precision:
    """The same on a device: OpenVINO rounds float32 graphs to half precision where the bundle has no half graphs."""
    rounds = device.kind == "openvino" and precision == "fp16" and "fp16" not in bundle.precisions
    return "fp32" if rounds else graphs_of(precision)


def choose_precision(bundle: Bundle, device: Device, asked: str = "auto") -> RunPrecision:
    """The precision to compute in.

    Args:
        bundle: An opened bundle.
        device: Where it is to run.
        asked: One of `PRECISIONS`. `auto` takes the fastest that `sharpose-export --verify` found to be right on this
            kind of device; where that isn't known, fp32, on a GPU fp16 if the export verified it, on an NPU fp16; and
            of a bundle without those, what it holds.

    Raises:
        InputError: `asked` is none of `PRECISIONS`.
        BundleError: the bundle has no graphs for it.
        EngineError: the device can't compute in it.
    """
    if asked not in PRECISIONS:
        *others, last = PRECISIONS
        raise InputError(f"precision: expected {', '.join(others)} or {last}, got {asked!r}")
    if asked == "auto":
        return _fastest(bundle, device)
    if asked == "bf16" and device.kind != "openvino":
        raise EngineError(f"precision bf16: device {device} has none; expected device openvino, or another precision")
    check_graphs(bundle, asked, graphs_for(bundle, device, asked))
    return asked


def check_graphs(bundle: Bundle, precision: RunPrecision, graphs: Precision) -> None:
    """Raise `BundleError` where a bundle lacks the graphs that a precision runs."""
    if precision == "bf16" and graphs not in bundle.precisions:
        held = bundle.precisions
        raise BundleError(
            f"bundle {bundle.path}: holds {', '.join(held)} graphs, but {precision} runs {graphs} ones; export it with "
            f"--precision {','.join((graphs, *held))}"
        )
    bundle.graph("coarse", graphs)


def _fastest(bundle: Bundle, device: Device) -> RunPrecision:
    """The fastest precision that was verified here; the usual one where it is as fast, or nothing is known."""
    found = _verified_here(bundle, device)
    usual = _usual(bundle, device, found)
    if usual not in found or doubt(bundle, found[usual]) is not None:
        return usual
    right = [entry for entry in found.values() if doubt(bundle, entry) is None]
    right = [entry for entry in right if entry.precision == usual or (device.family, entry.precision) != _NEVER_FASTER]
    best = min(right, key=lambda entry: entry.time_against(found[usual]))
    return best.precision if best.time_against(found[usual]) < _FASTER else usual


def doubt(bundle: Bundle, entry: Verified) -> str | None:
    """Why `auto` doesn't go by what was verified, however fast; None if it does."""
    if (wrong := _wrong(bundle, entry)) is not None:
        return wrong
    if bundle.has_random_weights:
        return "weights are random, so nothing is right or wrong"
    crops = entry.parity.crops
    return None if crops >= _ENOUGH_CROPS else f"{crops} crops were compared, at least {_ENOUGH_CROPS} must be"


def withheld(bundle: Bundle, device: Device) -> dict[RunPrecision, str]:
    """Precisions that were verified on a device within tolerance and that `auto` doesn't go by, and why."""
    found = _verified_here(bundle, device)
    usual = _usual(bundle, device, found)
    unsure = f"verify {usual} as well, to compare with" if usual not in found else doubt(bundle, found[usual])
    reasons = {
        precision: doubt(bundle, entry) or unsure
        for precision, entry in found.items()
        if precision != usual and (device.family, precision) != _NEVER_FASTER and not entry.parity.failures
    }
    return {precision: reason for precision, reason in reasons.items() if reason is not None}


def _wrong(bundle: Bundle, entry: Verified) -> str | None:
    """What of a result is beyond the limits, those of now as well; None if nothing is."""
    report, tolerance = entry.parity, tolerance_for(entry.precision, entry.device)
    beyond = [*report.failures, *failures(report, tolerance), *ap_lost(entry.average_precision_change)]
    if not bundle.has_random_weights:
        beyond += jumps(report, tolerance, entry.average_precision_change)
    return next(iter(beyond), None)


def _verified_here(bundle: Bundle, device: Device) -> dict[RunPrecision, Verified]:
    """What was verified with these graphs on this kind of device, with the engine that is here; by precision."""
    entries = [entry for entry in bundle.manifest.verified if entry.device == device.family]
    entries = [entry for entry in entries if graphs_of(entry.precision) in bundle.precisions]
    entries = [entry for entry in entries if entry.graphs_sha256 == bundle.graphs_sha256(graphs_of(entry.precision))]
    if not entries:
        return {}
    try:
        here = hardware_of(device), engine_of(device)
    except EngineError:  # loading will say what is wrong
        return {}
    return {entry.precision: entry for entry in entries if (entry.hardware, entry.engine) == here}


def _usual(bundle: Bundle, device: Device, found: Mapping[RunPrecision, Verified]) -> RunPrecision:
    """What is taken unless another was verified to be faster; not one that was `found` wrong, if there is another."""
    wrong = [precision for precision, entry in found.items() if _wrong(bundle, entry) is not None]
    held, reports = bundle.precisions, bundle.manifest.parity
    if device.target == "NPU" and held != ("int8",):
        return "fp16"  # it has no float32
    if on_cpu(device):
        right = [precision for precision in _ON_CPU if precision in held]
    elif device.kind in UNTRIED:
        right = [precision for precision in _ON_UNTRIED if precision in held]
    else:
        right = [name for name in _ON_GPU if name in held and name in reports and not reports[name].failures]
    return next((precision for precision in right if precision not in wrong), (*right, *held)[0])


def on_cpu(device: Device) -> bool:
    """Whether a device is a CPU."""
    return device.kind == "cpu" or device.target == "CPU"


GATE_MARGIN = 0.02
"""A crop is near the gate's threshold if its quality is off it by at most this; nothing else may flip in half."""
_FEW_FLIPS = 2  # crops, that are chance among few
_MOST_AP_LOST = 0.005  # COCO keypoint AP, on labelled pictures


@dataclass(frozen=True)
class Tolerance:
    """Limits."""

    share_of_range: float  # of its own range that a heatmap or a quality may be off by
    rounding: float  # what either may be off by in any case (an untrained quality hardly has a range)
    region_sets: float  # least share of crops with the same set of selected regions
    pixels_median: float  # most that keypoints may move at the median, in crop pixels
    strict_region_sets: float  # the same for `--strict-parity`, as the next two
    strict_pixels_median: float  # in crop pixels
    strict_pixels_p99: float  # at the 99th percentile, in crop pixels
    strict_flips_near: bool  # whether gate decisions may flip within `GATE_MARGIN` of the threshold
    region_slots: float = 0.0  # least share of the selected regions that are the same
    flips: float = 1.0  # largest share of the crops whose gate decision flips; two crops may in any case
    strict_flips: bool = True  # whether `--strict-parity` refuses single flips
    pixels_p99: float = 4.0  # most that keypoints may move at the 99th percentile for `auto` to take it, in crop pixels


# Keypoints at the 99th percentile, for `auto` to take the precision: a peak that rounding moves to another place of the
# heatmap is a wrong keypoint, whatever the median. Trained weights move theirs by about 3 px in bf16; in int8, the tiny
# model's by 24 px on 128 people in photographs, at nearly the same AP. Flat heatmaps of random weights: 250 to 330 px.
_FP32 = Tolerance(1e-3, 1e-5, 0.75, 0.25, 1.0, 0.01, 0.1, False)
# GPUs multiply float32 matrices in TF32, with the mantissa of a half, unless they are told not to.
_FP32_ON_GPU = Tolerance(1e-2, 1e-3, 0.75, 0.25, 0.95, 0.05, 1.0, True)
_FP16 = Tolerance(2e-2, 2e-3, 0.75, 0.5, 0.95, 0.05, 1.0, True)
# A bfloat16 has 8 bits of mantissa, where a half has 11.
_BF16 = Tolerance(5e-2, 5e-3, 0.75, 0.5, 0.9, 0.25, 2.0, True, pixels_p99=8.0)
# Eight bits move poses by a fraction of a heatmap's pixel; docs/performance.md has what that does to AP.
_INT8 = Tolerance(
    0.15, 0.05, 0.0, 1.0, 0.5, 0.75, math.inf, True, region_slots=0.95, flips=0.02, strict_flips=False, pixels_p99=32.0
)


def tolerance_for(precision: RunPrecision, device: str = "cpu") -> Tolerance:
    """The limits for computing in a precision on a device (`cpu`, `openvino:CPU`, `cuda:0` …)."""
    if precision == "int8":
        return _INT8
    if precision == "fp32":
        return _FP32 if on_cpu(parse_device(device)) else _FP32_ON_GPU
    return _BF16 if precision == "bf16" else _FP16


def failures(report: ParityReport, tolerance: Tolerance) -> list[str]:
    """What is beyond tolerance, a line each; a NaN is."""
    share = tolerance.share_of_range
    found = [
        f"{item.graph} {item.output} off by {item.max_abs_difference:.3g}, "
        f"more than {share:g} of its range {item.reference_range:.3g}"
        for item in report.outputs
        if item.output in ("heatmaps", "quality")
        and not item.max_abs_difference <= max(share * item.reference_range, tolerance.rounding)
    ]
    found += _moved(report, tolerance.region_sets, tolerance.pixels_median)
    slots = report.region_slot_agreement
    if slots is not None and not slots >= tolerance.region_slots:
        found.append(
            f"{slots:.1%} of the selected regions are the same (at least {tolerance.region_slots:.0%} must be)"
        )
    if report.gate_flips > max(tolerance.flips * report.crops, _FEW_FLIPS):
        found.append(
            f"{report.gate_flips} gate decisions of {report.crops} flipped (limit {tolerance.flips:.0%} of the crops)"
        )
    return found


def strict_failures(report: ParityReport, tolerance: Tolerance) -> list[str]:
    """What `--strict-parity` also refuses: differing regions, flipped gates, keypoints that moved."""
    found = list(report.failures)
    moved = _moved(report, tolerance.strict_region_sets, tolerance.strict_pixels_median)
    found += [line for line in moved if line not in found]
    if not report.keypoint_pixels_p99 <= tolerance.strict_pixels_p99:
        found.append(_at_the_99th(report, tolerance.strict_pixels_p99))
    flips = report.gate_flips - (report.gate_flips_near_threshold if tolerance.strict_flips_near else 0)
    if flips and tolerance.strict_flips:
        where = f" further than {GATE_MARGIN:g} from the threshold" if tolerance.strict_flips_near else ""
        found.append(f"{flips} gate decisions flipped{where}")
    return found


def jumps(report: ParityReport, tolerance: Tolerance, ap_change: float | None) -> list[str]:
    """What `auto` also refuses, a line if any: keypoints that jump. Of random weights, that says nothing.

    Nor does it where the change in AP was measured: those that jump are mostly ones that are as wrong in float32.
    """
    if ap_change is not None or report.keypoint_pixels_p99 <= tolerance.pixels_p99:
        return []
    return [_at_the_99th(report, tolerance.pixels_p99)]


def ap_lost(change: float | None, interval: tuple[float, float] | None = None) -> list[str]:
    """A line if a change in AP, where it was measured, is beyond tolerance.

    With the change's 95 % interval, the line says so where the labels are too few to tell it from one within tolerance.
    """
    if change is None or -change <= _MOST_AP_LOST:
        return []
    line = f"AP lost {-100 * change:.2f} points (limit {100 * _MOST_AP_LOST:g})"
    if interval is not None and interval[1] >= -_MOST_AP_LOST:
        low, high = (100 * bound for bound in interval)
        line += f"; with so few labels chance makes it {low:+.1f} to {high:+.1f} (95 %): give more to tell"
    return [line]


def _at_the_99th(report: ParityReport, limit: float) -> str:
    return f"keypoints moved {report.keypoint_pixels_p99:.3g} px at the 99th percentile (limit {limit:g})"


def _moved(report: ParityReport, region_sets: float, pixels_median: float) -> list[str]:
    found = []
    if not report.region_set_agreement >= region_sets:
        found.append(
            f"region sets agree on {report.region_set_agreement:.1%} of the crops (at least {region_sets:.0%} must)"
        )
    if not report.keypoint_pixels_median <= pixels_median:
        found.append(f"keypoints moved {report.keypoint_pixels_median:.3g} px at the median (limit {pixels_median:g})")
    return found

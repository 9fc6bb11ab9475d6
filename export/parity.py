"""Two ways of running both stages, compared output by output on the same crops, within tolerances. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from sharpose.bundle import OutputParity, ParityReport, Precision
from sharpose.config import ModelConfig
from sharpose.engines.precision import RunPrecision
from sharpose.engines.stages import Arrays, EngineStages, Stages, fine_inputs
from sharpose.engines.two_stage import CARRIED
from sharpose.export.pictures import ParityPictures

GATE_MARGIN = 0.02
"""A crop is near the gate's threshold if its quality is off it by at most this; nothing else may flip in half."""


_FEW_FLIPS = 2  # crops, that are chance among few


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


_FP32 = Tolerance(1e-3, 1e-5, 0.75, 0.25, 1.0, 0.01, 0.1, False)
# GPUs multiply float32 matrices in TF32, with the mantissa of a half, unless they are told not to.
_FP32_ON_GPU = Tolerance(1e-2, 1e-3, 0.75, 0.25, 0.95, 0.05, 1.0, True)
_FP16 = Tolerance(2e-2, 2e-3, 0.75, 0.5, 0.95, 0.05, 1.0, True)
# A bfloat16 has 8 bits of mantissa, where a half has 11.
_BF16 = Tolerance(5e-2, 5e-3, 0.75, 0.5, 0.9, 0.25, 2.0, True)
# Eight bits move poses by a fraction of a heatmap's pixel; docs/performance.md has what that does to AP.
_INT8 = Tolerance(0.15, 0.05, 0.0, 1.0, 0.5, 0.75, math.inf, True, region_slots=0.95, flips=0.02, strict_flips=False)


def tolerance_for(precision: RunPrecision, device: str = "cpu") -> Tolerance:
    """The limits for computing in a precision on a device (`cpu`, `cuda:0` …)."""
    if precision == "int8":
        return _INT8
    if precision == "fp32":
        return _FP32 if device == "cpu" else _FP32_ON_GPU
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
        found.append(
            f"keypoints moved {report.keypoint_pixels_p99:.3g} px at the 99th percentile "
            f"(limit {tolerance.strict_pixels_p99:g})"
        )
    flips = report.gate_flips - (report.gate_flips_near_threshold if tolerance.strict_flips_near else 0)
    if flips and tolerance.strict_flips:
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


@dataclass(frozen=True)
class StageRuns:
    """Outputs by name, over all crops.

    `fine` is given the REFERENCE's coarse outputs, so that a flipped region shows as that and not as a wrong heatmap;
    `whole` is the fine stage given the coarse outputs of the same run: what a user gets.
    """

    coarse: Arrays
    fine: Arrays
    whole: Arrays


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """The batch sizes that crops are run in, in turn: 1, 3 and 8 up to the largest."""
    return tuple(size for size in (1, 3, 8) if size <= max_batch)


def run_stages(
    stages: Stages, crops: npt.NDArray[np.uint8], sizes: tuple[int, ...], reference: StageRuns | None = None
) -> StageRuns:
    """Run both stages on every crop.

    Args:
        stages: What to run.
        crops: uint8 [n, H, W, 3], RGB.
        sizes: Sizes of batch, used in turn.
        reference: Whose coarse outputs `StageRuns.fine` is computed from; the run's own if None.
    """
    parts = []
    for part in _batches(len(crops), sizes):
        batch = np.ascontiguousarray(crops[part])
        coarse = stages.coarse(batch)
        whole = stages.fine(fine_inputs(batch, coarse, stages.config))
        fine = whole
        if reference is not None:
            judged = {name: reference.coarse[name][part] for name in CARRIED}
            fine = stages.fine(fine_inputs(batch, judged, stages.config))
        parts.append((coarse, fine, whole))
    joined = (
        {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        for batches in zip(*parts, strict=True)
    )
    return StageRuns(*joined)


def compare(
    reference: StageRuns,
    actual: StageRuns,
    config: ModelConfig,
    threshold: float,
    tolerance: Tolerance,
    *,
    pictures: str,
    judged: str,
    sizes: tuple[int, ...],
) -> ParityReport:
    """The report on how far `actual` is from `reference`, with what is beyond tolerance in `failures`.

    `threshold` is the gate's, of predicted quality; `pictures` (where the crops came from), `judged` (what ran, against
    what) and `sizes` (of the batches) are for the report.
    """
    of_both = (reference.coarse, actual.coarse)
    selected, others = (np.sort(item["region_order"].astype(np.int32)[:, : config.num_selected]) for item in of_both)
    refined, also_refined = (item["quality"].astype(np.float32) < np.float32(threshold) for item in of_both)
    flipped = refined != also_refined
    near = np.abs(reference.coarse["quality"].astype(np.float64) - threshold) <= GATE_MARGIN
    pixels = np.concatenate([_pixels(reference.coarse, actual.coarse), _pixels(reference.whole, actual.whole)])
    report = ParityReport(
        pictures=pictures,
        judged=judged,
        crops=len(near),
        batch_sizes=sizes,
        outputs=(*_differences("coarse", *of_both), *_differences("fine", reference.fine, actual.fine)),
        region_set_agreement=float((selected == others).all(axis=1).mean()),
        region_slot_agreement=float(np.mean([np.isin(*pair).mean() for pair in zip(selected, others, strict=True)])),
        gate_agreement=float(1.0 - flipped.mean()),
        gate_flips=int(flipped.sum()),
        gate_near_threshold=int(near.sum()),
        gate_flips_near_threshold=int((flipped & near).sum()),
        keypoint_pixels_median=float(np.median(pixels)),
        keypoint_pixels_p99=float(np.percentile(pixels, 99)),
        keypoint_pixels_max=float(pixels.max()),
        tolerance=tolerance.share_of_range,
    )
    return report.model_copy(update={"failures": tuple(failures(report, tolerance))})


def _differences(graph: Literal["coarse", "fine"], reference: Arrays, actual: Arrays) -> Iterator[OutputParity]:
    for name, expected in reference.items():
        wide = expected.astype(np.float64)
        difference = np.abs(wide - actual[name].astype(np.float64))
        yield OutputParity(
            graph=graph,
            output=name,
            max_abs_difference=float(difference.max()),
            mean_abs_difference=float(difference.mean()),
            reference_range=float(wide.max() - wide.min()),
        )


def _pixels(reference: Arrays, actual: Arrays) -> npt.NDArray[np.float64]:
    """Distances in crop pixels between two sets of keypoints [n, J, 3], flat."""
    offset = reference["keypoints"][..., :2].astype(np.float64) - actual["keypoints"][..., :2].astype(np.float64)
    distance: npt.NDArray[np.float64] = np.hypot(offset[..., 0], offset[..., 1]).ravel()
    return distance


def _batches(count: int, sizes: tuple[int, ...]) -> Iterator[slice]:
    start, turn = 0, 0
    while start < count:
        size = sizes[turn % len(sizes)]
        yield slice(start, min(start + size, count))
        start, turn = start + size, turn + 1


def compare_stages(
    reference: StageRuns, stages: Stages, pictures: ParityPictures, threshold: float, tolerance: Tolerance, judged: str
) -> ParityReport:
    """Run stages on pictures in batches of 1, 3 and 8, and `compare` them with the reference's outputs on these."""
    sizes = batch_sizes(stages.max_batch)
    runs = run_stages(stages, pictures.crops, sizes, reference)
    return compare(
        reference, runs, stages.config, threshold, tolerance, pictures=pictures.origin, judged=judged, sizes=sizes
    )


def measure_parity(
    reference: StageRuns, graphs: EngineStages, pictures: ParityPictures, half: Stages | None, *, rounded: bool = False
) -> ParityReport:
    """Compare graphs with PyTorch in float32, output by output.

    Float32 and int8 graphs are run by ONNX Runtime on the CPU. That computes half graphs in float32, which says nothing
    of half arithmetic: half is judged by the half model in PyTorch, and ONNX Runtime has to load the graphs and be as
    close.

    Args:
        reference: The float32 model's outputs on the pictures, in batches of `batch_sizes`.
        graphs: The graphs in ONNX Runtime.
        pictures: The crops that the reference was run on.
        half: The half model in PyTorch where the graphs are half, else None.
        rounded: Whether float32 graphs hold weights that were rounded to halves: they are judged as halves are.
    """
    threshold, tolerance = graphs.config.quality_threshold, tolerance_for("fp16" if rounded else graphs.precision)
    weights = ", weights rounded to float16," if rounded else ""
    judged = f"ONNX Runtime on the CPU{weights} against PyTorch"
    report = compare_stages(reference, graphs, pictures, threshold, tolerance, judged)
    if half is None:
        return report
    of_graphs = [f"in ONNX Runtime: {line}" for line in report.failures]
    judged = "PyTorch in float16 against PyTorch in float32"
    report = compare_stages(reference, half, pictures, threshold, tolerance, judged)
    return report.model_copy(update={"failures": (*report.failures, *of_graphs)})


def print_parity(precision: Precision, report: ParityReport, console: Console) -> None:
    """Print a parity report: a row an output, then what it means for poses."""
    table = Table(title=f"{precision}: {report.judged}, {report.crops} crops from {report.pictures}")
    table.add_column("output")
    for heading in ("max |difference|", "mean |difference|", "range"):
        table.add_column(heading, justify="right")
    for item in report.outputs:
        table.add_row(
            f"{item.graph} {item.output}",
            f"{item.max_abs_difference:.2e}",
            f"{item.mean_abs_difference:.2e}",
            f"{item.reference_range:.3g}",
        )
    console.print(table)
    console.print(
        f"keypoints moved {report.keypoint_pixels_median:.1e} px at the median, {report.keypoint_pixels_p99:.1e} px at "
        f"the 99th percentile, {report.keypoint_pixels_max:.1e} px at most; region sets agree on "
        f"{report.region_set_agreement:.1%} of the crops, regions on {report.region_slot_agreement or 0:.1%}, gate "
        f"decisions on {report.gate_agreement:.1%} of the crops "
        f"({report.gate_near_threshold} crops are near the threshold, {report.gate_flips_near_threshold} of them flip)"
    )

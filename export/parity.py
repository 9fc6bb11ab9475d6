"""Two ways of running both stages, compared output by output on the same crops, within tolerances. Torch-free."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from sharpose.bundle import OutputParity, ParityReport, Precision
from sharpose.config import ModelConfig
from sharpose.engines.precision import GATE_MARGIN, Tolerance, failures, tolerance_for
from sharpose.engines.stages import Arrays, EngineStages, Stages, fine_inputs
from sharpose.engines.two_stage import CARRIED
from sharpose.export.pictures import ParityPictures
from sharpose.runtime.messages import watching_signals


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


@contextlib.contextmanager
def ended_by_signals(*stages: Stages) -> Iterator[None]:
    """Ctrl-C ends the run of engines that is under way, which may take a large model seconds; they can't run again.

    PyTorch hands Python the signal between two operators, and so needs none of it.
    """
    engines = [item for item in stages if isinstance(item, EngineStages)]
    if not engines or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(over: threading.Event) -> None:
        for item in engines:
            item.terminate()

    with watching_signals(end):
        yield


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
    with ended_by_signals(stages):
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

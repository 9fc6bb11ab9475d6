"""Parity: do the exported graphs say what the PyTorch model says in float32, on pictures?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sharpose.bundle import GraphPair, ParityReport, Precision
from sharpose.engines.onnxrt import OnnxRuntimeRunner
from sharpose.export.comparison import (
    Arrays,
    EngineStages,
    StageRuns,
    batch_sizes,
    compare,
    failures,
    run_stages,
    tolerance_for,
)
from sharpose.export.graphs import CoarseGraph, FineGraph
from sharpose.export.onnx import COARSE_OUTPUTS, FINE_INPUTS, FINE_OUTPUTS
from sharpose.export.pictures import ParityPictures
from sharpose.model import SHaRPose

__all__ = ["TorchStages", "measure_parity", "print_parity", "reference_runs"]


@dataclass(frozen=True)
class TorchStages:
    """A PyTorch model as `Stages`, in the precision that it is in."""

    model: SHaRPose

    def coarse(self, crops: npt.NDArray[np.uint8]) -> Arrays:
        """See `Stages`."""
        with torch.inference_mode():
            return _named(COARSE_OUTPUTS, CoarseGraph(self.model).eval()(torch.from_numpy(crops)))

    def fine(self, inputs: Arrays) -> Arrays:
        """See `Stages`."""
        dtype = self.model.backbone.norm.weight.dtype
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in FINE_INPUTS]
        fitted = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
        with torch.inference_mode():
            return _named(FINE_OUTPUTS, FineGraph(self.model).eval()(*fitted))


def reference_runs(model: SHaRPose, max_batch: int, pictures: ParityPictures) -> StageRuns:
    """What the model says in float32."""
    return run_stages(TorchStages(model), pictures.crops, batch_sizes(max_batch), model.config)


def measure_parity(
    reference: StageRuns,
    model: SHaRPose,
    precision: Precision,
    folder: Path,
    pair: GraphPair,
    max_batch: int,
    pictures: ParityPictures,
    *,
    rounded: bool = False,
) -> ParityReport:
    """Compare graphs with PyTorch in float32, output by output.

    Float32 and int8 graphs are run by ONNX Runtime on the CPU. That computes half graphs in float32, which says nothing
    of half arithmetic: half is judged by the half model in PyTorch, and ONNX Runtime has to load the graphs and be as
    close.

    Args:
        reference: What the float32 model said, see `reference_runs`.
        model: The model that was exported, in the precision that it was exported in.
        precision: That precision.
        folder: Where the graphs lie.
        pair: Their description.
        max_batch: The bundle's.
        pictures: The crops that the reference was run on.
        rounded: Whether float32 graphs hold weights that were rounded to halves: they are judged as halves are.
    """
    config, sizes, tolerance = model.config, batch_sizes(max_batch), tolerance_for("fp16" if rounded else precision)
    coarse, fine = (OnnxRuntimeRunner(folder / entry.file, entry, max_batch) for entry in (pair.coarse, pair.fine))
    runs = run_stages(EngineStages(coarse, fine), pictures.crops, sizes, config, reference)
    threshold = config.quality_threshold
    judged = f"ONNX Runtime on the CPU{', weights rounded to float16,' if rounded else ''} against PyTorch"
    report = compare(
        reference, runs, config, threshold, tolerance, pictures=pictures.origin, judged=judged, sizes=sizes
    )
    if precision != "fp16":
        return report
    of_graphs = [f"in ONNX Runtime: {line}" for line in failures(report, tolerance)]
    runs = run_stages(TorchStages(model), pictures.crops, sizes, config, reference)
    judged = "PyTorch in float16 against PyTorch in float32"
    report = compare(
        reference, runs, config, threshold, tolerance, pictures=pictures.origin, judged=judged, sizes=sizes
    )
    return report.model_copy(update={"failures": (*report.failures, *of_graphs)})


def _named(names: list[str], tensors: tuple[Tensor, ...]) -> Arrays:
    return {name: tensor.contiguous().numpy() for name, tensor in zip(names, tensors, strict=True)}


def print_parity(precision: Precision, report: ParityReport, console: Console) -> None:
    """Print a parity report: a row an output, then what it means for poses."""
    mark = " (experimental)" if report.experimental else ""
    table = Table(title=f"{precision}{mark}: {report.judged}, {report.crops} crops from {report.pictures}")
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
        f"{report.region_set_agreement:.1%}, gate decisions on {report.gate_agreement:.1%} of the crops "
        f"({report.gate_near_threshold} crops are near the threshold, {report.gate_flips_near_threshold} of them flip)"
    )

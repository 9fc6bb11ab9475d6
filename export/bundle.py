"""Writing a bundle from a model: graphs, shared weights, parity report and manifest, all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

import sharpose
from sharpose.bundle import MANIFEST_NAME, MAX_BATCH, Gate, GraphPair, Manifest, ParityReport, Precision, largest_batch
from sharpose.engines.onnxrt import OnnxRuntimeRunner
from sharpose.engines.precision import strict_failures, tolerance_for
from sharpose.engines.stages import Arrays, EngineStages
from sharpose.errors import ExportError, ParityError
from sharpose.export.onnx import describe_graph, export_graphs, half_model, round_to_half, save_graphs, store_as_half
from sharpose.export.output import atomic_folder
from sharpose.export.parity import batch_sizes, measure_parity, run_stages
from sharpose.export.pictures import LEAST_CROPS, ParityPictures
from sharpose.export.quantisation import int8_model, translations
from sharpose.files import file_sha256
from sharpose.model import LoadedModel, SHaRPose
from sharpose.model.graphs import TorchStages

_WEIGHTS = "weights.bin"


class ParityReportError(ParityError):
    """A failed parity check, with the reports made so far, the failed one last."""

    def __init__(self, message: str, reports: dict[Precision, ParityReport]) -> None:
        super().__init__(message)
        self.reports = reports


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    `store_weights="fp16"` rounds the weights of float32 graphs to halves and stores them so; they are cast when a graph
    is loaded. Parity is with the model as it was given, within the tolerance of halves.
    """

    precisions: tuple[Precision, ...] = ("fp32",)  # to hold graphs in; their common weights are stored once
    max_batch: int = 16  # the most people in one run of a graph
    opset: int = 20
    store_weights: Literal["fp32", "fp16"] = "fp32"
    gate_chosen_by: str = "the model's configuration"  # how a threshold that no bundle brought was found, for people
    strict_parity: bool = False  # also refuse moved keypoints, differing regions and flipped gates
    overwrite: bool = False  # replace an existing bundle

    def __post_init__(self) -> None:
        if not 1 <= self.max_batch <= MAX_BATCH:
            raise ExportError(f"max batch: expected 1 to {MAX_BATCH}, got {self.max_batch}")
        if not self.precisions or len(set(self.precisions)) != len(self.precisions):
            raise ExportError(f"precisions: expected each at most once, and one at least, got {self.precisions}")


def export_bundle(
    loaded: LoadedModel,
    output: Path,
    pictures: ParityPictures,
    options: ExportOptions | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Manifest:
    """Write a bundle into a new folder, and return its manifest, the parity on `pictures` included.

    `say` is called with a line about each step.

    Raises:
        ExportError: the output exists or can't be written, a graph fails ONNX's own checks, or there are too few crops
            for int8.
        ParityError: the graphs differ from PyTorch beyond tolerance; nothing is left behind.
    """
    options = options or ExportOptions()
    if "int8" in options.precisions and min(len(pictures.calibration), len(pictures.crops)) < LEAST_CROPS:
        raise ExportError(
            f"precision int8: expected at least {2 * LEAST_CROPS} people, half to calibrate on and half to compare on; "
            f"{pictures.origin} gives {len(pictures.calibration) + len(pictures.crops)}"
        )
    if options.max_batch > (most := largest_batch(loaded.config.crop_size)):
        height, width = loaded.config.crop_size
        raise ExportError(f"max batch: expected at most {most} crops of {height}x{width}, got {options.max_batch}")
    with atomic_folder(output, overwrite=options.overwrite) as folder:
        models: dict[Precision, SHaRPose] = {}
        graphs: dict[str, onnx.ModelProto] = {}
        pairs: dict[Precision, GraphPair] = {}
        for precision in options.precisions:
            if precision == "int8":
                say(f"calibrating int8 on {len(pictures.calibration)} crops of {pictures.origin}")
            say(f"tracing both stages in {precision}")
            models[precision] = _in_precision(loaded.model, precision, options, pictures)
            coarse, fine = export_graphs(
                models[precision],
                max_batch=options.max_batch,
                opset=options.opset,
                translations=translations() if precision == "int8" else None,
            )
            if precision == "fp32" and options.store_weights == "fp16":
                for graph in (coarse, fine):
                    store_as_half(graph)
            suffix = "" if precision == "fp32" else f".{precision}"
            names = f"coarse{suffix}.onnx", f"fine{suffix}.onnx"
            pairs[precision] = GraphPair(coarse=describe_graph(coarse, names[0]), fine=describe_graph(fine, names[1]))
            graphs |= dict(zip(names, (coarse, fine), strict=True))
        say("writing graphs and weights")
        save_graphs(graphs, folder, _WEIGHTS)
        for file in graphs:
            try:
                onnx.checker.check_model(str(folder / file), full_check=True)
            except onnx.checker.ValidationError as error:
                raise ExportError(f"{file}: not a valid ONNX graph ({error})") from error
        say(f"comparing with PyTorch on {pictures.origin}")
        reports = _measure(loaded.model, models, pairs, folder, pictures, options)
        manifest = Manifest(
            schema_version=1,
            sharpose_version=sharpose.__version__,
            source=loaded.source,
            model=loaded.config,
            gate=_gate(loaded, options),
            max_batch=options.max_batch,
            weights=_WEIGHTS,
            files={file: file_sha256(folder / file) for file in (*graphs, _WEIGHTS)},
            graphs=pairs,
            parity=reports,
            scores=loaded.scores,
        )
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), "utf-8")
    return manifest


def _gate(loaded: LoadedModel, options: ExportOptions) -> Gate:
    """The gate to store: with the gain that a bundle was measured to have, as it doesn't depend on the threshold."""
    threshold, carried = loaded.config.quality_threshold, loaded.gate
    if carried is None:
        return Gate(quality_threshold=threshold, chosen_by=options.gate_chosen_by)
    kept = carried.quality_threshold == threshold
    chosen_by = carried.chosen_by if kept else options.gate_chosen_by
    return Gate(quality_threshold=threshold, chosen_by=chosen_by, gain=carried.gain)


def _in_precision(model: SHaRPose, precision: Precision, options: ExportOptions, pictures: ParityPictures) -> SHaRPose:
    if precision == "fp16":
        return half_model(model)
    if precision == "int8":
        return int8_model(model, pictures.calibration)
    return round_to_half(model) if precision == "fp32" and options.store_weights == "fp16" else model


def _measure(
    model: SHaRPose,
    models: dict[Precision, SHaRPose],
    pairs: dict[Precision, GraphPair],
    folder: Path,
    pictures: ParityPictures,
    options: ExportOptions,
) -> dict[Precision, ParityReport]:
    """The parity report of every precision; raises `ParityReportError` at the first that is beyond tolerance."""
    reference = run_stages(TorchStages(model), pictures.crops, batch_sizes(options.max_batch))
    _refuse_infinities(model, {"coarse": reference.coarse, "fine": reference.whole})
    reports: dict[Precision, ParityReport] = {}
    for precision, pair in pairs.items():
        rounded = precision == "fp32" and options.store_weights == "fp16"
        runners = (
            OnnxRuntimeRunner(folder / entry.file, entry.at_regions(model.config.num_selected), options.max_batch)
            for entry in (pair.coarse, pair.fine)
        )
        graphs = EngineStages(model.config, precision, *runners)
        half = TorchStages(models[precision], max_batch=options.max_batch) if precision == "fp16" else None
        report = measure_parity(reference, graphs, pictures, half, rounded=rounded)
        reports[precision] = report
        tolerance = tolerance_for("fp16" if rounded else precision)
        failed = strict_failures(report, tolerance) if options.strict_parity else report.failures
        if failed:
            raise ParityReportError(f"parity of {precision} with PyTorch failed: " + "; ".join(failed), reports)
    return reports


def _refuse_infinities(model: SHaRPose, outputs: dict[str, Arrays]) -> None:
    for stage, arrays in outputs.items():
        for name, values in arrays.items():
            broken = int((~np.isfinite(values)).sum())
            if broken:
                key, largest = max(
                    ((key, float(weight.abs().max())) for key, weight in model.state_dict().items()), key=lambda x: x[1]
                )
                raise ParityError(
                    f"PyTorch itself gives NaN or infinity in {broken} of {values.size} values of {stage} {name}; the "
                    f"largest weight is {largest:.3g}, in {key}"
                )

"""A model becomes a bundle: graphs, shared weights, parity, manifest, all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

import sharpose
from sharpose.bundle import file_sha256
from sharpose.errors import ExportError, ParityError
from sharpose.export.atomic_folder import atomic_folder
from sharpose.export.onnx_export import describe_graph, export_graphs
from sharpose.export.parity import measure_parity, strict_failures
from sharpose.export.pictures import ParityPictures
from sharpose.export.shared_weights import save_graphs
from sharpose.manifest import MANIFEST_NAME, Gate, GraphPair, Manifest, ParityReport
from sharpose.model import LoadedModel

__all__ = ["ExportOptions", "ParityReportError", "export_bundle"]

_COARSE, _FINE, _WEIGHTS = "coarse.onnx", "fine.onnx", "weights.bin"


class ParityReportError(ParityError):
    """A parity check that said no, with the report that it said it of."""

    def __init__(self, message: str, report: ParityReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        max_batch: Most people in one run of a graph.
        opset: ONNX opset.
        gate_chosen_by: How the quality threshold was found, for people to read.
        strict_parity: Also refuse moved keypoints, differing regions and flipped gates.
        overwrite: Replace a bundle that is there.
    """

    max_batch: int = 16
    opset: int = 20
    gate_chosen_by: str = "the model's configuration"
    strict_parity: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ExportError(f"max batch: expected at least 1, got {self.max_batch}")


def export_bundle(
    loaded: LoadedModel,
    output: Path,
    pictures: ParityPictures,
    options: ExportOptions | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Manifest:
    """Write a bundle.

    Args:
        loaded: The model and where its weights came from.
        output: The folder to make.
        pictures: Crops to measure parity on.
        options: How to export.
        say: Told what is being done, step by step.

    Returns:
        The manifest, parity report included.

    Raises:
        ExportError: the output exists or can't be written, or a graph fails ONNX's own checks.
        ParityError: the graphs differ from PyTorch beyond tolerance; nothing is left behind.
    """
    options = options or ExportOptions()
    with atomic_folder(output, overwrite=options.overwrite) as folder:
        say("tracing both stages")
        coarse, fine = export_graphs(loaded.model, max_batch=options.max_batch, opset=options.opset)
        pair = GraphPair(coarse=describe_graph(coarse, _COARSE), fine=describe_graph(fine, _FINE))
        say("writing graphs and weights")
        save_graphs({_COARSE: coarse, _FINE: fine}, folder, _WEIGHTS)
        for file in (_COARSE, _FINE):
            try:
                onnx.checker.check_model(str(folder / file), full_check=True)
            except onnx.checker.ValidationError as error:
                raise ExportError(f"{file}: not a valid ONNX graph ({error})") from error
        say(f"comparing with PyTorch on {pictures.origin}")
        report = measure_parity(loaded.model, folder, pair, options.max_batch, pictures)
        failures = strict_failures(report) if options.strict_parity else list(report.failures)
        if failures:
            raise ParityReportError("parity with PyTorch failed: " + "; ".join(failures), report)
        manifest = Manifest(
            schema_version=1,
            sharpose_version=sharpose.__version__,
            source=loaded.source,
            model=loaded.config,
            gate=Gate(quality_threshold=loaded.config.quality_threshold, chosen_by=options.gate_chosen_by),
            max_batch=options.max_batch,
            weights=_WEIGHTS,
            files={file: file_sha256(folder / file) for file in (_COARSE, _FINE, _WEIGHTS)},
            graphs={"fp32": pair},
            parity={"fp32": report},
        )
        (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
    return manifest

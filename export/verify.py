"""`--verify`: does every engine of this machine say what the bundle's float32 ONNX graphs say? Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sharpose.bundle import Bundle
from sharpose.engines.two_stage import HostTwoStage
from sharpose.errors import BundleError, ExportError
from sharpose.export.comparison import EngineStages, StageRuns, batch_sizes, compare, run_stages
from sharpose.export.labels import LabelledPictures
from sharpose.export.pictures import ParityPictures
from sharpose.export.tolerances import tolerance_for
from sharpose.export.verify_engines import EnginePair, available_engines, onnx_engines
from sharpose.manifest import ParityReport, Precision
from sharpose.runtime.pipeline import PoseEstimator

__all__ = ["Verification", "VerifiedEngine", "verify_bundle"]


@dataclass(frozen=True)
class VerifiedEngine:
    """One engine's result.

    Attributes:
        device: As the user writes it.
        precision: Of the graphs that it ran.
        report: How far it is from the reference.
        average_precision: COCO keypoint AP on the labelled pictures, if there are any.
    """

    device: str
    precision: Precision
    report: ParityReport
    average_precision: float | None


@dataclass(frozen=True)
class Verification:
    """The results of all engines.

    Attributes:
        pictures: What the crops were taken from.
        crops: How many.
        engines: One result an engine.
        unusable: A line for each device that should be here and can't be used.
        average_precision: The reference's.
    """

    pictures: str
    crops: int
    engines: tuple[VerifiedEngine, ...]
    unusable: tuple[str, ...]
    average_precision: float | None

    @property
    def failures(self) -> list[str]:
        """What is beyond tolerance, a line each."""
        return [f"{item.device} {item.precision}: {line}" for item in self.engines for line in item.report.failures]


def verify_bundle(
    bundle: Bundle,
    pictures: ParityPictures,
    labels: LabelledPictures | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Verification:
    """Run every engine that is available against the float32 ONNX graphs on the CPU.

    The reference runs crops one by one and the engines run them in batches of 1, 3 and 8, so that the CPU's own float32
    graphs are a candidate like the others: for them it is batching that is judged.

    Args:
        bundle: The bundle.
        pictures: Crops to compare on.
        labels: Pictures to measure average precision on.
        say: Told what is being run.

    Raises:
        BundleError: the bundle has no float32 graphs.
        ExportError: there are no crops.
    """
    if "fp32" not in bundle.precisions:
        raise BundleError(
            f"bundle {bundle.path}: holds {', '.join(bundle.precisions)} graphs, but verifying needs fp32 ones; "
            "export it with --precision fp32,fp16"
        )
    if len(pictures.crops) == 0:
        raise ExportError(f"{pictures.origin}: no crops to verify on")
    say(f"float32 reference on {pictures.origin}")
    pair = onnx_engines(bundle, "cpu", "fp32")
    reference = run_stages(EngineStages(pair.coarse, pair.fine), pictures.crops, (1,), bundle.model)
    reference_precision = _average_precision(bundle, pair, labels)
    pair.close()
    engines: list[VerifiedEngine] = []
    unusable: list[str] = []
    for candidate in available_engines(bundle, say):
        if isinstance(candidate, str):
            unusable.append(candidate)
            continue
        say(f"{candidate.device}, {candidate.precision}")
        engines.append(_verify(bundle, candidate, reference, pictures, labels))
        candidate.close()
    return Verification(pictures.origin, len(pictures.crops), tuple(engines), tuple(unusable), reference_precision)


def _verify(
    bundle: Bundle,
    candidate: EnginePair,
    reference: StageRuns,
    pictures: ParityPictures,
    labels: LabelledPictures | None,
) -> VerifiedEngine:
    sizes = batch_sizes(bundle.manifest.max_batch)
    stages = EngineStages(candidate.coarse, candidate.fine)
    report = compare(
        reference,
        run_stages(stages, pictures.crops, sizes, bundle.model, reference),
        bundle.model,
        bundle.manifest.gate.quality_threshold,
        tolerance_for(candidate.precision, candidate.device),
        pictures=pictures.origin,
        judged=f"{candidate.device} in {candidate.precision} against the float32 ONNX graphs",
        sizes=sizes,
    )
    return VerifiedEngine(candidate.device, candidate.precision, report, _average_precision(bundle, candidate, labels))


def _average_precision(bundle: Bundle, pair: EnginePair, labels: LabelledPictures | None) -> float | None:
    if labels is None:
        return None
    return labels.average_precision(PoseEstimator(bundle, HostTwoStage(pair.coarse, pair.fine)))

"""`--verify`: compare every engine of this machine with the bundle's float32 ONNX graphs. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from sharpose.bundle import Bundle, ParityReport
from sharpose.engines.gpu import probe_gpus
from sharpose.engines.precision import RunPrecision
from sharpose.engines.stages import EngineStages, open_stages
from sharpose.engines.tensorrt.library import find_flavour
from sharpose.engines.two_stage import HostTwoStage
from sharpose.errors import BundleError, EngineError, ExportError, how_to_install
from sharpose.export.parity import compare_stages, run_stages, tolerance_for
from sharpose.export.pictures import LabelledPictures, ParityPictures
from sharpose.runtime.pipeline import PoseEstimator

_GPU_PROVIDERS = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "ort-tensorrt"}


def available_engines(
    bundle: Bundle, say: Callable[[str], None] = lambda message: None
) -> Iterator[tuple[str, EngineStages] | str]:
    """Each device that is here with its engines, in every precision that the bundle holds, opened when they are due.

    Instead of a device that is not usable comes one line that says why: onnxruntime-gpu lists providers whose
    libraries it then can't load. With a GPU and a TensorRT, its engines are taken from the bundle or the cache, or
    built, about which `say` is called with a line.
    """
    for device in ("cpu", *_gpu_devices()):
        for precision in bundle.precisions:
            try:
                yield device, open_stages(bundle, device, precision, say=say)
            except EngineError as error:
                if device == "cpu":
                    raise
                yield f"{device}, {precision}: {error}"


def _gpu_devices() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        raise EngineError(f"verifying needs ONNX Runtime: {how_to_install('cpu')}") from None
    providers = onnxruntime.get_available_providers()
    found = [device for provider, device in _GPU_PROVIDERS.items() if provider in providers]
    try:
        probe_gpus()
        find_flavour()
    except EngineError:  # no GPU, or no TensorRT: nothing that should run here
        return found
    return [*found, "tensorrt"]


@dataclass(frozen=True)
class VerifiedEngine:
    """One engine's result."""

    device: str  # as the user writes it
    precision: RunPrecision  # what it computed in
    report: ParityReport  # how far it is from the reference
    average_precision: float | None  # COCO keypoint AP on the labelled pictures, if there are any


@dataclass(frozen=True)
class Verification:
    """The results of all engines."""

    pictures: str  # what the crops were taken from
    crops: int  # how many
    engines: tuple[VerifiedEngine, ...]  # one result an engine
    unusable: tuple[str, ...]  # A line for each device that should be here and can't be used
    average_precision: float | None  # the reference's

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
        say: Called with a line about what is being run.

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
    say(f"running the float32 reference on {pictures.origin}")
    stages = open_stages(bundle, "cpu", "fp32")
    reference = run_stages(stages, pictures.crops, (1,))
    reference_precision = _average_precision(bundle, stages, labels)
    stages.close()
    engines: list[VerifiedEngine] = []
    unusable: list[str] = []
    threshold = bundle.manifest.gate.quality_threshold
    for found in available_engines(bundle, say):
        if isinstance(found, str):
            unusable.append(found)
            continue
        device, stages = found
        say(f"running {device}, {stages.precision}")
        judged = f"{device} in {stages.precision} against the float32 ONNX graphs"
        tolerance = tolerance_for(stages.precision, device)
        report = compare_stages(reference, stages, pictures, threshold, tolerance, judged)
        precision = _average_precision(bundle, stages, labels)
        engines.append(VerifiedEngine(device, stages.precision, report, precision))
        stages.close()
    return Verification(pictures.origin, len(pictures.crops), tuple(engines), tuple(unusable), reference_precision)


def _average_precision(bundle: Bundle, stages: EngineStages, labels: LabelledPictures | None) -> float | None:
    if labels is None:
        return None
    return labels.average_precision(
        PoseEstimator.from_stages(bundle, HostTwoStage(stages.coarse_runner, stages.fine_runner, stages.precision))
    )


def print_verification(verification: Verification, console: Console) -> None:
    """Print all results as one table, then what can't be used and what is beyond tolerance."""
    table = Table(
        title=f"Against the float32 ONNX graphs on the CPU: {verification.crops} crops from {verification.pictures}"
    )
    table.add_column("max / mean difference")
    engines = verification.engines
    for engine in engines:
        mark = " (experimental)" if engine.report.experimental else ""
        table.add_column(f"{engine.device}\n{engine.precision}{mark}", justify="right")
    for rows in zip(*(engine.report.outputs for engine in engines), strict=True):
        differences = (f"{item.max_abs_difference:.1e} / {item.mean_abs_difference:.1e}" for item in rows)
        table.add_row(f"{rows[0].graph} {rows[0].output}", *differences)
    table.add_section()
    reports = [engine.report for engine in engines]
    table.add_row("keypoints, median", *(f"{report.keypoint_pixels_median:.2g} px" for report in reports))
    table.add_row("keypoints, 99th percentile", *(f"{report.keypoint_pixels_p99:.2g} px" for report in reports))
    table.add_row("same regions", *(f"{report.region_set_agreement:.1%}" for report in reports))
    table.add_row("gate flips", *(f"{report.gate_flips} of {report.crops}" for report in reports))
    table.add_row(
        "of those near the threshold",
        *(f"{report.gate_flips_near_threshold} of {report.gate_near_threshold}" for report in reports),
    )
    if verification.average_precision is not None:
        table.add_row("AP", *(_precision(engine, verification.average_precision) for engine in engines))
    table.add_section()
    table.add_row("verdict", *map(_verdict, reports))
    console.print(table)
    for line in verification.unusable:
        console.print(f"not verified: {line}", soft_wrap=True, highlight=False, markup=False)


def _verdict(report: ParityReport) -> str:
    if report.experimental:
        return "reported only"
    return "beyond tolerance" if report.failures else "within tolerance"


def _precision(engine: VerifiedEngine, reference: float) -> str:
    assert engine.average_precision is not None
    return f"{engine.average_precision:.3f} ({engine.average_precision - reference:+.3f})"

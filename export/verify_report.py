"""The table of `--verify`: a column an engine."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from sharpose.export.verify import Verification, VerifiedEngine
from sharpose.manifest import OutputParity, ParityReport

__all__ = ["print_verification"]


def print_verification(verification: Verification, console: Console) -> None:
    """Print all results as one table, then what can't be used and what is beyond tolerance."""
    table = Table(
        title=f"Against the float32 ONNX graphs on the CPU: {verification.crops} crops from {verification.pictures}"
    )
    table.add_column("max / mean difference")
    engines = verification.engines
    for engine in engines:
        table.add_column(f"{engine.device}\n{engine.precision}{_mark(engine)}", justify="right")
    for rows in zip(*(engine.report.outputs for engine in engines), strict=True):
        table.add_row(f"{rows[0].graph} {rows[0].output}", *map(_differences, rows))
    table.add_section()
    reports = [engine.report for engine in engines]
    table.add_row("keypoints, median", *(f"{report.keypoint_pixels_median:.2g} px" for report in reports))
    table.add_row("keypoints, 99th percentile", *(f"{report.keypoint_pixels_p99:.2g} px" for report in reports))
    table.add_row("same regions", *(f"{report.region_set_agreement:.1%}" for report in reports))
    table.add_row("gate flips", *(f"{report.gate_flips} of {report.crops}" for report in reports))
    table.add_row(
        "… near the threshold",
        *(f"{report.gate_flips_near_threshold} of {report.gate_near_threshold}" for report in reports),
    )
    if verification.average_precision is not None:
        table.add_row("AP", *(_precision(engine, verification.average_precision) for engine in engines))
    table.add_section()
    table.add_row("verdict", *map(_verdict, reports))
    console.print(table)
    for line in verification.unusable:
        console.print(f"not verified: {line}", soft_wrap=True, highlight=False, markup=False)


def _mark(engine: VerifiedEngine) -> str:
    return " (experimental)" if engine.report.experimental else ""


def _verdict(report: ParityReport) -> str:
    if report.experimental:
        return "reported only"
    return "beyond tolerance" if report.failures else "within tolerance"


def _differences(item: OutputParity) -> str:
    return f"{item.max_abs_difference:.1e} / {item.mean_abs_difference:.1e}"


def _precision(engine: VerifiedEngine, reference: float) -> str:
    assert engine.average_precision is not None
    return f"{engine.average_precision:.3f} ({engine.average_precision - reference:+.3f})"

"""The parity table, as it is printed."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from sharpose.manifest import ParityReport, Precision

__all__ = ["print_parity"]


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

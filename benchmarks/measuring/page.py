"""The report of `latency.py` as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from report import Machine

from measuring.contenders import OUTSIDE_ENGINES, STAGES
from measuring.turns import PERCENTILE_NAMES

Report = Mapping[str, Any]
"""What `latency.json` holds."""


def write_page(report: Report) -> str:
    """The whole page."""
    height, width = report["picture"]
    at_alpha = f", alpha {report['alpha']:g}" if "alpha" in report else ""
    lines = [
        f"# Latency of {report['bundle']}",
        "",
        str(Machine(**report["machine"])),
        "",
        f"`{report['command']}`",
        "",
        f"From a decoded frame of {height} x {width} and boxes to poses, weights: {report['weights']}{at_alpha}.",
        "Decoding, detection, drawing and encoding are not included. All contenders run in turns, every second round",
        "in the reverse order. A refine rate that is no whole number of people is kept over several frames (50 % of 1",
        "person: every second frame), so their percentiles have two humps: compare means.",
        "",
        *_sections(report),
    ]
    return "\n".join(lines) + "\n"


def cell(value: object) -> str:
    """A value as a table shows it: numbers with three digits, large ones in full."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [
        "| " + " | ".join(header) + " |",
        "| --- " * len(header) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _sections(report: Report) -> Iterator[str]:
    if report["left_out"]:
        yield from ("Left out:", "", *(f"* {line}" for line in report["left_out"]), "")
    yield from ("## From a decoded frame to poses", "", "Milliseconds a frame.", "")
    header = ["people", "refined", "contender", "mean", *PERCENTILE_NAMES, "people/s", "frames"]
    yield from table(header, (_end_to_end(*item) for item in _rows(report)))
    yield from ("", "## By stage", "", *_explanation(report), "")
    header = ["people", "refined", "contender", *(name.replace("_", " ") for name in STAGES[:-1])]
    header += ["batches coarse", "fine", "outside the engines", "GFLOP coarse", "fine", "share of peak coarse", "fine"]
    yield from table(header, (_by_stage(*item) for item in _rows(report)))
    yield from ("", "## Ratios", "", *_RATIOS, "")
    yield from table(
        ["people", "refined", "first", "second", "times as fast", "95 % interval", "rounds"],
        (
            [
                *_case_cells(case),
                item["first"],
                item["second"],
                f"{item['median']:.2f}",
                f"{item['low']:.2f} to {item['high']:.2f}",
                str(item["rounds"]),
            ]
            for case in report["cases"]
            for item in case["ratios"]
        ),
    )
    yield from ("", "## Start and warm-up", "", *_starts(report), "", "## Energy", "", *_energy(report))


_RATIOS = (
    "How many times as fast the first is as the second: the median over rounds of the ratio of their turns, and the",
    "95 % interval of that median under resampling of rounds.",
)


def _rows(report: Report) -> Iterator[tuple[Report, str, Report]]:
    for case in report["cases"]:
        for name, values in case["contenders"].items():
            yield case, name, values


def _case_cells(case: Report) -> list[str]:
    return [str(case["people"]), f"{case['refine_percent']} %"]


def _end_to_end(case: Report, name: str, values: Report) -> list[str]:
    percentiles = values["percentiles"]["end_to_end"]
    return [
        *_case_cells(case),
        name,
        f"{values['mean_ms']:.2f}",
        *(f"{percentiles[key]:.2f}" for key in PERCENTILE_NAMES),
        f"{values['people_per_second']:.1f}",
        str(values["frames"]),
    ]


def _by_stage(case: Report, name: str, values: Report) -> list[str]:
    work, shares = values["multiply_adds"], values["share_of_peak"]
    return [
        *_case_cells(case),
        name,
        *(f"{values['means'][stage]:.2f}" for stage in STAGES[:-1]),
        *(_sizes(values["batches"].get(stage, ())) for stage in ("coarse", "fine")),
        f"{values['outside_engines']:.1%}",
        *(f"{work[stage] / 1e9:.1f}" if stage in work else "" for stage in ("coarse", "fine")),
        *(f"{shares[stage]:.0%}" if stage in shares else "" for stage in ("coarse", "fine")),
    ]


def _sizes(batches: Sequence[int]) -> str:
    """`2 x 8, 1 x 4`: two batches of 8 people and one of 4."""
    return ", ".join(f"{batches.count(size)} x {size}" for size in dict.fromkeys(batches))


def _explanation(report: Report) -> Iterator[str]:
    names = ", ".join(name.replace("_", " ") for name in OUTSIDE_ENGINES)
    yield f"Means in milliseconds a frame. Outside the engines: {names}. Dense models and peers: one stage, `coarse`."
    yield "Batches: 2 x 8 is two of 8 people, by the costs measured while warming up."
    yield "GFLOP: multiply-adds in billions a frame. Share of peak: of the fastest matrix product measured here in that"
    yield "precision (int8 models compute parts in float32):"
    yield ""
    for peak in report["peaks"]:
        speed, size = peak["multiply_adds_per_s"] / 1e9, peak["size"]
        yield (
            f"* {peak['precision']} on the {peak['hardware'].upper()}: {speed:.0f} billion multiply-adds per second "
            f"({2 * speed:.0f} GFLOP/s where each counts twice), {peak['library']}, {size} x {size}"
        )
    if not report["peaks"]:
        yield "* none was measured"


def _starts(report: Report) -> Iterator[str]:
    if report["cold_starts"]:
        yield "Fresh processes, medians: seconds from the start of the process to the first poses, everybody refined;"
        yield "the most memory that the process took, and what it added on the GPU, in MiB."
        yield ""
        rows = []
        for name, item in report["cold_starts"].items():
            cells = [str(item["people"]), name]
            if item["error"]:
                rows.append([*cells, item["error"], *[""] * 5])
                continue
            cells += [f"{item[key]:.2f}" for key in ("seconds", "imports_s", "load_s", "first_frame_s")]
            gpu = "" if item["gpu_mib"] is None else f"{item['gpu_mib']:.0f}"
            rows.append([*cells, f"{item['host_peak_mib']:.0f}", gpu])
        header = [
            "people",
            "contender",
            "to first poses",
            "imports",
            "load",
            "first frame",
            "host memory",
            "GPU memory",
        ]
        yield from table(header, rows)
        yield ""
    yield "In the run itself, before measuring, in milliseconds:"
    yield ""
    yield from table(
        ["people", "refined", "contender", "first frame", "warm-up"],
        (
            [*_case_cells(case), name, f"{values['first_frame_ms']:.0f}", f"{values['warm_up_ms']:.0f}"]
            for case, name, values in _rows(report)
        ),
    )


def _energy(report: Report) -> Iterator[str]:
    sensors = report["energy_sensors"]
    if not sensors:
        yield "No sensor can be read here: neither RAPL (/sys/class/powercap), nor nvidia-smi, nor INA3221."
        return
    yield "Joules a frame, the whole machine part that a sensor sees, idle power included."
    yield ""
    yield from table(
        ["people", "refined", "contender", *sensors],
        (
            [*_case_cells(case), name, *(f"{values['joules_per_frame'][sensor]:.3g}" for sensor in sensors)]
            for case, name, values in _rows(report)
        ),
    )

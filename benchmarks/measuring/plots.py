"""Plots of `latency.json`: latency against refine rate, throughput against people, a waterfall of stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from measuring.contenders import STAGES
from sharpose.errors import counted

mpl.use("Agg")

_COLOURS = [f"C{number}" for number in range(10)]


def draw_plots(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the plots that the cases allow as PNG files; returns their paths."""
    people = sorted({case["people"] for case in report["cases"]})
    rates = sorted({case["refine_percent"] for case in report["cases"]})
    drawn = {"stages.png": _waterfall(report)}
    if len(rates) > 1:
        drawn["latency_by_refine_rate.png"] = _by_refine_rate(report, people)
    if len(people) > 1:
        drawn["throughput_by_people.png"] = _by_people(report, rates)
    paths = []
    for name, figure in sorted(drawn.items()):
        figure.savefig(folder / name, dpi=100)
        paths.append(folder / name)
    return paths


def _figure(report: Mapping[str, Any], panels: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(5.0 * panels, height), layout="constrained")
    figure.suptitle(f"{report['bundle']}, {report['machine']['processor']}, {report['machine']['cores']} cores")
    return figure, [figure.add_subplot(1, panels, number + 1) for number in range(panels)]


def _by_refine_rate(report: Mapping[str, Any], people: list[int]) -> Figure:
    figure, panels = _figure(report, len(people), 4)
    for axes, count in zip(panels, people, strict=True):
        for number, item in enumerate(report["opened"]):
            points = [
                (case["refine_percent"], case["contenders"][item["name"]]["mean_ms"])
                for case in report["cases"]
                if case["people"] == count and item["name"] in case["contenders"]
            ]
            _line(axes, points, item["name"], number)
        axes.set(title=counted(count, "person"), xlabel="refined (%)", ylabel="mean ms per frame", ylim=(0, None))
    _legend(figure, panels[0])
    return figure


def _by_people(report: Mapping[str, Any], rates: list[int]) -> Figure:
    figure, panels = _figure(report, len(rates), 4)
    for axes, rate in zip(panels, rates, strict=True):
        for number, item in enumerate(report["opened"]):
            points = [
                (case["people"], case["contenders"][item["name"]]["people_per_second"])
                for case in report["cases"]
                if case["refine_percent"] == rate and item["name"] in case["contenders"]
            ]
            _line(axes, points, item["name"], number)
        axes.set(title=f"{rate} % refined", xlabel="people in a frame", ylabel="people per second", ylim=(0, None))
    _legend(figure, panels[0])
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=4)


def _line(axes: Axes, points: list[tuple[float, float]], name: str, number: int) -> None:
    if points:
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name, color=_COLOURS[number % len(_COLOURS)])


def _waterfall(report: Mapping[str, Any]) -> Figure:
    """One bar for each contender of each case; its stages begin where those before them end."""
    bars = [
        (f"{counted(case['people'], 'person')}, {case['refine_percent']} %: {name}", values["means"])
        for case in report["cases"]
        for name, values in case["contenders"].items()
    ]
    figure, (axes,) = _figure(report, 1, 1.5 + 0.22 * len(bars))
    figure.set_figwidth(9)
    left = [0.0] * len(bars)
    for number, stage in enumerate(STAGES[:-1]):
        widths = [means[stage] for _, means in bars]
        axes.barh(range(len(bars)), widths, left=left, label=stage.replace("_", " "), color=_COLOURS[number])
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("mean milliseconds per frame")
    figure.legend(fontsize=7, loc="outside lower center", ncols=len(STAGES))
    return figure

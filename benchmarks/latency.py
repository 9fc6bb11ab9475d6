"""Latency of a bundle on a device, by stage: `python benchmarks/latency.py --bundle DIR --output DIR`.

One picture of the built-in scene runs repeatedly, for each number of people and each share of them that is refined.
Decoding, detection, drawing and encoding are not included. Warm-up runs are reported separately.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import click
import numpy as np
import numpy.typing as npt
from report import Machine, command_to_repeat, make_output_folder, number_list, this_machine

from sharpose.cli import Threads
from sharpose.cli import main as run_command
from sharpose.engines.precision import PRECISIONS, PrecisionChoice
from sharpose.runtime import Boxes, PoseEstimator
from sharpose.scene import Scene, SceneConfig

STAGES = ("crop", "coarse", "gate", "gather", "fine", "map_back", "end_to_end")
OUTSIDE_ENGINES = ("crop", "gate", "gather", "map_back")


@dataclass(frozen=True)
class Case:
    """One row of the report."""

    people: int  # number of people in the picture
    refined: int  # number of them that run through the fine stage
    iterations: int  # number of measured runs
    warm_up_ms: float  # total milliseconds of the warm-up runs
    percentiles: dict[str, tuple[float, float, float]]  # p50, p95 and p99 of every stage, in milliseconds
    people_per_second: float  # `people` divided by the median end-to-end time
    own_share: float  # share of the mean end-to-end time that is spent outside the engines


def measure(
    estimator: PoseEstimator, people: int, refined: int, *, warm_up: int, seconds: float, min_iterations: int
) -> Case:
    """Run one case, with the first `refined` people refined, for at least `seconds` and `min_iterations` runs."""
    image, boxes = picture_with(people)
    rows = range(refined)
    started = time.perf_counter()
    for _ in range(warm_up):
        estimator(image, boxes, rows=rows)
    warm_up_ms = (time.perf_counter() - started) * 1000
    samples: list[dict[str, float]] = []
    deadline = time.perf_counter() + seconds
    while len(samples) < min_iterations or time.perf_counter() < deadline:
        began = time.perf_counter()
        timings = asdict(estimator(image, boxes, rows=rows).timings)
        timings["end_to_end"] = time.perf_counter() - began
        samples.append({stage: timings[stage] * 1000 for stage in STAGES})
    percentiles: dict[str, tuple[float, float, float]] = {}
    for stage in STAGES:
        p50, p95, p99 = (float(value) for value in np.percentile([sample[stage] for sample in samples], (50, 95, 99)))
        percentiles[stage] = p50, p95, p99
    return Case(
        people=people,
        refined=refined,
        iterations=len(samples),
        warm_up_ms=warm_up_ms,
        percentiles=percentiles,
        people_per_second=people * 1000 / percentiles["end_to_end"][0],
        own_share=sum(sample[stage] for sample in samples for stage in OUTSIDE_ENGINES)
        / sum(sample["end_to_end"] for sample in samples),
    )


def picture_with(people: int) -> tuple[npt.NDArray[np.uint8], Boxes]:
    """A 720 x 1280 picture of the scene, always the same, and `people` boxes in it, repeated where it has fewer."""
    frame = Scene(SceneConfig(seed=0, people=24, frames=1)).frame(0)
    index = np.arange(people) % len(frame.boxes_xyxy)
    return frame.image, Boxes.from_xyxy(frame.boxes_xyxy[index])


def markdown(cases: list[Case], machine: Machine, bundle: str, device: str, command_line: str) -> str:
    """The report as a Markdown page."""
    lines = [
        f"# Latency of {bundle} on {device}",
        "",
        f"{machine.processor}, {machine.cores} cores, {machine.memory_gib:.0f} GiB"
        + (f"; {machine.gpu}" if machine.gpu else "")
        + f"; {machine.system}; Python {machine.python}; "
        + ", ".join(f"{name} {version}" for name, version in machine.packages.items()),
        "",
        f"`{command_line}`",
        "",
        "Milliseconds per picture, p50 / p95 / p99. People are cropped from a 720 x 1280 scene; reading,",
        "detection, drawing and writing are not included. `own` is the share of crop, gate, gather and map back.",
        "",
        "| people | refined | "
        + " | ".join(stage.replace("_", " ") for stage in STAGES)
        + " | people/s | own | warm-up |",
        "| --- " * (len(STAGES) + 5) + "|",
    ]
    for case in cases:
        times = " | ".join(" / ".join(f"{value:.2f}" for value in case.percentiles[stage]) for stage in STAGES)
        lines.append(
            f"| {case.people} | {case.refined} | {times} | {case.people_per_second:.1f} | {case.own_share:.1%} | "
            f"{case.warm_up_ms:.0f} ms |"
        )
    return "\n".join(lines) + "\n"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Folder written by sharpose-export.  [default: the shipped bundle]",
)
@click.option("--device", default="cpu", show_default=True, help="Device, as sharpose-run takes it.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True, help="As sharpose-run takes it."
)
@click.option("--threads", type=Threads(), help="CPU threads of the engine.  [default: the engine's choice]")
@click.option("--people", default="1,4,16", show_default=True, callback=number_list(1, 1024), help="Numbers of people.")
@click.option(
    "--refine", default="0,50,100", show_default=True, callback=number_list(0, 100), help="Percentages to refine."
)
@click.option(
    "--seconds", default=5.0, show_default=True, type=click.FloatRange(0, 86400), help="Minimum seconds per case."
)
@click.option("--iterations", default=20, show_default=True, type=click.IntRange(1), help="Minimum runs per case.")
@click.option("--warm-up", default=3, show_default=True, type=click.IntRange(0), help="Runs before measuring.")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="Folder for latency.md and latency.json."
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def command(
    bundle: Path | None,
    device: str,
    precision: PrecisionChoice,
    threads: int | None,
    people: list[int],
    refine: list[int],
    seconds: float,
    iterations: int,
    warm_up: int,
    output: Path,
    debug: bool,
) -> int:
    """Measure a bundle's latency by stage."""
    make_output_folder(output)
    estimator = PoseEstimator(bundle, device=device, precision=precision, threads=threads)
    cases: list[Case] = []
    for count in people:
        # every number of refined people once: 50 % of one person is nobody or everybody
        for refined in dict.fromkeys(round(count * percent / 100) for percent in refine):
            case = measure(estimator, count, refined, warm_up=warm_up, seconds=seconds, min_iterations=iterations)
            cases.append(case)
            p50 = case.percentiles["end_to_end"][0]
            click.echo(f"{case.people} people, {case.refined} refined: {p50:.1f} ms, {case.people_per_second:.1f}/s")
    command_line = command_to_repeat("latency.py")
    machine = this_machine()
    name = estimator.bundle.model.name
    page = markdown(cases, machine, f"{name} ({estimator.precision})", estimator.device, command_line)
    (output / "latency.md").write_text(page, "utf-8")
    report = {
        "bundle": name,
        "weights": estimator.bundle.manifest.source,
        "device": estimator.device,
        "precision": estimator.precision,
        "command": command_line,
        "machine": asdict(machine),
        "cases": [asdict(case) for case in cases],
    }
    (output / "latency.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    estimator.close()
    click.echo(f"wrote {output / 'latency.md'} and {output / 'latency.json'}")
    return 0


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()

"""Latency of a bundle on a device, stage by stage: `python benchmarks/latency.py --bundle DIR --people 1,4,16`.

One picture of the built-in scene is run again and again, with as many people and as many of them refined as asked for.
Reading, finding people, drawing and writing are not part of it. Warm-up runs are reported apart.
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
from machine import MachineReport, describe_machine, number_list  # beside this file

from sharpose.cli import main as run_command
from sharpose.runtime import Boxes, PoseEstimator, StageTimings
from sharpose.scene import Scene, SceneConfig

STAGES = ("crop", "coarse", "gate", "gather", "fine", "map_back", "end_to_end")
OUR_OWN = ("crop", "gate", "gather", "map_back")  # what the runtime does outside the engines


@dataclass(frozen=True)
class Case:
    """One row of the report; times in milliseconds.

    Attributes:
        people: People in the picture.
        refined: How many of them the fine stage looked at.
        warm_up_ms: What the runs before the measured ones took, all together.
        percentiles: p50, p95, p99 by stage.
        people_per_second: People divided by the median end-to-end time.
        own_share: Share of the runtime's own stages in the mean end-to-end time.
    """

    people: int
    refined: int
    iterations: int
    warm_up_ms: float
    percentiles: dict[str, tuple[float, float, float]]
    people_per_second: float
    own_share: float


def measure(
    estimator: PoseEstimator, people: int, refine_percent: int, *, warm_up: int, seconds: float, min_iterations: int
) -> Case:
    """Run one case until both `seconds` and `min_iterations` are reached."""
    image, boxes = picture_with(people)
    rows = list(range(round(people * refine_percent / 100)))
    started = time.perf_counter()
    for _ in range(warm_up):
        estimator(image, boxes, rows=rows)
    warm_up_ms = (time.perf_counter() - started) * 1000
    samples: list[dict[str, float]] = []
    deadline = time.perf_counter() + seconds
    while len(samples) < min_iterations or time.perf_counter() < deadline:
        began = time.perf_counter()
        timings = estimator(image, boxes, rows=rows).timings
        samples.append(_milliseconds(timings, time.perf_counter() - began))
    percentiles = {stage: _percentiles([sample[stage] for sample in samples]) for stage in STAGES}
    total = sum(sample["end_to_end"] for sample in samples)
    own = sum(sample[stage] for sample in samples for stage in OUR_OWN)
    return Case(
        people=people,
        refined=len(rows),
        iterations=len(samples),
        warm_up_ms=warm_up_ms,
        percentiles=percentiles,
        people_per_second=people * 1000 / percentiles["end_to_end"][0],
        own_share=own / total,
    )


def picture_with(people: int) -> tuple[npt.NDArray[np.uint8], Boxes]:
    """A 720 x 1280 picture of the scene, always the same, and `people` boxes in it, repeated where it has fewer."""
    frame = Scene(SceneConfig(seed=0, people=24, frames=1)).frame(0)
    index = np.arange(people) % len(frame.boxes_xyxy)
    return frame.image, Boxes.from_xyxy(frame.boxes_xyxy[index])


def _milliseconds(timings: StageTimings, end_to_end: float) -> dict[str, float]:
    return {stage: seconds * 1000 for stage, seconds in (asdict(timings) | {"end_to_end": end_to_end}).items()}


def _percentiles(values: list[float]) -> tuple[float, float, float]:
    p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
    return p50, p95, p99


def markdown(cases: list[Case], machine: MachineReport, bundle: str, device: str, command_line: str) -> str:
    """The report as a page for people."""
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
        "Milliseconds a picture, p50 / p95 / p99. People are cropped from a 720 x 1280 picture of the scene; reading,",
        "finding people, drawing and writing are not included. `own` is the share of crop, gate, gather and map back.",
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
    "--bundle", type=click.Path(path_type=Path), help="Folder written by sharpose-export.  [default: the package's own]"
)
@click.option("--device", default="cpu", show_default=True, help="As sharpose-run's.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the engine; its own choice if left out.")
@click.option(
    "--people", default="1,4,16", show_default=True, callback=number_list(1, 1024), help="People in the picture."
)
@click.option(
    "--refine", default="0,50,100", show_default=True, callback=number_list(0, 100), help="Percent of them refined."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 86400),
    default=5.0,
    show_default=True,
    help="Least time a case is measured for.",
)
@click.option("--iterations", default=20, show_default=True, type=click.IntRange(1), help="Least runs of a case.")
@click.option("--warm-up", default=3, show_default=True, type=click.IntRange(0), help="Runs before measuring.")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="Folder for latency.md and latency.json."
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def command(
    bundle: Path | None,
    device: str,
    threads: int | None,
    people: list[int],
    refine: list[int],
    seconds: float,
    iterations: int,
    warm_up: int,
    output: Path,
    debug: bool,
) -> int:
    """Measure a bundle's latency, stage by stage."""
    context = click.get_current_context()
    try:
        output.mkdir(parents=True, exist_ok=True)  # before the long part
    except OSError as error:
        raise click.UsageError(f"--output {output}: expected a folder that can be made: {error.strerror}") from None
    estimator = PoseEstimator.from_bundle(bundle, device=device, threads=threads)
    cases: list[Case] = []
    for count in people:
        done: set[int] = set()
        for percent in refine:
            if round(count * percent / 100) in done:
                continue  # 50 % of one person is nobody or everybody
            done.add(round(count * percent / 100))
            case = measure(estimator, count, percent, warm_up=warm_up, seconds=seconds, min_iterations=iterations)
            cases.append(case)
            p50 = case.percentiles["end_to_end"][0]
            click.echo(f"{case.people} people, {case.refined} refined: {p50:.1f} ms, {case.people_per_second:.1f}/s")
    arguments = " ".join(
        f"--{name.replace('_', '-')} {','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in context.params.items()
        if value is not None and name not in ("debug", "output")
    )
    command_line = f"python benchmarks/latency.py {arguments} --output DIR"
    machine = describe_machine()
    name = f"{estimator.bundle.model.name} (fp32)"
    (output / "latency.md").write_text(markdown(cases, machine, name, estimator.device, command_line), "utf-8")
    report = {
        "bundle": estimator.bundle.model.name,
        "weights": estimator.bundle.manifest.source,
        "device": estimator.device,
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

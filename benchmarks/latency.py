"""Latency of a bundle, by stage and from a decoded frame to poses: `python benchmarks/latency.py --output DIR`.

Devices, precisions and baselines are compared in one run, frame for frame, in turns of alternating order. One picture
of the built-in scene is used, for each number of people and each refine rate. Decoding, detection, drawing and encoding
are not included. A time ends when the results are on the host, so it includes copies from and to a GPU.
"""

from __future__ import annotations

if __name__ == "__main__":  # Ctrl-C while modules are imported
    from sharpose.__main__ import end_on_signals

    end_on_signals()

import contextlib
import functools
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import click
import numpy as np
import numpy.typing as npt
from measuring.cold_start import measure_cold_start
from measuring.command import begin, bundle_option, report_options, threads_option
from measuring.contenders import (
    BASELINES,
    OUTSIDE_ENGINES,
    STAGES,
    Contender,
    Entry,
    check_packages,
    list_entries,
    open_contender,
)
from measuring.energy import EnergyMeter, Sensor, find_sensors
from measuring.page import write_page
from measuring.peak import Peak, measure_peak
from measuring.turns import Times, paired_ratio, refined_counts, take_turns
from report import (
    PartialReportError,
    benchmark_command,
    command_to_repeat,
    kept_when_interrupted,
    number_list,
    word_list,
    write_file,
)

from sharpose.bundle import Bundle, open_bundle, shipped_bundle
from sharpose.cli import Number, Whole, option
from sharpose.cli import main as run_command
from sharpose.engines.device import parse_device
from sharpose.engines.precision import PRECISIONS, PrecisionChoice
from sharpose.errors import EngineError, InputError, SharposeError, counted
from sharpose.files import found_at
from sharpose.runtime import Boxes
from sharpose.scene import Scene, SceneConfig, SceneFrame

SCHEMA = "sharpose-latency/2"
SIZE = (720, 1280)
"""Height and width of the picture."""
_MODEL, _CASES, _REPORT = "What is compared", "Cases, and how long each takes", "Report"


@dataclass(frozen=True)
class Plan:
    """What is measured, and how long."""

    people: Sequence[int]
    refine: Sequence[int]  # percentages
    seconds: float
    rounds: int
    warm_up: int
    threads: int | None = None
    cold_starts: int = 0
    peak_s: float = 1.0  # for each library and size; 0 measures no peak


@dataclass
class Report:
    """What `latency.json` holds beside the machine and the command."""

    opened: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    peaks: list[dict[str, Any]] = field(default_factory=list)
    cold_starts: dict[str, dict[str, Any]] = field(default_factory=dict)
    energy_sensors: list[str] = field(default_factory=list)
    cases: list[dict[str, Any]] = field(default_factory=list)


def picture_with(people: int, size: tuple[int, int] = SIZE) -> tuple[npt.NDArray[np.uint8], Boxes]:
    """A picture of the scene, always the same, and `people` boxes in it, repeated where it has fewer."""
    frame = _scene(*size)
    index = np.arange(people) % len(frame.boxes_xyxy)
    return frame.image, Boxes.from_xyxy(frame.boxes_xyxy[index])


@functools.cache
def _scene(height: int, width: int) -> SceneFrame:
    return Scene(SceneConfig(seed=0, people=24, frames=1, height=height, width=width)).frame(0)


class Benchmark:
    """Opens all entries, measures every case, and collects the report; closes what it opened.

    Args:
        bundle: The bundle.
        entries: What to open.
        plan: What to measure.
        folder: For scratch files.
        may_be_left_out: Kinds of entries that are left out, with the reason in the report, where they can't run here.

    Raises:
        SharposeError: another entry can't run here, or no engine is left.
    """

    def __init__(
        self, bundle: Bundle, entries: Sequence[Entry], plan: Plan, folder: Path, may_be_left_out: Sequence[str]
    ) -> None:
        self._bundle, self._plan, self._folder = bundle, plan, folder
        self.report = Report()
        self._contenders: list[Contender] = []
        self._sensors: list[Sensor] = []
        try:
            for entry in entries:
                try:
                    self._contenders.append(open_contender(entry, bundle, folder / "dense", plan.threads))
                except SharposeError as error:
                    if entry.kind not in may_be_left_out:
                        raise
                    self._leave_out(entry, error)
            if not any(contender.entry.kind == "engine" for contender in self._contenders):
                raise EngineError("no device runs the bundle in any of the precisions, as said above")
        except SharposeError:
            self.close()
            raise
        for contender in self._contenders:
            about = asdict(contender.entry) | {"name": contender.name, "opened_s": contender.opened_s}
            self.report.opened.append(about)
        gpus = [parse_device(entry.device) for entry in entries if _hardware(entry.device) == "gpu"]
        self._sensors = find_sensors(gpus[0].index if gpus else None)
        self.report.energy_sensors = [sensor.name for sensor in self._sensors]
        self._peaks: dict[tuple[str, str], Peak] = {}  # by hardware and precision

    def _leave_out(self, entry: Entry, error: SharposeError) -> None:
        self.report.left_out.append(f"{entry.name}: {error}")
        click.echo(f"left out: {self.report.left_out[-1]}")

    def close(self) -> None:
        """Free everything."""
        for contender in self._contenders:
            contender.close()
        for sensor in self._sensors:
            sensor.close()

    def measure_peaks(self) -> None:
        """The matrix-product peak for each precision of an engine or baseline."""
        for contender in self._contenders:
            key = _hardware(contender.entry.device), contender.entry.precision
            if contender.entry.kind == "peer" or key in self._peaks or not (key[0] and self._plan.peak_s):
                continue
            gpu = parse_device(contender.entry.device).index if key[0] == "gpu" else None
            peak = measure_peak(key[1], gpu=gpu, threads=self._plan.threads, seconds=self._plan.peak_s)
            if peak is not None:
                self._peaks[key] = peak
                self.report.peaks.append(asdict(peak) | {"hardware": key[0]})
                click.echo(
                    f"matrix products in {peak.precision}: {peak.multiply_adds_per_s / 1e9:.0f} billion multiply-adds "
                    f"per second ({peak.library})"
                )

    def measure_cold_starts(self) -> None:
        """A few fresh processes of each contender, with as many people as the largest case."""
        image, boxes = picture_with(max(self._plan.people))
        for contender in self._contenders if self._plan.cold_starts else ():
            if contender.entry.kind in ("both-stages", "torch-compiled"):
                continue  # the same as the engine; compiles for a minute
            found = measure_cold_start(
                contender.entry,
                self._bundle,
                self._folder / "dense",
                self._plan.threads,
                image,
                boxes,
                times=self._plan.cold_starts,
            )
            self.report.cold_starts[contender.name] = asdict(found) | {"people": len(boxes)}
            click.echo(f"{contender.name}: {found.error or f'{found.seconds:.2f} s from start to poses'}")

    def measure_cases(self, done: Callable[[dict[str, Any]], None] = lambda case: None) -> None:
        """Every number of people with every refine rate; `done` is called with each case as `latency.json` has it."""
        for people, percent in itertools.product(self._plan.people, self._plan.refine):
            counts = refined_counts(people, percent)
            image, boxes = picture_with(people)
            taking_part = [item for item in self._contenders if item.entry.kind != "both-stages" or percent < 100]
            meters = {item.name: EnergyMeter(self._sensors) for item in taking_part} if self._sensors else {}
            times = take_turns(
                {item.name: item.frame(image, boxes) for item in taking_part},
                counts,
                warm_up=self._plan.warm_up,
                seconds=self._plan.seconds,
                min_rounds=self._plan.rounds,
                meters=meters,
            )
            refined = sum(counts) / len(counts)
            values = {
                item.name: self._values(item, times[item.name], people, refined, meters.get(item.name))
                for item in taking_part
            }
            ratios = [
                asdict(paired_ratio(times, first.name, second.name))
                for first, second in itertools.combinations(taking_part, 2)
            ]
            case = {"people": people, "refine_percent": percent, "refined": refined, "contenders": values}
            self.report.cases.append({**case, "ratios": ratios})
            done(self.report.cases[-1])
            for name, item in values.items():
                click.echo(
                    f"{counted(people, 'person')}, {percent} % refined, {name}: {item['mean_ms']:.1f} ms, "
                    f"{item['people_per_second']:.1f}/s"
                )

    def _values(
        self, contender: Contender, times: Times, people: int, refined: float, meter: EnergyMeter | None
    ) -> dict[str, Any]:
        """One contender in one case, as `latency.json` has it."""
        work = contender.multiply_adds(people, refined)
        peak = self._peaks.get((_hardware(contender.entry.device), contender.entry.precision))
        frames = times.frames()
        means = {stage: times.mean(stage) for stage in STAGES}
        shares = {
            stage: count / (means[stage] / 1000) / peak.multiply_adds_per_s
            for stage, count in work.items()
            if peak is not None and means[stage] > 0
        }
        own = sum(means[stage] for stage in OUTSIDE_ENGINES) / means["end_to_end"]
        return {
            "frames": len(frames),
            "rounds": len(times.turns),
            "first_frame_ms": times.first_ms,
            "warm_up_ms": times.warm_up_ms,
            "percentiles": {stage: times.percentiles(stage) for stage in STAGES},
            "means": means,
            "mean_ms": means["end_to_end"],
            "people_per_second": people * 1000 / means["end_to_end"],
            "outside_engines": own,
            "batches": contender.batches(people, math.ceil(refined)),
            "multiply_adds": work,
            "share_of_peak": shares,
            "joules_per_frame": {} if meter is None else {n: j / len(frames) for n, j in meter.joules.items()},
            "turn_means": {stage: _rounded(times.turn_means(stage)) for stage in STAGES},
        }


def _rounded(values: npt.NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in values]


def _hardware(device: str) -> str:
    """`cpu`, `gpu` (NVIDIA's), or nothing for what has no measured peak."""
    where = parse_device(device)
    if where.kind == "cpu" or where.target == "CPU":
        return "cpu"
    return "" if where.kind == "openvino" else "gpu"


def _draw(report: dict[str, Any], output: Path) -> None:
    try:
        from measuring.plots import draw_plots
    except ImportError:
        click.echo("no plots: they need matplotlib, which the extra [eval] brings")
        return
    for path in draw_plots(report, output):
        click.echo(f"wrote {path}")


def _check_peers(context: click.Context, parameter: click.Parameter, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    for path in paths:
        if (found := found_at(path)) != "a file":
            raise InputError(f"--peer {path}: expected an ONNX file, found {found}")
    return paths


@benchmark_command(
    "python benchmarks/latency.py --output out",
    "python benchmarks/latency.py --bundle bundle --device cpu,openvino --precision fp32,int8 --output out",
    "python benchmarks/latency.py --baseline torch-eager,dense --people 1 --refine 50,100 --plots --output out",
)
@bundle_option(_MODEL)
@option(
    _MODEL,
    "--device",
    default="cpu",
    show_default=True,
    callback=word_list(),
    help="Devices, as sharpose-run takes. What one of several can't run is left out; the exit code is then 3.",
)
@option(
    _MODEL,
    "--precision",
    default="auto",
    show_default=True,
    callback=word_list(PRECISIONS),
    help=f"Precisions of each device: {', '.join(PRECISIONS)}.",
)
@option(
    _MODEL,
    "--baseline",
    callback=word_list(BASELINES),
    help="Baselines in the same run: torch-eager and torch-compiled (this model in PyTorch), dense (a ViTPose of the "
    "same width and depth with its classic head, random weights), both-stages (everybody refined).",
)
@option(
    _MODEL,
    "--peer",
    multiple=True,
    type=click.Path(path_type=Path),
    callback=_check_peers,
    help="ONNX file of another pose model; may be given several times.",
)
@option(
    _MODEL,
    "--alpha",
    type=Number(0, 1, min_open=True),
    help="Share of a person's regions that the fine stage looks at.  [default: the bundle's]",
)
@threads_option(_MODEL)
@option(
    _CASES, "--people", default="1,4,16", show_default=True, callback=number_list(1, 1024), help="Numbers of people."
)
@option(
    _CASES,
    "--refine",
    default="0,50,100",
    show_default=True,
    callback=number_list(0, 100),
    help="Percentages to refine.",
)
@option(_CASES, "--seconds", default=5.0, show_default=True, type=Number(0, 86400), help="Minimum seconds per case.")
@option(_CASES, "--rounds", default=10, show_default=True, type=Whole(2), help="Minimum rounds per case.")
@option(_CASES, "--warm-up", default=3, show_default=True, type=Whole(1), help="Periods before measuring.")
@option(_CASES, "--cold-starts", default=0, show_default=True, type=Whole(0), help="Fresh processes of each contender.")
@option(
    _CASES,
    "--peak-seconds",
    default=1.0,
    show_default=True,
    type=Number(0, 60),
    help="For each library that multiplies matrices; 0: leave the peak out.",
)
@option(_REPORT, "--plots", is_flag=True, help="Draw plots, with matplotlib.")
@report_options("latency.md and latency.json", "cases")
def command(
    bundle: Path | None,
    device: list[str],
    precision: list[PrecisionChoice],
    baseline: list[str],
    peer: tuple[Path, ...],
    alpha: float | None,
    threads: int | None,
    people: list[int],
    refine: list[int],
    seconds: float,
    rounds: int,
    warm_up: int,
    cold_starts: int,
    peak_seconds: float,
    plots: bool,
    output: Path,
    overwrite: bool,
    debug: bool,
) -> int:
    """Measure a bundle's latency by stage, on several devices, in several precisions, beside baselines."""
    machine = begin(output, "latency.md", "latency.json", overwrite=overwrite)
    opened = open_bundle(shipped_bundle() if bundle is None else bundle).at_alpha(alpha)
    entries = list_entries(opened, device, precision, baseline, peer)
    check_packages(baseline)
    plan = Plan(people, refine, seconds, rounds, warm_up, threads, cold_starts, peak_seconds)
    with TemporaryDirectory(prefix="sharpose-latency-") as folder:
        several = len(device) * len(precision) > 1  # of which some pairs may not go together
        may_be_left_out = ("engine", "dense", "both-stages") if several else ()
        benchmark = Benchmark(opened, entries, plan, Path(folder), may_be_left_out)
        measured = benchmark.report
        left_out = [line.partition(": ")[0] for line in measured.left_out]

        def write() -> None:
            if missing := len(people) * len(refine) - len(measured.cases):
                measured.left_out.append(f"{counted(missing, 'case')}: not measured")
            report = {
                "schema": SCHEMA,
                "bundle": opened.model.name,
                "weights": opened.manifest.source,
                "alpha": opened.model.alpha,
                "date": date.today().isoformat(),
                "command": command_to_repeat("latency.py"),
                "picture": list(SIZE),
                "threads": threads,
                "machine": asdict(machine),
                **asdict(measured),
            }
            write_file(output / "latency.json", json.dumps(report, indent=1) + "\n")
            write_file(output / "latency.md", write_page(report))
            if plots:
                _draw(report, output)
            click.echo(f"wrote {output / 'latency.md'} and {output / 'latency.json'}")

        with contextlib.closing(benchmark), kept_when_interrupted(measured.cases, "case", output, write):
            benchmark.measure_peaks()
            benchmark.measure_cold_starts()
            benchmark.measure_cases()
            write()
    if left_out:
        raise PartialReportError(
            f"partial report: {', '.join(left_out)} left out, as said above; {output} holds the rest"
        )
    return 0


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()

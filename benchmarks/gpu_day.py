"""What there is to learn on a GPU in half an hour: `python benchmarks/gpu_day.py --bundle DIR`; see docs/gpu.md.

Runs the steps of `gpu_steps/` in order of value, each in a process of its own with a time limit, and writes
`results.json` and `results.md` before and after every step.
"""

from __future__ import annotations

if __name__ == "__main__":  # Ctrl-C while modules are imported
    from sharpose.__main__ import end_on_signals

    end_on_signals()

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import click
from gpu_steps.notes import AS_EXPECTED, COULD_NOT_RUN, NOT_AS_EXPECTED, RUNNING, Setup
from report import Machine, benchmark_command, command_to_repeat, make_output_folder, this_machine

from sharpose.bundle import shipped_bundle
from sharpose.cli import EXIT_REFUSED, Number, interruptible, option
from sharpose.cli import main as run_command
from sharpose.engines.device import parse_device
from sharpose.engines.gpu import probe_gpu
from sharpose.errors import EngineError, InputError
from sharpose.files import read_json, replacing

BENCHMARKS = Path(__file__).parent
STEPS_COMMAND = (sys.executable, "-m", "gpu_steps")
RESULTS = BENCHMARKS / "results" / "gpu_day"
LEFT_OVER = "left over"
_DONE = (AS_EXPECTED, NOT_AS_EXPECTED, COULD_NOT_RUN)
_ERROR = re.compile(r"error|fatal|failed|exception", re.IGNORECASE)
_TEXT_LENGTH = 400
_SETUP, _STEPS, _RESULTS = "What the steps are given", "Steps", "Results"


@dataclass(frozen=True)
class Step:
    """One thing to learn; `check_NAME` in `gpu_steps/` runs it."""

    name: str
    limit_s: float
    expectation: str


STEPS = (
    Step("doctor", 60, "the doctor says that the device can run"),
    Step("bindings", 60, "cuda-python and pycuda copy every byte, and graphs replay"),
    Step("engines", 240, "each TensorRT here builds, loads and runs engines that agree with the CPU"),
    Step("parity", 180, "every engine is within tolerance, and peaks in column 0 keep their row"),
    Step("batches", 150, "every batch size gives the same poses, with CUDA graphs and without"),
    Step("capture", 60, "a capture that fails gives one warning and the same poses"),
    Step("latency", 150, "gate and gather take under 5 % of a frame, and a frame at most 1.2 times its engines"),
    Step("baselines", 240, "4 times eager PyTorch with 1 person, 1.5 times compiled with 64, 1.4 times a dense model"),
    Step("providers", 120, "ONNX Runtime's CUDA and TensorRT providers run"),
    Step("threads", 60, "a detector and the estimator run at once without changing each other's results"),
    Step("reopening", 90, "memory stays flat over 50 times open, run, close"),
    Step("frames", 180, "10,000 frames run with flat memory and the same poses"),
    Step("sanitizer", 120, "compute-sanitizer finds nothing in 20 frames"),
    Step("video", 90, "video is decoded and encoded in hardware"),
)


@dataclass(frozen=True)
class Result:
    """What came of one step."""

    step: str
    expectation: str
    verdict: str = LEFT_OVER  # or `running`, or one of those of a step that is done
    text: str = ""  # what came out in one line, or the first line of the error
    seconds: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)  # numbers and words by name; a list of dicts is a table

    @property
    def is_done(self) -> bool:
        """Whether the step ran to a verdict."""
        return self.verdict in _DONE


@dataclass
class Report:
    """All results, and the files that hold them."""

    folder: Path
    device: str  # the GPU's name, compute capability and driver, or why there is none
    machine: Machine
    command: str
    results: dict[str, Result]  # by the step's name, in the order of the steps

    def put(self, result: Result) -> None:
        """Set a step's result and write both files; a kill at any time leaves them readable."""
        self.results[result.step] = result
        values = {
            "device": self.device,
            "machine": asdict(self.machine),
            "command": self.command,
            "results": [asdict(item) for item in self.results.values()],
        }
        for name, text in (("results.json", json.dumps(values, indent=2) + "\n"), ("results.md", self.markdown())):
            with replacing(self.folder / name) as temporary:
                temporary.write_text(text, "utf-8")

    def markdown(self) -> str:
        """The report as a page."""
        packages = ", ".join(f"{name} {version}" for name, version in self.machine.packages.items())
        lines = [
            f"# On {self.device}",
            "",
            f"{self.machine.processor}, {self.machine.cores} cores, {self.machine.memory_gib:.0f} GiB; "
            f"{self.machine.system}; Python {self.machine.python}; {packages}",
            "",
            f"`{self.command}`",
            "",
            "| step | verdict | seconds | what came out |",
            "| --- | --- | --- | --- |",
        ]
        for item in self.results.values():
            lines.append(f"| {item.step} | {item.verdict} | {item.seconds:.0f} | {_cell(item.text)} |")
        for item in self.results.values():
            if item.values:
                lines += ["", f"## {item.step}", "", f"Expected: {item.expectation}.", "", *_value_lines(item.values)]
        return "\n".join(lines) + "\n"


def _value_lines(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{name}:"
            yield ""
            yield "| " + " | ".join(value[0]) + " |"
            yield "| --- " * len(value[0]) + "|"
            for row in value:
                yield "| " + " | ".join(_cell(row[column]) for column in value[0]) + " |"
            yield ""
        else:
            yield f"* {name}: {_cell(value)}"


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def read_results(path: Path) -> dict[str, Result]:
    """The results that an earlier call wrote; raises `InputError` if the file isn't one of ours."""

    def failure(reason: str) -> InputError:
        return InputError(f"{path}: {reason}; give another --output")

    content = read_json(path, failure)
    try:
        return {item["step"]: Result(**item) for item in content["results"]}
    except (KeyError, TypeError) as error:
        raise failure(f"expected the results of an earlier call ({error})") from None


def run_step(step: Step, setup: Setup, folder: Path) -> Result:
    """Run one step in its own process group, which is killed at the limit; never raises for what a step does."""
    note, log = folder / f"{step.name}.note.json", folder / f"{step.name}.log"
    note.unlink(missing_ok=True)
    command = [*STEPS_COMMAND, step.name, json.dumps(setup.as_dict()), str(note)]
    started = time.monotonic()
    code = supervise(command, step.limit_s, log)
    result = Result(step.name, step.expectation, NOT_AS_EXPECTED, seconds=round(time.monotonic() - started, 1))
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(note.read_text("utf-8"))
        result = replace(result, values=content["values"])
        if code == 0 and content["verdict"] in _DONE:
            return replace(result, verdict=content["verdict"], text=content["text"][:_TEXT_LENGTH])
    if code is None:
        return replace(result, text=f"stopped at its limit of {step.limit_s} s; {first_error(log)}"[:_TEXT_LENGTH])
    end = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return replace(result, text=f"{end}; {first_error(log)}"[:_TEXT_LENGTH])


def supervise(command: Sequence[str], limit_s: float, log: Path) -> int | None:
    """Run a command beside this file, in a process group of its own, and kill what is left of it.

    Returns:
        Its exit code, or None at the limit.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=BENCHMARKS,
            start_new_session=True,
        )
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def first_error(log: Path) -> str:
    """The first line of a log that tells of an error; its last line if none does. Code of a traceback is indented."""
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line and not line[0].isspace()]
    return next(filter(_ERROR.search, lines), lines[-1] if lines else "nothing was printed")


def run_steps(steps: Sequence[Step], setup: Setup, report: Report, minutes: float) -> None:
    """Run steps in their order; one whose limit no longer fits into the minutes is left over, a shorter one may."""
    end = time.monotonic() + 60 * minutes
    for number, step in enumerate(steps, start=1):
        if step.limit_s > end - time.monotonic():
            report.put(Result(step.name, step.expectation))
            click.echo(f"{number}/{len(steps)} {step.name}: left over, as its limit is {step.limit_s} s")
            continue
        report.put(Result(step.name, step.expectation, RUNNING))
        click.echo(f"{number}/{len(steps)} {step.name}: {step.expectation} (at most {step.limit_s} s)")
        result = run_step(step, setup, report.folder)
        report.put(result)
        click.echo(f"    {result.verdict}, {result.seconds:.0f} s: {result.text}")


def device_text(device: str) -> tuple[str, str]:
    """The GPU for the report's title, and a folder's name for it."""
    try:
        gpu = probe_gpu(parse_device(device).index)
    except EngineError as error:
        return f"a machine whose GPU can't be used: {error}", "no-gpu"
    folder = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    return f"{gpu.name}, compute capability {gpu.compute_capability}, driver {gpu.driver}", folder


def _chosen(context: click.Context, parameter: click.Parameter, text: str | None) -> list[str] | None:
    known = [step.name for step in STEPS]
    names = None if text is None else text.split(",")
    if names is not None and (unknown := [name for name in names if name not in known]):
        raise click.BadParameter(f"{unknown[0]!r}: expected some of {', '.join(known)}")
    return names


@benchmark_command(
    "python benchmarks/gpu_day.py --list",
    "python benchmarks/gpu_day.py --bundle bundle",
    "python benchmarks/gpu_day.py --bundle bundle --steps latency,baselines --continue",
)
@option(
    _SETUP,
    "--bundle",
    type=click.Path(path_type=Path),
    help="Bundle, best with fp32 and fp16 graphs.  [default: the shipped bundle, which has fp32 and int8]",
)
@option(_SETUP, "--device", default="tensorrt", show_default=True, help="Device: tensorrt[:i].")
@option(
    _SETUP,
    "--detector",
    type=click.Path(path_type=Path),
    help="Detector's ONNX file.  [default: the coarse graph]",
)
@option(_STEPS, "--steps", callback=_chosen, metavar="A,B", help="Steps to run, even if they are done.  [default: all]")
@option(_STEPS, "--list", "list_only", is_flag=True, help="List the steps, their limits and what is expected.")
@option(_STEPS, "--minutes", default=30.0, show_default=True, type=Number(0.1, 600), help="Time for all steps.")
@option(
    _RESULTS, "--output", type=click.Path(path_type=Path), help="Folder.  [default: benchmarks/results/gpu_day/GPU]"
)
@option(_RESULTS, "--continue", "go_on", is_flag=True, help="Keep the results in the folder; run what isn't done.")
@option("Help", "--debug", is_flag=True, help="Show the traceback of an error.")
def command(
    bundle: Path | None,
    device: str,
    detector: Path | None,
    steps: list[str] | None,
    list_only: bool,
    minutes: float,
    output: Path | None,
    go_on: bool,
    debug: bool,
) -> int:
    """Run what there is to learn on a GPU. The exit code is 1 if anything is not as expected."""
    if list_only:
        for step in STEPS:
            click.echo(f"{step.name:<12} {step.limit_s:>4} s  {step.expectation}")
        return 0
    interruptible()
    title, folder_name = device_text(device)
    folder = (output or RESULTS / folder_name).absolute()
    make_output_folder(folder)
    known = {step.name: Result(step.name, step.expectation) for step in STEPS}
    if (folder / "results.json").exists():
        if not go_on:
            raise click.UsageError(f"--output {folder}: holds results; give --continue, or another --output")
        known |= {name: item for name, item in read_results(folder / "results.json").items() if name in known}
    setup = Setup(
        bundle=(bundle or shipped_bundle()).absolute(),
        folder=folder,
        device=device,
        detector=detector and detector.absolute(),
    )
    report = Report(folder, title, this_machine(), command_to_repeat("gpu_day.py"), known)
    click.echo(f"{title}: results in {folder}")
    chosen = [step for step in STEPS if (step.name in steps if steps else not known[step.name].is_done)]
    run_steps(chosen, setup, report, minutes)
    counts = {verdict: sum(item.verdict == verdict for item in report.results.values()) for verdict in _DONE}
    left = len(report.results) - sum(counts.values())
    click.echo(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + f", {left} left over")
    return EXIT_REFUSED if counts[NOT_AS_EXPECTED] else 0


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()

"""What the benchmarks share: the machine, the command that repeats a report, its files, and options."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Sized
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from sharpose.cli import EXIT_FAILED, EXIT_INTERRUPTED, SectionedCommand, Terminated
from sharpose.engines.device import cpu_text, usable_cores
from sharpose.errors import SharposeError, counted
from sharpose.files import replacing

_PACKAGES = (
    *("sharpose", "numpy", "opencv-python-headless", "av", "onnxruntime", "onnxruntime-gpu", "torch"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
    *("openvino", "cuda-bindings", "pycuda"),
)


@dataclass(frozen=True)
class Machine:
    """A machine and the packages on it; `gpu` is empty where nvidia-smi finds none, `governor` in most guests."""

    processor: str
    cores: int
    memory_gib: float
    gpu: str
    system: str
    python: str
    packages: dict[str, str]
    instruction_sets: str = ""  # those that matter for matrix products
    governor: str = ""  # of the CPU's frequency
    load_average: float = 0.0  # over the last minute, before the benchmark

    def __str__(self) -> str:
        """One line for a report."""
        packages = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        parts = [
            f"{self.processor}, {self.cores} cores, {self.memory_gib:.0f} GiB",
            self.gpu,
            self.instruction_sets and f"instruction sets {self.instruction_sets}",
            self.governor and f"governor {self.governor}",
            f"load average {self.load_average:.2f} before",
            self.system,
            f"Python {self.python}",
            packages,
        ]
        return "; ".join(filter(None, parts))


def this_machine() -> Machine:
    """The machine that the benchmark runs on."""
    packages: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Machine(
        processor=_processor(),
        cores=usable_cores(),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        gpu=_gpu(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages=packages,
        instruction_sets=cpu_text().partition(" ")[2],
        governor=_governor(),
        load_average=os.getloadavg()[0],
    )


def _processor() -> str:
    return _cpuinfo("model name", "hardware") or platform.processor() or "unknown processor"


def _cpuinfo(*names: str) -> str:
    """The first line of /proc/cpuinfo that has one of these names."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            if line.lower().startswith(names):
                return line.split(":", 1)[1].strip()
    return ""


def _governor() -> str:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return path.read_text("ascii").strip() if path.is_file() else ""


def _gpu() -> str:
    if (tool := shutil.which("nvidia-smi")) is None:
        return ""
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return " / ".join(found.stdout.split("\n")).strip(" /") if found.returncode == 0 else ""


def benchmark_command(*examples: str) -> Callable[[Callable[..., Any]], SectionedCommand]:
    """`click.command`, as the package's commands are: no option twice, and a help that ends with examples."""
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
    return click.command(cls=SectionedCommand, context_settings=settings, examples=examples)


def number_list(low: int, high: int) -> Callable[[click.Context, click.Parameter, str | None], list[int] | None]:
    """A click callback that reads `1,4,16`, each number from `low` to `high`; raises `click.BadParameter`."""

    def read(context: click.Context, parameter: click.Parameter, text: str | None) -> list[int] | None:
        if text is None:
            return None
        example = parameter.default if isinstance(parameter.default, str) else "1,4"
        try:
            numbers = [int(part) for part in text.split(",")]
        except ValueError:
            raise click.BadParameter(f"expected numbers separated by commas, such as {example}, got {text!r}") from None
        if not all(low <= number <= high for number in numbers):
            raise click.BadParameter(f"expected numbers from {low} to {high}, got {text!r}")
        return numbers

    return read


def word_list(known: Collection[str] = ()) -> Callable[[click.Context, click.Parameter, str | None], list[str]]:
    """A click callback that reads `a,b`, each of them `known`, or any words if empty; raises `click.BadParameter`."""

    def read(context: click.Context, parameter: click.Parameter, text: str | None) -> list[str]:
        words = text.split(",") if text else []
        for word in words:
            if not word or (known and word not in known):
                expected = f"some of {', '.join(known)}" if known else "names separated by commas"
                raise click.BadParameter(f"expected {expected}, got {text!r}")
        return list(dict.fromkeys(words))

    return read


class PartialReportError(SharposeError):
    """A report was written without all that was asked for."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def make_output_folder(path: Path, *files: str, overwrite: bool = False) -> None:
    """Make the report's folder before the long part.

    Args:
        path: The folder.
        files: What will be written there.
        overwrite: Whether files of an earlier report may be replaced.

    Raises:
        click.UsageError: it can't be made, or holds one of the files.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"--output {path}: expected a folder that can be created: {error.strerror}") from None
    if found := [name for name in files if not overwrite and (path / name).exists()]:
        words = f"{found[0]} already exists there; give another folder, or --overwrite to replace it"
        raise click.UsageError(f"--output {path}: {words}")


def write_file(path: Path, text: str) -> None:
    """Write a whole file, in place of one that is there."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


@contextlib.contextmanager
def kept_when_interrupted(finished: Sized, what: str, output: Path, write: Callable[[], None]) -> Iterator[None]:
    """Write what is finished when Ctrl-C, another signal or an error ends the block.

    Args:
        finished: What the block fills.
        what: What one of it is called, in the singular.
        output: The report's folder.
        write: Writes the report.

    Raises:
        PartialReportError: a signal or an error came, and something was finished.
    """
    try:
        yield
    except (KeyboardInterrupt, Terminated, SharposeError) as end:
        if not finished:
            raise
        write()
        word, code = (str(end), end.exit_code) if isinstance(end, Terminated) else ("interrupted", EXIT_INTERRUPTED)
        if isinstance(end, SharposeError):
            word, code = f"partial report: {end}; ended", EXIT_FAILED
        done = counted(len(finished), what)
        holds = f"{output} holds {'it' if len(finished) == 1 else 'them'}"
        raise PartialReportError(f"{word} after {done}; {holds}", code) from None


def command_to_repeat(script: str) -> str:
    """The command line that repeats the running click command, defaults included, with `--output DIR`."""
    context = click.get_current_context()
    words = ["python", f"benchmarks/{script}"]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if option.name in ("debug", "output", "overwrite", "go_on") or value is None or value is False:
            continue
        if value is True:
            words.append(option.opts[0])
        elif isinstance(value, tuple):  # an option that was given several times
            words += [word for item in value for word in (option.opts[-1], str(item))]
        elif value != []:
            words += [option.opts[-1], ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return " ".join([*words, "--output", "DIR"])

"""What the reports of the benchmarks share: the machine, the command that repeats them, and lists of numbers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import click

from sharpose.engines.device import cpu_text

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
        cores=os.cpu_count() or 0,
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


def word_list(known: Collection[str] = ()) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """A click callback that reads `a,b`, each of them `known`, or any words if empty; raises `click.BadParameter`."""

    def read(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
        words = text.split(",") if text else []
        for word in words:
            if not word or (known and word not in known):
                expected = f"some of {', '.join(known)}" if known else "names separated by commas"
                raise click.BadParameter(f"expected {expected}, got {text!r}")
        return list(dict.fromkeys(words))

    return read


def make_output_folder(path: Path) -> None:
    """Make the report's folder before the long part; raises `click.UsageError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"--output {path}: expected a folder that can be created: {error.strerror}") from None


def command_to_repeat(script: str) -> str:
    """The command line that repeats the running click command, defaults included, with `--output DIR`."""
    context = click.get_current_context()
    words = ["python", f"benchmarks/{script}"]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if option.name in ("debug", "output", "go_on") or value is None or value is False:
            continue
        if value is True:
            words.append(option.opts[0])
        elif isinstance(value, tuple):  # an option that was given several times
            words += [word for item in value for word in (option.opts[-1], str(item))]
        elif value != []:
            words += [option.opts[-1], ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return " ".join([*words, "--output", "DIR"])

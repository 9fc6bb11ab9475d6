"""What the reports of the benchmarks share: the machine, the command that repeats them, and lists of numbers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import click

_PACKAGES = (
    *("sharpose", "numpy", "opencv-python-headless", "av", "onnxruntime", "onnxruntime-gpu", "torch"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
    *("cuda-bindings", "pycuda"),
)


@dataclass(frozen=True)
class Machine:
    """A machine and the packages on it; `gpu` is empty where nvidia-smi finds none."""

    processor: str
    cores: int
    memory_gib: float
    gpu: str
    system: str
    python: str
    packages: dict[str, str]


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
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def _gpu() -> str:
    if (tool := shutil.which("nvidia-smi")) is None:
        return ""
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return " / ".join(found.stdout.split("\n")).strip(" /") if found.returncode == 0 else ""


def number_list(low: int, high: int) -> Callable[[click.Context, click.Parameter, str], list[int]]:
    """A click callback that reads `1,4,16`, each number from `low` to `high`; raises `click.BadParameter`."""

    def read(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
        try:
            numbers = [int(part) for part in text.split(",")]
        except ValueError:
            raise click.BadParameter(
                f"expected numbers separated by commas, such as {parameter.default}, got {text!r}"
            ) from None
        if not all(low <= number <= high for number in numbers):
            raise click.BadParameter(f"expected numbers from {low} to {high}, got {text!r}")
        return numbers

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
        else:
            words += [option.opts[-1], ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return " ".join([*words, "--output", "DIR"])

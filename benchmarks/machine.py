"""What a benchmark ran on."""

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

__all__ = ["MachineReport", "describe_machine", "number_list"]

_PACKAGES = ("sharpose", "numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "tensorrt")


@dataclass(frozen=True)
class MachineReport:
    """A machine and the versions on it; `gpu` is empty where nvidia-smi finds none."""

    processor: str
    cores: int
    memory_gib: float
    gpu: str
    system: str
    python: str
    packages: dict[str, str]


def describe_machine() -> MachineReport:
    """This machine."""
    return MachineReport(
        processor=_processor(),
        cores=os.cpu_count() or 0,
        memory_gib=_memory_gib(),
        gpu=_gpu(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages=_packages(),
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def _memory_gib() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0


def _gpu() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return " / ".join(found.stdout.split("\n")).strip(" /") if found.returncode == 0 else ""


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def number_list(low: int, high: int) -> Callable[[click.Context, click.Parameter, str], list[int]]:
    """A click callback that reads `1,4,16`, every number from `low` to `high`; a `click.BadParameter` otherwise."""

    def read(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
        try:
            numbers = [int(part) for part in text.split(",")]
        except ValueError:
            raise click.BadParameter(
                f"expected numbers with commas between, as {parameter.default}, got {text!r}"
            ) from None
        if not all(low <= number <= high for number in numbers):
            raise click.BadParameter(f"expected numbers from {low} to {high}, got {text!r}")
        return numbers

    return read

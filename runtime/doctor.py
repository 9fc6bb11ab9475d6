"""`sharpose-doctor`: what this machine can do, and what mends what it can't."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import click

from sharpose.command import EXIT_REFUSED
from sharpose.command import main as run_command

if TYPE_CHECKING:
    from sharpose.engines.devices import Device
    from sharpose.runtime.doctor_finding import Finding

__all__ = ["command", "examine", "main", "obstacles"]

_NAME_WIDTH = 22


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--device", "device_text", default="cpu", show_default=True, help="The device that you want to run on.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def command(device_text: str, as_json: bool, debug: bool) -> int:
    """Say what this machine can do: Python, packages, OpenCV, video, ONNX Runtime, GPU, TensorRT.

    The exit code is 0 if --device can run here, and 1 if it can't.
    """
    from sharpose.engines.devices import parse_device

    device = parse_device(device_text)
    findings = examine(device)
    in_the_way = obstacles(findings, device)
    if as_json:
        _print_json(device, findings, in_the_way)
    else:
        _print_lines(device, findings, in_the_way)
    return EXIT_REFUSED if in_the_way else 0


def examine(device: Device) -> list[Finding]:
    """Look at everything. A package that is broken is a finding, never an error."""
    from sharpose.runtime import doctor_gpu, doctor_host
    from sharpose.runtime.doctor_finding import ALL_DEVICES, findings_of

    on_tensorrt = frozenset({"tensorrt"})
    return [
        *findings_of("Python", doctor_host.check_python, ALL_DEVICES),
        *findings_of("packages", doctor_host.check_packages, ALL_DEVICES),
        *findings_of("OpenCV", doctor_host.check_opencv, ALL_DEVICES),
        *findings_of("PyAV", doctor_host.check_video, ALL_DEVICES),
        *findings_of("ONNX Runtime", doctor_gpu.check_onnxruntime, ALL_DEVICES - on_tensorrt),
        *findings_of("GPU", partial(doctor_gpu.check_gpu, device), ALL_DEVICES - {"cpu"}),
        *findings_of("TensorRT", doctor_gpu.check_tensorrt, on_tensorrt),
        *findings_of("CUDA bindings", doctor_gpu.check_bindings, on_tensorrt),
    ]


def obstacles(findings: Sequence[Finding], device: Device) -> list[Finding]:
    """The findings that keep `device` from running."""
    return [finding for finding in findings if not finding.found and device.kind in finding.needed_by]


def _print_json(device: Device, findings: Sequence[Finding], in_the_way: Sequence[Finding]) -> None:
    print(
        json.dumps(
            {
                "device": str(device),
                "can_run": not in_the_way,
                "findings": [asdict(item) | {"needed_by": sorted(item.needed_by)} for item in findings],
            },
            indent=2,
        )
    )


def _print_lines(device: Device, findings: Sequence[Finding], in_the_way: Sequence[Finding]) -> None:
    """Plain text: rich itself may be what is missing."""
    for item in findings:
        mark = "ok" if item.found else "NO" if item in in_the_way else "-"
        print(f"{mark:>3}  {item.name:<{_NAME_WIDTH}} {item.text}")
    mends = [item for item in findings if not item.found and item.mend]
    if mends:
        print("\nto mend:")
    for item in mends:
        print(f"     {item.name:<{_NAME_WIDTH}} {item.mend}{'' if item in in_the_way else '  (optional)'}")
    names = ", ".join(item.name for item in in_the_way)
    print(f"\n--device {device}: " + (f"can't run here; in the way: {names}" if in_the_way else "can run here"))


def main() -> NoReturn:
    """Entry point."""
    run_command(command)

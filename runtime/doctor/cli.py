"""`sharpose-doctor`: what this machine can do, and what mends what it can't; or whether a server gives right poses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from sharpose.cli import DEVICE, EXIT_REFUSED, FILE, Number, SectionedCommand, complete_devices, option
from sharpose.cli import main as run_command
from sharpose.runtime.doctor.devices import (
    check_bindings,
    check_bundle,
    check_detectors,
    check_gpu,
    check_onnxruntime,
    check_openvino,
    check_tensorrt,
    check_tf32,
)
from sharpose.runtime.doctor.findings import (
    ALL_DEVICES,
    ON_GPU,
    ON_OPENVINO,
    ON_ORT,
    ON_TENSORRT,
    Finding,
    findings_of,
    obstacles,
)
from sharpose.runtime.doctor.packages import check_opencv, check_packages, check_python, check_video

if TYPE_CHECKING:
    from sharpose.engines.device import Device

_NAME_WIDTH = 22
_OPTIONS, _SERVER = "Options", "A server of poses"
_OF_SERVERS = ("bundle", "timeout", "server_token", "server_ca", "server_cert")


@click.command(
    cls=SectionedCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=[
        "sharpose-doctor",
        "sharpose-doctor --device tensorrt",
        "sharpose-doctor --server http://rack:8000/sharpose --timeout 5",
    ],
)
@option(
    _OPTIONS,
    "--device",
    "device_text",
    type=DEVICE,
    shell_complete=complete_devices,
    metavar="DEVICE",
    default="cpu",
    show_default=True,
    help="Device to run on, as in sharpose-run; auto: the best here.",
)
@option(
    _OPTIONS,
    "--detector-device",
    "detector_text",
    type=DEVICE,
    shell_complete=complete_devices,
    metavar="DEVICE",
    default="auto",
    show_default=True,
    help="Device to run detectors on; auto: the same, for TensorRT else CUDA or the CPU.",
)
@option(_OPTIONS, "--json", "as_json", is_flag=True, help="Print JSON.")
@option(
    _SERVER,
    "--server",
    metavar="URL",
    help="Look at a server, as in sharpose-run, instead of this machine: ask it for poses, and compare them. The exit "
    "code is 1 where they are wrong, or don't come although it isn't busy with others: a liveness probe.",
)
@option(
    _SERVER,
    "--bundle",
    type=FILE,
    metavar="DIR",
    help="Bundle that the server must serve, to compare with; default: the one shipped, where it serves that.",
)
@option(
    _SERVER,
    "--timeout",
    type=Number(0, min_open=True),
    metavar="S",
    default=5.0,
    show_default=True,
    help="Seconds for contact and answer together.",
)
@option(
    _SERVER,
    "--server-token",
    envvar="SHARPOSE_SERVER_TOKEN",
    metavar="TOKEN",
    help="Bearer token for a gateway before it; default: $SHARPOSE_SERVER_TOKEN.",
)
@option(_SERVER, "--server-ca", type=FILE, metavar="FILE", help="Certificates (PEM) to trust; default: the system's.")
@option(_SERVER, "--server-cert", type=FILE, metavar="FILE", help="Own certificate and key (PEM), for mutual TLS.")
@option("Help", "--debug", is_flag=True, help="Traceback of an error.")
def command(
    device_text: str,
    detector_text: str,
    as_json: bool,
    server: str | None,
    bundle: Path | None,
    timeout: float,
    server_token: str | None,
    server_ca: Path | None,
    server_cert: Path | None,
    debug: bool,
) -> int:
    """Say what this machine can do: Python, packages, OpenCV, video, ONNX Runtime, OpenVINO, GPU, TensorRT.

    The exit code is 0 if poses can run on --device and detectors on --detector-device, and 1 if not. With --server it
    is 0 if the server's poses are right, or it is busy with other clients, else 1.
    """
    _refuse_what_does_nothing(remote=server is not None)
    if server is not None:
        from sharpose.runtime.doctor.server import check_server
        from sharpose.serving.client.address import Credentials

        credentials = Credentials(server_token, server_ca, server_cert)
        found = list(check_server(server, bundle, credentials, timeout=timeout))
        return _say_of_server(server, found, as_json=as_json)
    from sharpose.engines.choose import load_on
    from sharpose.engines.device import parse_device

    device = parse_device(load_on(device_text, str, lambda line: click.echo(line, err=True)))
    detector = device if detector_text == "auto" else parse_device(detector_text)
    findings = examine(device, detector)
    if detector.kind != device.kind:
        findings += _bundle_findings(findings, detector)
    findings += findings_of("detectors", partial(check_detectors, tuple(findings), detector), ALL_DEVICES)
    halves = {"poses": device, "detectors": detector}
    in_the_way = {what: obstacles(findings, where) for what, where in halves.items()}
    if as_json:
        content = {
            "device": str(device),
            "detector_device": str(detector),
            "can_run": not any(in_the_way.values()),
            "findings": _as_json(findings),
        }
        print(json.dumps(content, indent=2))
    else:
        _print_lines(findings, [item for items in in_the_way.values() for item in items])
        if device == detector:
            print(_verdict(f"--device {'auto takes ' if device_text == 'auto' else ''}{device}", in_the_way["poses"]))
        else:
            for what, where in halves.items():
                print(_verdict(f"{what} on {where}", in_the_way[what]))
    return EXIT_REFUSED if any(in_the_way.values()) else 0


def _refuse_what_does_nothing(*, remote: bool) -> None:
    """Refuse options of this machine beside `--server`, and its options without it."""
    context = click.get_current_context()
    here = {"device_text": "--device", "detector_text": "--detector-device"}
    there = {name: f"--{name.replace('_', '-')}" for name in _OF_SERVERS}
    for name, said in (here if remote else there).items():
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            reason = "is for this machine, and --server looks at another" if remote else "is for --server"
            raise click.UsageError(f"{said} {reason}: leave it out")


def _say_of_server(server: str, findings: Sequence[Finding], *, as_json: bool) -> int:
    wrong = [item for item in findings if not item.found]
    if as_json:
        print(json.dumps({"server": server, "can_run": not wrong, "findings": _as_json(findings)}, indent=2))
    else:
        _print_lines(findings, wrong)
        print(_verdict("--server", wrong, "be used"))
    return EXIT_REFUSED if wrong else 0


def _as_json(findings: Sequence[Finding]) -> list[dict[str, object]]:
    return [asdict(item) | {"needed_by": sorted(item.needed_by)} for item in findings]


def examine(device: Device, *others: Device) -> list[Finding]:
    """Look at everything but detectors. A package that is broken is a finding, never an error."""
    asked = list(dict.fromkeys((device, *others)))
    on_openvino = [one for one in asked if one.kind == "openvino"]
    findings = [
        *findings_of("Python", check_python, ALL_DEVICES),
        *findings_of("packages", check_packages, ALL_DEVICES),
        *findings_of("OpenCV", check_opencv, ALL_DEVICES),
        *findings_of("PyAV", check_video, ALL_DEVICES),
        *findings_of("ONNX Runtime", partial(check_onnxruntime, {one.kind for one in asked}), ON_ORT),
        *findings_of("OpenVINO", partial(check_openvino, on_openvino), ON_OPENVINO),
        *findings_of("GPU", partial(check_gpu, asked), ON_GPU),
        *findings_of("TensorRT", check_tensorrt, ON_TENSORRT),
        *findings_of("CUDA bindings", check_bindings, ON_TENSORRT),
        *findings_of("TF32", partial(check_tf32, device)),
    ]
    return [*findings, *_bundle_findings(findings, device)]


def _bundle_findings(findings: Sequence[Finding], device: Device) -> list[Finding]:
    check = partial(check_bundle, device, run=not obstacles(findings, device))
    return list(findings_of("shipped bundle", check, frozenset({device.kind})))


def _print_lines(findings: Sequence[Finding], needed: Sequence[Finding]) -> None:
    """Plain text: rich itself may be what is missing. `needed`: those that aren't there and have to be."""
    for item in findings:
        mark = "ok" if item.found else "NO" if item in needed else "-"
        print(f"{mark:>3}  {item.name:<{_NAME_WIDTH}} {item.text}")
    mends = [item for item in findings if not item.found and item.mend]
    if mends:
        print("\nto mend:")
    for item in mends:
        print(f"     {item.name:<{_NAME_WIDTH}} {item.mend}{'' if item in needed else '  (optional)'}")
    print()


def _verdict(what: str, in_the_way: Sequence[Finding], does: str = "run here") -> str:
    names = ", ".join(item.name for item in in_the_way)
    return f"{what}: can't {does}; in the way: {names}" if in_the_way else f"{what}: can {does}"


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()

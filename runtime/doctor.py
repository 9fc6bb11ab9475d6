"""`sharpose-doctor`: what this machine can do, and what mends what it can't."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NoReturn

import click

from sharpose.cli import DEVICE, EXIT_REFUSED, SectionedCommand, complete_devices, option
from sharpose.cli import main as run_command
from sharpose.errors import BundleError, EngineError, how_to_install

if TYPE_CHECKING:
    from sharpose.engines.device import Device
ALL_DEVICES = frozenset({"cpu", "cuda", "tensorrt", "ort-tensorrt", "openvino"})
_ON_OPENVINO = frozenset({"openvino"})
_ON_ORT = ALL_DEVICES - {"tensorrt"} - _ON_OPENVINO
_ON_GPU = ALL_DEVICES - {"cpu"} - _ON_OPENVINO
_ON_TENSORRT = frozenset({"tensorrt"})

_OLDEST_PYTHON = (3, 10)
_FREE_OF_THE_LOCK = (12, 9, 1)  # the first cuda-bindings that release the GIL
_PACKAGES = ("numpy", "pydantic", "click", "rich")
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_DECODERS = ("h264", "hevc", "vp9", "av1")
_SYSTEM_OPENCV = (
    "sudo apt install python3-opencv, make the venv with --system-site-packages, pip uninstall opencv-python-headless"
)
_PROVIDERS = {
    "CPUExecutionProvider": ("cpu", f"{how_to_install('cpu')} --force-reinstall"),
    "CUDAExecutionProvider": ("cuda", f"pip uninstall onnxruntime onnxruntime-gpu, then {how_to_install('gpu')}"),
    "TensorrtExecutionProvider": (
        "ort-tensorrt",
        f"pip uninstall onnxruntime onnxruntime-gpu, then {how_to_install('gpu')} and TensorRT 10's libraries",
    ),
}
_MEND_RUNTIME = "check nvidia-smi, and that the driver is recent enough for this TensorRT's CUDA"
_NAME_WIDTH = 22


@dataclass(frozen=True)
class Finding:
    """One thing that this machine has, or doesn't."""

    name: str  # what was looked for
    found: bool  # whether it is there and works
    text: str  # version, or what is wrong, in one line
    mend: str | None = None  # the command or step that mends it, if it isn't found
    needed_by: frozenset[str] = frozenset()  # devices, or kinds of them, that can't run without it


def findings_of(
    name: str, check: Callable[[], Iterable[Finding]], needed_by: frozenset[str] = frozenset()
) -> Iterator[Finding]:
    """Run a check. One that fails is itself a finding, so that one broken package doesn't hide all the others."""
    try:
        yield from check()
    except Exception as error:  # whatever a half-installed package raises when it is asked
        text = f"{name} couldn't be looked at: {_words(error)}"
        yield Finding(name, False, text, f"reinstall {name}, then run sharpose-doctor again", needed_by)


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def installed(package: str) -> str | None:
    """A distribution's version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def import_problem(name: str, load: Callable[[str], object] = import_module) -> str | None:
    """Why a module can't be imported, or None."""
    try:
        load(name)
    except Exception as error:  # a broken package raises what it likes
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return "not installed"
        return f"doesn't load ({_words(error)})"
    return None


def check_python() -> Iterator[Finding]:
    """The interpreter and the machine it runs on."""
    text = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    mend = f"install Python {'.'.join(map(str, _OLDEST_PYTHON))} or later and make the environment again"
    yield Finding("Python", sys.version_info >= _OLDEST_PYTHON, text, mend, ALL_DEVICES)


def check_packages() -> Iterator[Finding]:
    """The packages that everything needs, and this one."""
    own = installed("sharpose")
    yield Finding("sharpose", own is not None, own or "not installed as a package", how_to_install("cpu"))
    for name in _PACKAGES:
        problem = import_problem(name)
        text = problem or installed(name) or "of unknown version"
        yield Finding(name, problem is None, text, f"pip install --force-reinstall {name}", ALL_DEVICES)


def check_opencv() -> Iterator[Finding]:
    """OpenCV and what it was built with."""
    distributions = [name for name in _OPENCV if installed(name) is not None]
    try:
        import cv2
    except ImportError as error:
        text = f"doesn't load ({_words(error)})" if distributions else "not installed"
        yield Finding("OpenCV", False, text, "pip install --force-reinstall opencv-python-headless", ALL_DEVICES)
        return
    origin = " and ".join(distributions) or "the system's"
    yield Finding("OpenCV", True, f"{cv2.__version__}, {origin}", needed_by=ALL_DEVICES)
    if len(distributions) > 1:
        mend = f"pip uninstall {' '.join(distributions)}, then pip install opencv-python-headless"
        yield Finding("OpenCV packages", False, f"{origin} overwrite each other's files", mend)
    build = cv2.getBuildInformation()
    gstreamer, window = _build_option(build, "GStreamer"), _build_option(build, "GUI")
    yield Finding("GStreamer in OpenCV", gstreamer is not None, gstreamer or "not built in", _SYSTEM_OPENCV)
    mend = "pip uninstall opencv-python-headless, then pip install opencv-python"
    yield Finding("windows in OpenCV", window is not None, window or "not built in", mend)


def _build_option(build: str, name: str) -> str | None:
    """What OpenCV's build information says of an option; None for NO, NONE and nothing."""
    match = re.search(rf"^ *{name}: *(.*?) *$", build, re.MULTILINE)
    return None if match is None or match[1].upper() in ("", "NO", "NONE") else match[1]


def check_video() -> Iterator[Finding]:
    """PyAV, and what its FFmpeg encodes and decodes."""
    reinstall = "pip install --force-reinstall --only-binary av av"
    try:
        import av
    except ImportError as error:
        there = installed("av") is not None
        text = f"doesn't load ({_words(error)})" if there else "not installed"
        yield Finding("PyAV", False, text, reinstall if there else "pip install av", ALL_DEVICES)
        return
    codec_version = ".".join(map(str, av.library_versions.get("libavcodec", ())))
    yield Finding("PyAV", True, f"{av.__version__}, libavcodec {codec_version}", needed_by=ALL_DEVICES)
    encoder = next((name for name in ("libx264", "h264") if _has_codec(name, "w")), None)
    yield Finding("H.264 encoder", encoder is not None, encoder or "none: --output can't write video", reinstall)
    decoders = [name for name in _DECODERS if _has_codec(name, "r")]
    missing = [name for name in _DECODERS if name not in decoders]
    text = " ".join(decoders) + (f" (no {', '.join(missing)})" if missing else "")
    yield Finding("video decoders", "h264" in decoders, text.strip(), reinstall)
    yield from _hardware_decoders()


def _has_codec(name: str, mode: str) -> bool:
    from av.codec import Codec

    try:
        Codec(name, "w" if mode == "w" else "r")
    except Exception:  # UnknownCodecError has moved between PyAV's versions
        return False
    return True


def _hardware_decoders() -> Iterator[Finding]:
    """Devices that FFmpeg was built for and that open here; nothing needs them, frames are decoded on the CPU."""
    name = "hardware decoders"
    from av.codec import Codec

    try:
        from av.codec.hwaccel import HWAccel, hwdevices_available
    except ImportError:
        yield Finding(name, False, "this PyAV can't say", "pip install --upgrade av")
        return
    built = hwdevices_available()
    opened = []
    for kind in built:
        try:
            HWAccel(kind, allow_software_fallback=False).create(Codec("h264", "r"))
        except Exception:  # FFmpeg's errors for a device that isn't there are as many as devices
            continue
        opened.append(kind)
    none = f"FFmpeg knows {', '.join(built) or 'none'}, none opens here; the CPU decodes"
    yield Finding(name, bool(opened), ", ".join(opened) or none)


def check_onnxruntime() -> Iterator[Finding]:
    """ONNX Runtime, and the providers that a session really gets, whatever the package lists."""
    packages = [name for name in ("onnxruntime", "onnxruntime-gpu") if installed(name) is not None]
    try:
        import onnxruntime as ort
    except ImportError as error:
        text = f"doesn't load ({_words(error)})" if packages else "not installed"
        yield Finding("ONNX Runtime", False, text, f"{how_to_install('cpu')}, or [gpu]", _ON_ORT)
        return
    origin = " and ".join(packages) or "own build"
    yield Finding("ONNX Runtime", True, f"{ort.__version__}, {origin}", needed_by=_ON_ORT)
    if len(packages) > 1:
        mend = f"pip uninstall onnxruntime onnxruntime-gpu, then {how_to_install('gpu')} (or [cpu])"
        yield Finding("ONNX Runtime packages", False, f"{origin} overwrite each other's files", mend)
    from sharpose.engines.choose import provider_works

    listed = ort.get_available_providers()
    if "CUDAExecutionProvider" in listed:
        yield _cuda_libraries()
    for provider, (device, mend) in _PROVIDERS.items():
        name, needed = f"provider {device}", frozenset({device})
        if provider not in listed:
            yield Finding(name, False, f"this package has no {provider}", mend, needed)
        elif provider_works(provider):
            yield Finding(name, True, provider, needed_by=needed)
        else:
            from sharpose.engines.onnxrt import missing_library

            missing = missing_library(device)
            reason = "its libraries don't load" if missing is None else missing.problem
            mend = "install the CUDA and cuDNN that onnxruntime-gpu was built for" if missing is None else missing.mend
            yield Finding(name, False, f"{provider} is listed, but {reason}", mend, needed)


def _cuda_libraries() -> Finding:
    """Whether ONNX Runtime finds CUDA and cuDNN, as every session on a GPU makes it look for them."""
    import onnxruntime as ort

    from sharpose.engines.onnxrt import missing_library, preload_cuda

    preload_cuda()
    missing = missing_library("cuda")
    how = "pip's or the system's" if hasattr(ort, "preload_dlls") else "the system's; before 1.21 it can't load pip's"
    name, needed = "ONNX Runtime's CUDA", frozenset({"cuda", "ort-tensorrt"})
    if missing is not None:
        return Finding(name, False, missing.problem, missing.mend, needed)
    cuda = getattr(ort, "cuda_version", "") or "of unknown version"
    return Finding(name, True, f"CUDA {cuda} and cuDNN load ({how})", needed_by=needed)


def check_openvino(devices: Collection[Device]) -> Iterator[Finding]:
    """OpenVINO, the devices that it sees, and those of `devices` that it doesn't."""
    from sharpose.engines.openvino import find_device, visible_devices

    try:
        seen = visible_devices()
    except EngineError as error:  # its message says what is wrong, a colon, and what mends it
        text, _, mend = str(error).partition(": ")
        yield Finding("OpenVINO", False, text, mend, _ON_OPENVINO)
        return
    yield Finding("OpenVINO", True, installed("openvino") or "own build", needed_by=_ON_OPENVINO)
    for item in seen:
        yield Finding(f"OpenVINO {item.name}", True, f"{item.full_name}, computes in {', '.join(item.precisions)}")
    for device in devices:
        try:
            find_device(device)
        except EngineError as error:
            text, _, mend = str(error).partition(": ")[2].partition("; ")
            yield Finding(str(device), False, text, mend, frozenset({str(device)}))


def check_gpu(device: Device) -> Iterator[Finding]:
    """The GPUs that the driver shows, and whether the one asked for is among them."""
    from sharpose.engines.gpu import probe_gpus

    try:
        gpus = probe_gpus()
    except EngineError as error:  # its message says what is wrong, a colon, and what mends it
        text, _, mend = str(error).partition(": ")
        yield Finding("GPU", False, text, mend or "check nvidia-smi", _ON_GPU)
        return
    for gpu in gpus:
        text = f"{gpu.name}, compute capability {gpu.compute_capability}, driver {gpu.driver}"
        yield Finding(f"GPU {gpu.index}", True, text)
    if device.index >= len(gpus):
        text = f"expected GPU {device.index}, the driver shows {len(gpus)}"
        yield Finding("GPU", False, text, f"use --device {device.kind}:0, or check CUDA_VISIBLE_DEVICES", _ON_GPU)


def check_tensorrt() -> Iterator[Finding]:
    """TensorRT's flavours whose libraries load, and the first error of a runtime that doesn't start."""
    from sharpose.engines.tensorrt.library import HOW_TO_INSTALL, installed_flavours, runtime_problem

    found, reasons = installed_flavours()
    for place, flavour in enumerate(found):
        problem = runtime_problem(flavour)
        text = str(flavour) if problem is None else f"{flavour} is installed, but its runtime doesn't start: {problem}"
        # The first is the one that is used.
        yield Finding("TensorRT", problem is None, text, _MEND_RUNTIME, _ON_TENSORRT if place == 0 else frozenset())
    if not found:
        yield Finding("TensorRT", False, "; ".join(reasons), HOW_TO_INSTALL, _ON_TENSORRT)


def check_bindings() -> Iterator[Finding]:
    """Either of pycuda and cuda-python is enough."""
    from sharpose.engines.cuda.device import import_binding, installed_bindings

    name = "CUDA bindings"
    problems = {binding: import_problem(binding, import_binding) for binding in installed_bindings()}
    reasons = [f"{binding} {problem}" for binding, problem in problems.items() if problem is not None]
    packages = {"cuda-python": ("cuda-bindings", "cuda-python"), "pycuda": ("pycuda",)}
    versions = [
        f"{binding} {next(filter(None, map(installed, packages[binding])), 'of unknown version')}"
        for binding, problem in problems.items()
        if problem is None
    ]
    if versions:
        yield Finding(name, True, ", ".join(versions + reasons), needed_by=_ON_TENSORRT)
        numbers = tuple(map(int, re.findall(r"\d+", installed("cuda-bindings") or "")[:3]))
        if numbers and numbers < _FREE_OF_THE_LOCK:
            text = f"cuda-bindings {installed('cuda-bindings')} holds Python's lock in every call: other threads wait"
            yield Finding("CUDA bindings' age", False, text, f'pip install "cuda-bindings=={numbers[0]}.*" --upgrade')
    elif reasons:
        mend = "install NVIDIA's driver; the bindings load its libcuda"
        yield Finding(name, False, "; ".join(reasons), mend, _ON_TENSORRT)
    else:
        text = "neither cuda-python nor pycuda is installed"
        mend = 'pip install cuda-bindings, or "cuda-bindings<13" for drivers before 580'
        yield Finding(name, False, text, mend, _ON_TENSORRT)


def check_tf32(device: Device) -> Iterator[Finding]:
    """Whether float32 graphs may be rounded to TF32 on a GPU."""
    override = os.environ.get("NVIDIA_TF32_OVERRIDE")
    forced = "" if override is None else f"; NVIDIA_TF32_OVERRIDE={override} in the environment"
    text = "off in float32 graphs; --tf32 turns it on" if device.kind in _ON_GPU else "only NVIDIA's GPUs have it"
    yield Finding("TF32", True, text + forced)


def check_bundle(device: Device, *, run: bool) -> Iterator[Finding]:
    """The shipped bundle: opened, and with `run` its coarse stage run, where that takes no build of engines."""
    from sharpose.bundle import open_bundle, shipped_bundle

    name, mend = "shipped bundle", "reinstall sharpose"
    try:
        bundle = open_bundle(shipped_bundle())
    except BundleError as error:
        yield Finding(name, False, str(error), mend, ALL_DEVICES)
        return
    if not run or device.kind not in ("cpu", "cuda", "openvino"):
        yield Finding(name, True, f"{bundle.model.name} opens", needed_by=ALL_DEVICES)
        return
    import numpy as np

    from sharpose.engines.stages import open_stages

    lines: list[str] = []
    try:
        stages = open_stages(bundle, str(device), say=lines.append)
        stages.coarse(np.zeros((1, *bundle.model.crop_size, 3), np.uint8))
        stages.close()
    except EngineError as error:
        mend = "OpenVINO" if device.kind == "openvino" else f"ONNX Runtime and provider {device.kind}"
        mend = f"see the rows of {mend}"
        yield Finding(name, False, f"can't run on {device}: {error}", mend, frozenset({device.kind}))
        return
    text = f"{bundle.model.name} runs on {device} in {stages.precision}"
    yield Finding(name, True, text, needed_by=frozenset({device.kind}))
    if device.kind == "cuda":
        yield Finding("nodes on the CPU", not lines, "; ".join(lines) or "none: the GPU has the whole coarse graph")


def check_detectors(findings: Sequence[Finding], device: Device) -> Iterator[Finding]:
    """Where detectors can run beside poses on a device, by what was found before."""
    from sharpose.engines.device import detector_devices, parse_device

    able = [text for text in detector_devices(str(device)) if not obstacles(findings, parse_device(text))]
    if str(device) not in able:
        yield Finding("detectors", False, f"can't run on {device}")
        return
    yield Finding("detectors", True, f"on {', else '.join(able)}")
    if device.kind == "tensorrt" and len(able) == 1:
        text = "those that TensorRT can't build, as they suppress overlaps in the graph, need ONNX Runtime"
        yield Finding("other detectors", False, text, f"{how_to_install('cpu')}, or [gpu]")


_OPTIONS = "Options"


@click.command(
    cls=SectionedCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=[
        "sharpose-doctor",
        "sharpose-doctor --device tensorrt",
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
@option("Help", "--debug", is_flag=True, help="Traceback of an error.")
def command(device_text: str, detector_text: str, as_json: bool, debug: bool) -> int:
    """Say what this machine can do: Python, packages, OpenCV, video, ONNX Runtime, OpenVINO, GPU, TensorRT.

    The exit code is 0 if poses can run on --device and detectors on --detector-device, and 1 if not.
    """
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
            "findings": [asdict(item) | {"needed_by": sorted(item.needed_by)} for item in findings],
        }
        print(json.dumps(content, indent=2))
    else:
        _print_lines(halves, findings, in_the_way, "auto takes " if device_text == "auto" else "")
    return EXIT_REFUSED if any(in_the_way.values()) else 0


def examine(device: Device, *others: Device) -> list[Finding]:
    """Look at everything but detectors. A package that is broken is a finding, never an error."""
    on_openvino = {one for one in (device, *others) if one.kind == "openvino"}
    findings = [
        *findings_of("Python", check_python, ALL_DEVICES),
        *findings_of("packages", check_packages, ALL_DEVICES),
        *findings_of("OpenCV", check_opencv, ALL_DEVICES),
        *findings_of("PyAV", check_video, ALL_DEVICES),
        *findings_of("ONNX Runtime", check_onnxruntime, _ON_ORT),
        *findings_of("OpenVINO", partial(check_openvino, on_openvino), _ON_OPENVINO),
        *findings_of("GPU", partial(check_gpu, device), _ON_GPU),
        *findings_of("TensorRT", check_tensorrt, _ON_TENSORRT),
        *findings_of("CUDA bindings", check_bindings, _ON_TENSORRT),
        *findings_of("TF32", partial(check_tf32, device)),
    ]
    return [*findings, *_bundle_findings(findings, device)]


def _bundle_findings(findings: Sequence[Finding], device: Device) -> list[Finding]:
    check = partial(check_bundle, device, run=not obstacles(findings, device))
    return list(findings_of("shipped bundle", check, frozenset({device.kind})))


def obstacles(findings: Sequence[Finding], device: Device) -> list[Finding]:
    """The findings that keep `device` from running."""
    names = {device.kind, str(device)}
    return [finding for finding in findings if not finding.found and not names.isdisjoint(finding.needed_by)]


def _print_lines(
    halves: Mapping[str, Device], findings: Sequence[Finding], in_the_way: Mapping[str, Sequence[Finding]], auto: str
) -> None:
    """Plain text: rich itself may be what is missing."""
    needed = [item for items in in_the_way.values() for item in items]
    for item in findings:
        mark = "ok" if item.found else "NO" if item in needed else "-"
        print(f"{mark:>3}  {item.name:<{_NAME_WIDTH}} {item.text}")
    mends = [item for item in findings if not item.found and item.mend]
    if mends:
        print("\nto mend:")
    for item in mends:
        print(f"     {item.name:<{_NAME_WIDTH}} {item.mend}{'' if item in needed else '  (optional)'}")
    print()
    if halves["poses"] == halves["detectors"]:
        print(_verdict(f"--device {auto}{halves['poses']}", in_the_way["poses"]))
    else:
        for what, where in halves.items():
            print(_verdict(f"{what} on {where}", in_the_way[what]))


def _verdict(what: str, in_the_way: Sequence[Finding]) -> str:
    names = ", ".join(item.name for item in in_the_way)
    return f"{what}: can't run here; in the way: {names}" if in_the_way else f"{what}: can run here"


def main() -> NoReturn:
    """Entry point."""
    run_command(command)

"""Devices as users write them, and what they are. Nothing heavy is imported: the doctor's packages may be broken."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sharpose.errors import EngineError

# Instruction sets that decide how fast matrices are multiplied, and how the products are rounded.
_X86_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16")
_ARM_SETS = ("asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme")
_CPUINFO = Path("/proc/cpuinfo")


UNTRIED = ("coreml", "directml")
"""Kinds of devices of ONNX Runtime that nothing of this project has run on."""


@dataclass(frozen=True)
class Device:
    """A kind of device and, for GPUs, which one."""

    kind: str
    index: int = 0
    target: str = ""  # of OpenVINO: CPU, GPU or NPU

    @property
    def family(self) -> str:
        """The device without its number: `cpu`, `cuda`, `openvino:GPU`."""
        return f"openvino:{self.target}" if self.kind == "openvino" else self.kind

    def __str__(self) -> str:
        if self.kind == "openvino":
            return self.family + (f".{self.index}" if self.target == "GPU" else "")
        return self.kind if self.kind in ("cpu", "coreml") else f"{self.kind}:{self.index}"


def parse_device(text: str) -> Device:
    """A device from `cpu | cuda[:i] | tensorrt[:i] | ort-tensorrt[:i] | openvino[:CPU|GPU[.i]|NPU] | coreml |
    directml[:i]`.

    Raises:
        EngineError: it is anything else.
    """
    match = re.fullmatch(
        r"cpu|coreml|(?P<gpus>cuda|tensorrt|ort-tensorrt|directml)(:(?P<index>[0-9]{1,3}))?"
        r"|openvino(:(?P<target>CPU|GPU|GPU\.(?P<gpu>[0-9]{1,3})|NPU))?",
        text,
    )
    if match is None:
        auto = "" if text == "auto" else ", or auto where the best is looked for"
        raise EngineError(
            "device: expected cpu, cuda[:i], tensorrt[:i], ort-tensorrt[:i], openvino[:CPU|GPU[.i]|NPU], coreml or "
            f"directml[:i]{auto}, got {text!r}"
        )
    if text.startswith("openvino"):
        return Device("openvino", int(match["gpu"] or 0), (match["target"] or "CPU").partition(".")[0])
    return Device(match["gpus"] or text, int(match["index"] or 0))


def detector_devices(text: str) -> tuple[str, ...]:
    """Where a detector beside poses on a device may run, best first: there.

    For TensorRT else in ONNX Runtime, for a GPU or NPU of OpenVINO else in OpenVINO on the CPU, for CoreML and DirectML
    else on the CPU.
    """
    device = parse_device(text)
    others: tuple[str, ...] = ()
    if device.kind == "tensorrt":
        others = (str(Device("cuda", device.index)), "cpu")
    elif device.target in ("GPU", "NPU"):
        others = (str(Device("openvino", target="CPU")),)
    elif device.kind in UNTRIED:
        others = ("cpu",)
    return (str(device), *others)


def hardware_of(device: Device) -> str:
    """What decides a device's speed and rounding: `x86_64 avx2 avx512f avx512_vnni`, `compute capability 9.0`.

    Raises:
        EngineError: the device is not there.
    """
    if device.kind == "cpu" or device.target == "CPU":
        return cpu_text()
    if device.kind == "openvino":
        from sharpose.engines.openvino import find_device

        return find_device(device).full_name
    if device.kind == "coreml":
        return processor_name()
    if device.kind == "directml":  # ONNX Runtime doesn't say which GPU that is
        return f"adapter {device.index} of {hashlib.sha256(platform.node().encode()).hexdigest()[:12]}"
    from sharpose.engines.gpu import probe_gpu

    return f"compute capability {probe_gpu(device.index).compute_capability}"


def engine_of(device: Device) -> str:
    """The name of the engine that runs on a device: `onnxruntime`, `openvino`, `tensorrt` or `tensorrt_rtx`.

    Raises:
        EngineError: TensorRT isn't there.
    """
    if device.kind != "tensorrt":
        return "openvino" if device.kind == "openvino" else "onnxruntime"
    from sharpose.engines.tensorrt.library import find_flavour

    return find_flavour().name


def cpu_text(cpuinfo: Path = _CPUINFO) -> str:
    """The CPU's architecture and those of its instruction sets that matter here, as far as the system tells."""
    try:
        text = cpuinfo.read_text("utf-8", "replace")
    except OSError:
        text = ""
        if sys.platform != "linux":  # they don't say, but each processor's name stands for its own
            return f"{platform.machine()} {processor_name()}"
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    there = set(match[1].split()) if match else set()
    return " ".join([platform.machine(), *(name for name in (*_X86_SETS, *_ARM_SETS) if name in there)])


def processor_name() -> str:
    """The processor as the system calls it, or `unknown`."""
    with contextlib.suppress(OSError):
        lines = _CPUINFO.read_text("utf-8", "replace").splitlines()
        names = (line.split(":", 1)[1].strip() for line in lines if line.lower().startswith(("model name", "hardware")))
        return next(names, "unknown")
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    return platform.processor() or "unknown"


def usable_cores() -> int:
    """How many cores this process may use; on macOS and Windows, which don't limit that here, all there are."""
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    return cores

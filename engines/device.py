"""Devices as users write them. Nothing heavy is imported: `sharpose-doctor` runs where packages may be broken."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sharpose.errors import EngineError


@dataclass(frozen=True)
class Device:
    """A kind of device and, for GPUs, which one."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


def parse_device(text: str) -> Device:
    """A device from `cpu | cuda[:i] | tensorrt[:i] | ort-tensorrt[:i]`; raises `EngineError` for anything else."""
    match = re.fullmatch(r"(cpu|cuda|tensorrt|ort-tensorrt)(?::([0-9]{1,3}))?", text)
    if match is None or (match[1] == "cpu" and match[2] is not None):
        auto = "" if text == "auto" else ", or auto where the best is looked for"
        raise EngineError(f"device: expected cpu, cuda[:i], tensorrt[:i] or ort-tensorrt[:i]{auto}, got {text!r}")
    return Device(match[1], int(match[2] or 0))


def detector_devices(text: str) -> tuple[str, ...]:
    """Where a detector beside poses on a device may run, best first: there; for TensorRT else in ONNX Runtime."""
    device = parse_device(text)
    others = (str(Device("cuda", device.index)), "cpu") if device.kind == "tensorrt" else ()
    return (str(device), *others)

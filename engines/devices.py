"""Devices as users write them: `cpu`, `cuda`, `cuda:1`, `tensorrt`, `ort-tensorrt:0`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sharpose.errors import EngineError

__all__ = ["DEVICE_KINDS", "Device", "onnxruntime_device", "parse_device"]

DEVICE_KINDS = ("cpu", "cuda", "tensorrt", "ort-tensorrt")


@dataclass(frozen=True)
class Device:
    """A kind of device and, for GPUs, which one."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


def parse_device(text: str) -> Device:
    """A device from `cpu | cuda[:i] | tensorrt[:i] | ort-tensorrt[:i]`; raises `EngineError` for anything else."""
    match = re.fullmatch(r"(cpu|cuda|tensorrt|ort-tensorrt)(?::(\d+))?", text)
    if match is None or (match[1] == "cpu" and match[2] is not None):
        raise EngineError(f"device: expected cpu, cuda[:i], tensorrt[:i] or ort-tensorrt[:i], got {text!r}")
    return Device(match[1], int(match[2] or 0))


def onnxruntime_device(text: str) -> str:
    """Where ONNX Runtime runs other graphs (a detector) beside a device: the same GPU, or the device itself."""
    device = parse_device(text)
    return str(Device("cuda", device.index)) if device.kind == "tensorrt" else str(device)

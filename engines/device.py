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
    target: str = ""  # of OpenVINO: CPU, GPU or NPU

    def __str__(self) -> str:
        if self.kind == "openvino":
            return f"openvino:{self.target}" + (f".{self.index}" if self.target == "GPU" else "")
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


def parse_device(text: str) -> Device:
    """A device from `cpu | cuda[:i] | tensorrt[:i] | ort-tensorrt[:i] | openvino[:CPU|GPU[.i]|NPU]`.

    Raises:
        EngineError: it is anything else.
    """
    match = re.fullmatch(
        r"cpu|(?P<nvidia>cuda|tensorrt|ort-tensorrt)(:(?P<index>[0-9]{1,3}))?"
        r"|openvino(:(?P<target>CPU|GPU|GPU\.(?P<gpu>[0-9]{1,3})|NPU))?",
        text,
    )
    if match is None:
        auto = "" if text == "auto" else ", or auto where the best is looked for"
        raise EngineError(
            "device: expected cpu, cuda[:i], tensorrt[:i], ort-tensorrt[:i] or openvino[:CPU|GPU[.i]|NPU]"
            f"{auto}, got {text!r}"
        )
    if text.startswith("openvino"):
        return Device("openvino", int(match["gpu"] or 0), (match["target"] or "CPU").partition(".")[0])
    return Device(match["nvidia"] or "cpu", int(match["index"] or 0))


def detector_devices(text: str) -> tuple[str, ...]:
    """Where a detector beside poses on a device may run, best first: there.

    For TensorRT else in ONNX Runtime, and for a GPU or NPU of OpenVINO else in OpenVINO on the CPU.
    """
    device = parse_device(text)
    others: tuple[str, ...] = ()
    if device.kind == "tensorrt":
        others = (str(Device("cuda", device.index)), "cpu")
    elif device.target in ("GPU", "NPU"):
        others = (str(Device("openvino", target="CPU")),)
    return (str(device), *others)

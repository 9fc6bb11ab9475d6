"""Devices as users write them, and what they are."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from types import ModuleType

import click
import pytest

from sharpose.cli import DEVICE
from sharpose.engines import gpu as gpus
from sharpose.engines.device import (
    Device,
    cpu_text,
    detector_devices,
    engine_of,
    hardware_of,
    parse_device,
    processor_name,
)
from sharpose.engines.gpu import Gpu
from sharpose.engines.tensorrt.library import TensorRtFlavour
from sharpose.errors import EngineError


@pytest.mark.parametrize(
    ("text", "device", "printed"),
    [
        ("cpu", Device("cpu"), "cpu"),
        ("cuda", Device("cuda", 0), "cuda:0"),
        ("cuda:1", Device("cuda", 1), "cuda:1"),
        ("cuda:12", Device("cuda", 12), "cuda:12"),
        ("ort-tensorrt", Device("ort-tensorrt", 0), "ort-tensorrt:0"),
        ("ort-tensorrt:3", Device("ort-tensorrt", 3), "ort-tensorrt:3"),
        ("openvino", Device("openvino", 0, "CPU"), "openvino:CPU"),
        ("openvino:GPU", Device("openvino", 0, "GPU"), "openvino:GPU.0"),
        ("openvino:GPU.1", Device("openvino", 1, "GPU"), "openvino:GPU.1"),
        ("openvino:NPU", Device("openvino", 0, "NPU"), "openvino:NPU"),
        ("coreml", Device("coreml"), "coreml"),
        ("directml", Device("directml"), "directml:0"),
        ("directml:2", Device("directml", 2), "directml:2"),
    ],
)
def test_a_device_is_read_and_printed(text: str, device: Device, printed: str) -> None:
    assert parse_device(text) == device
    assert DEVICE.convert(text, None, None) == text
    assert str(device) == printed
    assert parse_device(printed) == device


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cpu:0",
        "CPU",
        "gpu",
        "cuda:",
        "cuda:-1",
        "cuda:x",
        "cuda:0:1",
        " cuda",
        "cuda\n",
        "0",
        "ort-tensorrt:a",
        "openvino:",
        "openvino:gpu",
        "openvino:CPU.0",
        "openvino:GPU.",
        "openvino:AUTO",
        "openvino:0",
        "coreml:0",
        "directml:",
        "directml:GPU",
        "xpu",
    ],
)
def test_anything_else_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(EngineError) as caught:
        parse_device(text)
    message = str(caught.value)
    assert message.startswith("device: expected cpu, cuda[:i]")
    assert message.endswith(f"got {text!r}")
    assert "\n" not in message
    with pytest.raises(click.BadParameter):  # as options are read
        DEVICE.convert(text, None, None)


@pytest.mark.parametrize(
    ("lines", "sets"),
    [
        (
            "flags\t\t: fpu sse2 avx2 avx512f avx512_vnni avx512_bf16 amx_bf16",
            "avx2 avx512f avx512_vnni avx512_bf16 amx_bf16",
        ),
        ("processor\t: 0\nflags\t\t: avx_vnni avx2 avx\n\nprocessor\t: 1\nflags\t\t: avx512f", "avx2 avx_vnni"),
        ("Features\t: fp asimd asimddp i8mm bf16", "asimddp i8mm bf16"),
        ("flags\t\t: fpu sse2", ""),
        ("nothing of the kind", ""),
    ],
)
def test_a_cpu_is_told_by_its_instruction_sets(tmp_path: Path, lines: str, sets: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"model name\t: a CPU\n{lines}\n")
    assert cpu_text(tmp_path / "cpuinfo") == f"{platform.machine()} {sets}".strip()
    assert cpu_text(tmp_path / "missing") == platform.machine()


def test_a_gpu_is_told_by_its_compute_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Gpu(0, "NVIDIA H100", "9.0", "CUDA 13.0", 132, False)
    monkeypatch.setattr(gpus, "probe_gpu", lambda index: dataclasses.replace(first, compute_capability=f"9.{index}"))
    assert hardware_of(Device("cpu")) == hardware_of(Device("openvino", target="CPU")) == cpu_text()
    assert hardware_of(Device("cuda", 0)) == "compute capability 9.0"
    assert hardware_of(Device("tensorrt", 1)) == "compute capability 9.1"


def test_a_device_of_another_system_is_told_by_what_that_says_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware_of(Device("coreml")) == processor_name() != "unknown"
    monkeypatch.setattr(platform, "node", lambda: "desk")
    here = hardware_of(Device("directml"))
    assert here.startswith("adapter 0 of ")
    assert "desk" not in here  # bundles are passed on
    monkeypatch.setattr(platform, "node", lambda: "rack")
    assert len({here, hardware_of(Device("directml")), hardware_of(Device("directml", 1))}) == 3


def test_detectors_may_run_elsewhere_beside_poses() -> None:
    assert detector_devices("coreml") == ("coreml", "cpu")
    assert detector_devices("directml:1") == ("directml:1", "cpu")
    assert detector_devices("cuda") == ("cuda:0",)


def test_each_kind_of_device_has_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {engine_of(Device(kind)) for kind in ("cpu", "cuda", "ort-tensorrt", "coreml", "directml")} == {
        "onnxruntime"
    }
    assert engine_of(Device("openvino", target="CPU")) == "openvino"
    flavour = TensorRtFlavour("tensorrt_rtx", "1.2", ModuleType("tensorrt_rtx"))
    monkeypatch.setattr("sharpose.engines.tensorrt.library.find_flavour", lambda: flavour)
    assert engine_of(Device("tensorrt")) == "tensorrt_rtx"

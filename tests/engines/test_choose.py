"""`--device auto` takes what works, says so, and says why not the better devices."""

from __future__ import annotations

import platform
import re

import onnxruntime
import pytest

from sharpose.engines import choose, gpu, openvino
from sharpose.engines.choose import device_problem, load_on, provider_works
from sharpose.engines.cuda import device as cuda_device
from sharpose.engines.device import Device, parse_device
from sharpose.engines.load import OnnxRuntimeSettings
from sharpose.engines.openvino import OpenVinoDevice
from sharpose.engines.tensorrt import library
from sharpose.errors import EngineError
from sharpose.runtime import PoseEstimator


def taken(
    monkeypatch: pytest.MonkeyPatch, problems: dict[str, str], unloadable: dict[str, str]
) -> tuple[str, list[str]]:
    """What `auto` loads where devices have such problems, or can't load, and the lines that it says."""
    monkeypatch.setattr(choose, "device_problem", lambda device: problems.get(device.kind))
    lines: list[str] = []

    def load(device: str) -> str:
        if device in unloadable:
            raise EngineError(unloadable[device])
        return device

    return load_on("auto", load, lines.append), lines


@pytest.mark.parametrize(
    ("problems", "unloadable", "device", "lines"),
    [
        ({}, {}, "tensorrt:0", ["device auto takes tensorrt:0"]),
        ({"tensorrt": "not installed"}, {}, "cuda:0", ["device auto takes cuda:0; not tensorrt: not installed"]),
        (
            {"tensorrt": "no GPU", "cuda": "no GPU"},
            {},
            "openvino:CPU",
            ["device auto takes openvino:CPU; not tensorrt, cuda: no GPU"],
        ),
        (
            {"tensorrt": "no GPU", "cuda": "no GPU", "openvino": "not installed"},
            {},
            "cpu",
            ["device auto takes cpu; not tensorrt, cuda: no GPU; not openvino: not installed"],
        ),
        (
            {"cuda": "no CUDA", "openvino": "no CUDA"},
            {"tensorrt:0": "the GPU is too old"},
            "cpu",
            [
                "device auto takes tensorrt:0",
                "device auto takes cpu; not tensorrt: the GPU is too old; not cuda, openvino: no CUDA",
            ],
        ),
    ],
)
def test_the_best_that_works_is_taken(
    monkeypatch: pytest.MonkeyPatch,
    problems: dict[str, str],
    unloadable: dict[str, str],
    device: str,
    lines: list[str],
) -> None:
    assert taken(monkeypatch, problems, unloadable) == (device, lines)


def test_the_last_ones_error_is_raised_and_a_named_device_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="no ONNX Runtime"):
        taken(monkeypatch, {"tensorrt": "a", "cuda": "b", "openvino": "c"}, {"cpu": "no ONNX Runtime"})
    assert load_on("cuda:3", str, pytest.fail) == "cuda:3"


def test_problems_are_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_problem(Device("cpu")) is None
    assert provider_works("CPUExecutionProvider")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert not provider_works("CUDAExecutionProvider")
    monkeypatch.setattr(gpu, "probe_gpu", lambda index: None)
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)  # says a package, whatever is there
    monkeypatch.setattr(choose, "provider_works", lambda provider: False)
    problem = device_problem(Device("cuda"))
    assert problem is not None
    assert re.search("can't be loaded|can't start", problem)
    monkeypatch.setattr(choose, "provider_works", lambda provider: True)
    assert device_problem(Device("cuda")) is None
    listed.pop(0)
    assert device_problem(Device("cuda")) == "this ONNX Runtime has no CUDAExecutionProvider"


def test_tensorrt_needs_a_runtime_that_starts_and_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "probe_gpu", lambda index: None)
    flavour = library.TensorRtFlavour("tensorrt", "10.3", None)
    monkeypatch.setattr(library, "installed_flavours", lambda: ((), ("TensorRT is not installed",)))
    assert device_problem(Device("tensorrt")) == "TensorRT is not installed"
    monkeypatch.setattr(library, "installed_flavours", lambda: ((flavour,), ()))
    monkeypatch.setattr(library, "runtime_problem", lambda flavour: "CUDA error 35")
    assert device_problem(Device("tensorrt")) == "TensorRT 10.3 doesn't start: CUDA error 35"
    monkeypatch.setattr(library, "runtime_problem", lambda flavour: None)
    monkeypatch.setattr(cuda_device, "installed_bindings", lambda: ())
    assert device_problem(Device("tensorrt")) == "no CUDA bindings are installed"
    monkeypatch.setattr(cuda_device, "installed_bindings", lambda: ("cuda-python",))
    monkeypatch.setattr(cuda_device, "import_binding", lambda name: None)
    assert device_problem(Device("tensorrt")) is None


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there")
def test_without_a_gpu_the_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = {device_problem(Device(kind)) for kind in ("tensorrt", "cuda")}
    assert problems == {"no GPU driver (libcuda.so.1 can't be loaded)"}
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(openvino, "visible_devices", lambda: [OpenVinoDevice("CPU", "SiFive", ("fp32",))])
    lines: list[str] = []
    with PoseEstimator(device="auto", threads=1, onnxruntime=OnnxRuntimeSettings(say=lines.append)) as estimator:
        assert estimator.device == "cpu"
    unknown = "openvino: not known to be faster on riscv64"
    assert lines == [f"device auto takes cpu; not tensorrt, cuda: {problems.pop()}; not {unknown}"]


def test_openvino_is_taken_on_x86_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(openvino, "visible_devices", lambda: [OpenVinoDevice("CPU", "Xeon", ("fp32",))])
    assert device_problem(parse_device("openvino")) is None

    def missing() -> None:
        raise EngineError("OpenVINO is not installed: pip install it")

    monkeypatch.setattr(openvino, "visible_devices", missing)
    assert device_problem(parse_device("openvino")) == "OpenVINO is not installed"

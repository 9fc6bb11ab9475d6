"""ONNX Runtime's providers: devices that are not there, what is asked of those of a GPU, and nodes left to the CPU."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime
import pytest
from scale_graph import MAX_BATCH, entry, scale_inputs

from sharpose.engines import onnxrt
from sharpose.engines.device import parse_device
from sharpose.engines.load import OnnxRuntimeSettings
from sharpose.engines.onnxrt import OnnxRuntimeRunner, create_session
from sharpose.errors import EngineError, how_to_install

NO_GPU = "CUDAExecutionProvider" not in onnxruntime.get_available_providers()


@pytest.mark.skipif(not NO_GPU, reason="this onnxruntime has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "ort-tensorrt"])
def test_a_device_that_is_not_there_says_what_to_install(graph: Path, device: str) -> None:
    with pytest.raises(EngineError) as caught:
        OnnxRuntimeRunner(graph, entry(), MAX_BATCH, device=device)
    message = str(caught.value)
    assert message.startswith(f"device {parse_device(device)}: this onnxruntime has ")
    assert "CPUExecutionProvider" in message
    assert how_to_install("gpu") in message


@pytest.mark.parametrize(("device", "extra"), [("cpu", "cpu"), ("cuda", "gpu"), ("ort-tensorrt:1", "gpu")])
def test_without_onnx_runtime_it_says_what_to_install(
    graph: Path, device: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError) as caught:
        create_session(graph, parse_device(device))
    assert str(caught.value) == f"device {parse_device(device)} needs ONNX Runtime: {how_to_install(extra)}"


CUDA = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
THERE = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


class FallenBack:
    """A session whose GPU provider couldn't start: ONNX Runtime goes on with the CPU's."""

    made: ClassVar[list[Any]] = []

    def __init__(self, path: str, options: object, **settings: object) -> None:
        self.made.append(settings)

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.fixture
def gpu_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """An onnxruntime-gpu whose sessions fall back; returns what is asked of it, in order."""

    def preload() -> None:
        FallenBack.made.append("preload")
        print("Failed to load libcufft.so.12")

    FallenBack.made.clear()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: THERE)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FallenBack)
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    monkeypatch.setattr(onnxrt, "probe_gpu", lambda index: f"GPU {index}")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: name)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    onnxrt.preload_cuda.cache_clear()
    return FallenBack.made


@pytest.mark.parametrize("device", ["cuda:1", "ort-tensorrt"])
def test_a_silent_fallback_is_an_error(graph: Path, device: str, gpu_package: list[Any]) -> None:
    with pytest.raises(EngineError) as caught:
        create_session(graph, parse_device(device))
    assert f"device {parse_device(device)}: ONNX Runtime fell back to CPUExecutionProvider" in str(caught.value)
    assert "driver" in str(caught.value)
    assert gpu_package[-1]["enable_fallback"] == 0  # else a run that fails on the GPU is run again on the CPU


@pytest.mark.parametrize(
    ("device", "cuda", "gone", "named", "mend"),
    [
        ("cuda", "13.0", {"libcudnn.so.9", "libcufft.so.12"}, "libcufft.so.12", how_to_install("gpu")),
        ("cuda", "13.0", {"libcudnn.so.9"}, "libcudnn.so.9", how_to_install("gpu")),
        ("cuda", "12.8", {"libcublas.so.12", "libcudnn.so.9"}, "libcublas.so.12", how_to_install("gpu-cu12")),
        ("cuda", "", {"libcufft.so.11"}, "libcufft.so.11", how_to_install("gpu-cu12")),
        ("cuda", "13.0", {"libcuda.so.1", "libcudart.so.13"}, "libcuda.so.1", "install NVIDIA's driver"),
        ("ort-tensorrt", "13.0", {"libnvinfer.so.10"}, "libnvinfer.so.10", "install TensorRT 10"),
    ],
)
def test_the_first_library_that_is_missing_is_named(
    graph: Path,
    device: str,
    cuda: str,
    gone: set[str],
    named: str,
    mend: str,
    gpu_package: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(name: str) -> str:
        if name in gone:
            raise OSError(f"{name}: cannot open shared object file")
        return name

    monkeypatch.setattr(onnxruntime, "cuda_version", cuda)
    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(EngineError) as caught:
        create_session(graph, parse_device(device))
    reason = f"{named} can't be loaded ({named}: cannot open shared object file); {mend}"
    assert f"fell back to CPUExecutionProvider; {reason}" in str(caught.value)


def test_cudas_libraries_are_loaded_once_before_the_first_session_on_a_gpu(
    graph: Path, gpu_package: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    create_session(graph, parse_device("cpu"))
    for _ in range(2):
        with pytest.raises(EngineError):
            create_session(graph, parse_device("cuda"))
    assert [item if isinstance(item, str) else item["providers"][0] for item in gpu_package] == [
        "CPUExecutionProvider",
        "preload",
        ("CUDAExecutionProvider", {"device_id": "0", **CUDA}),
        ("CUDAExecutionProvider", {"device_id": "0", **CUDA}),
    ]
    assert capfd.readouterr() == ("", "")  # it prints; standard output is for results


def test_an_onnx_runtime_that_cannot_preload_is_asked_nothing(
    graph: Path, gpu_package: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(onnxruntime, "preload_dlls")  # before 1.21
    with pytest.raises(EngineError, match="fell back"):
        create_session(graph, parse_device("cuda"))


@pytest.mark.parametrize(
    ("device", "providers"),
    [
        ("coreml", [("CoreMLExecutionProvider", {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"})]),
        ("directml:1", [("DmlExecutionProvider", {"device_id": "1"})]),
    ],
)
def test_coreml_and_directml_are_asked_without_cuda(
    graph: Path, device: str, providers: list[Any], gpu_package: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    patterns = []

    class FallsBack(FallenBack):
        def __init__(self, path: str, options: onnxruntime.SessionOptions, **settings: object) -> None:
            super().__init__(path, options, **settings)
            patterns.append(options.enable_mem_pattern)

    monkeypatch.setattr(onnxruntime, "InferenceSession", FallsBack)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [name for name, _ in providers])
    with pytest.raises(EngineError, match=rf"^device {device}: ONNX Runtime fell back to .*; it needs (macOS|Windows)"):
        create_session(graph, parse_device(device))
    (asked,) = gpu_package  # nothing of CUDA was loaded
    assert asked["providers"] == [*providers, "CPUExecutionProvider"]
    assert patterns == [device == "coreml"]  # DirectML refuses them


@pytest.mark.parametrize(
    ("device", "system", "mend"),
    [
        ("coreml", "linux", "it is for macOS alone: use device cpu, or auto for the best here"),
        ("coreml", "darwin", f"pip uninstall onnxruntime, then {how_to_install('cpu')}"),
        ("directml", "darwin", "it is for Windows alone: use device cpu, or auto for the best here"),
        ("directml:1", "win32", f"pip uninstall onnxruntime, then {how_to_install('directml')}"),
    ],
)
def test_a_device_of_another_system_is_refused_in_one_line(
    graph: Path, device: str, system: str, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError) as caught:
        create_session(graph, parse_device(device))
    provider = onnxrt.PROVIDERS[parse_device(device).kind]
    had = f"this onnxruntime has CPUExecutionProvider, not {provider}"
    assert str(caught.value) == f"device {parse_device(device)}: {had}; {mend}"


def test_nvidias_libraries_are_called_as_on_windows(gpu_package: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    names: list[str] = []
    monkeypatch.setattr(ctypes, "CDLL", names.append)
    monkeypatch.setattr(onnxruntime, "cuda_version", "12.8")
    assert onnxrt.missing_library("ort-tensorrt") is None
    assert names[1:] == [
        "cudart64_12.dll",
        "cublasLt64_12.dll",
        "cublas64_12.dll",
        "curand64_10.dll",
        "cufft64_11.dll",
        "cudnn64_9.dll",
        "nvinfer_10.dll",
        "nvonnxparser_10.dll",
    ]


def test_tf32_is_off_unless_asked_for(graph: Path, gpu_package: list[Any]) -> None:
    for tf32 in (False, True):
        with pytest.raises(EngineError):
            create_session(graph, parse_device("cuda:2"), OnnxRuntimeSettings(tf32=tf32))
        (name, options), cpu = gpu_package[-1]["providers"]
        assert (name, cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
        assert options == {"device_id": "2", "use_tf32": str(int(tf32)), "cudnn_conv_algo_search": "HEURISTIC"}
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ
    with pytest.raises(EngineError):
        create_session(graph, parse_device("ort-tensorrt"), OnnxRuntimeSettings(tf32=True))
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ
    with pytest.raises(EngineError):
        create_session(graph, parse_device("ort-tensorrt"))
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"  # its TensorRT provider has no option for it


def test_tensorrts_provider_builds_once_for_all_sizes_into_our_cache(
    graph: Path, tmp_path: Path, gpu_package: list[Any]
) -> None:
    settings = OnnxRuntimeSettings(engine_cache=tmp_path / "cache")
    with pytest.raises(EngineError):
        OnnxRuntimeRunner(graph, entry(), 16, device="ort-tensorrt:1", settings=settings)
    first, second, third = gpu_package[-1]["providers"]
    assert (second, third) == (("CUDAExecutionProvider", {"device_id": "1", **CUDA}), "CPUExecutionProvider")
    name, options = first
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_dir()
    assert folder.parent == tmp_path / "cache" / "onnxruntime"
    assert folder.name.startswith("scale-")
    assert (name, options) == (
        "TensorrtExecutionProvider",
        {
            "device_id": "1",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder.parent),
            "trt_profile_min_shapes": "values:1x3,factor:1",
            "trt_profile_opt_shapes": "values:4x3,factor:4",
            "trt_profile_max_shapes": "values:16x3,factor:16",
        },
    )


def test_a_graph_that_tensorrts_provider_splits_has_no_profiles_and_that_is_said(
    graph: Path, gpu_package: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Splits(FallenBack):
        def __init__(self, path: str, options: object, **settings: Any) -> None:
            super().__init__(path, options, **settings)
            if "trt_profile_min_shapes" in settings["providers"][0][1]:
                raise RuntimeError("User needs to provide all the dynamic shape inputs with associated profiles")

    monkeypatch.setattr(onnxruntime, "InferenceSession", Splits)
    lines: list[str] = []
    with pytest.raises(EngineError, match="fell back"):
        OnnxRuntimeRunner(graph, entry(), 16, device="ort-tensorrt", settings=OnnxRuntimeSettings(say=lines.append))
    asked = [item["providers"][0][1] for item in gpu_package if isinstance(item, dict)]
    assert ["trt_profile_min_shapes" in options for options in asked] == [True, False]
    assert asked[1]["trt_engine_cache_path"] == asked[0]["trt_engine_cache_path"]
    (line,) = lines
    assert line.startswith("scale.onnx on ort-tensorrt:0: ONNX Runtime splits the graph")


def test_another_gpu_graph_or_onnx_runtime_has_other_engines(
    graph: Path, tmp_path: Path, gpu_package: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(path: Path, device: str = "ort-tensorrt") -> str:
        with pytest.raises(EngineError):
            create_session(path, parse_device(device))
        name: str = gpu_package[-1]["providers"][0][1]["trt_engine_cache_path"]
        return name

    usual = folder(graph)
    assert folder(graph) == usual
    other = tmp_path / graph.name
    other.write_bytes(graph.read_bytes().replace(b"total", b"sum_s"))
    assert len({usual, folder(other), folder(graph, "ort-tensorrt:1")}) == 3
    monkeypatch.setattr(onnxruntime, "__version__", "1.0")
    assert folder(graph) != usual


def test_a_cache_that_can_not_be_made_is_refused(graph: Path, tmp_path: Path, gpu_package: list[Any]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="give a writable --engine-cache"):
        create_session(graph, parse_device("ort-tensorrt"), OnnxRuntimeSettings(engine_cache=tmp_path / "file"))


@pytest.fixture(params=["asked", "profiled"])
def on_the_cpu_after_all(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A provider for CUDA that leaves every node to the CPU, with an ONNX Runtime from 1.24 on or one before."""
    monkeypatch.setattr(onnxrt, "PROVIDERS", {"cpu": "CPUExecutionProvider", "cuda": "CPUExecutionProvider"})
    monkeypatch.setattr(onnxrt, "_providers", lambda *_: ["CPUExecutionProvider"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ask = "get_provider_graph_assignment_info"
    owner = next((kind for kind in onnxruntime.InferenceSession.__mro__ if ask in vars(kind)), None)
    if request.param == "profiled" and owner is not None:
        monkeypatch.delattr(owner, ask)
    elif request.param == "asked" and owner is None:
        pytest.skip("this ONNX Runtime can't be asked")
    return tmp_path


def test_nodes_that_the_gpu_leaves_to_the_cpu_are_said_once(graph: Path, on_the_cpu_after_all: Path) -> None:
    lines: list[str] = []
    runner = OnnxRuntimeRunner(graph, entry(), 4, device="cuda", settings=OnnxRuntimeSettings(say=lines.append))
    for people in (1, 3):
        runner.run(scale_inputs(people), ("total",))
    (line,) = lines
    operators = dict.fromkeys(("Cast", "Unsqueeze", "Mul", "ReduceSum"), 1)
    text, _, found = line.rstrip(")").partition(" (")
    assert text == "scale.onnx on cuda:0: 4 of 4 nodes run on the CPU"
    assert {name: int(count) for name, count in (item.split() for item in found.split(", "))} == operators
    runner.close()
    assert list(on_the_cpu_after_all.iterdir()) == []  # no profile is left


def test_a_session_that_never_ran_leaves_no_profile(graph: Path, on_the_cpu_after_all: Path) -> None:
    OnnxRuntimeRunner(graph, entry(), 4, device="cuda").close()
    assert list(on_the_cpu_after_all.iterdir()) == []


def test_a_runner_on_the_cpu_says_nothing_of_it(graph: Path) -> None:
    lines: list[str] = []
    runner = OnnxRuntimeRunner(graph, entry(), 4, settings=OnnxRuntimeSettings(say=lines.append))
    runner.run(scale_inputs(1), ("total",))
    assert lines == []

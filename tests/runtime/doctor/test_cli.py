"""The doctor: what it says of a machine that has everything, lacks something, or has it broken."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from sharpose.cli import main as run_command
from sharpose.engines import gpu as gpu_module
from sharpose.engines import openvino
from sharpose.engines.device import Device, parse_device
from sharpose.engines.gpu import Gpu
from sharpose.engines.onnxrt import MissingLibrary
from sharpose.engines.tensorrt import library as tensorrt_flavour
from sharpose.errors import EngineError
from sharpose.runtime.doctor import devices, packages
from sharpose.runtime.doctor.cli import command, examine
from sharpose.runtime.doctor.findings import ALL_DEVICES, Finding, findings_of, obstacles

_NO_DRIVER = "no GPU driver (libcuda.so.1 can't be loaded): install NVIDIA's driver, or use --device cpu"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(load: object = None) -> tuple[Gpu, ...]:
        raise EngineError(_NO_DRIVER)

    monkeypatch.setattr(gpu_module, "probe_gpus", refuse)


def _by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_info:
        run_command(command, arguments)
    captured = capsys.readouterr()
    code = exit_info.value.code
    assert isinstance(code, int)
    return code, captured.out, captured.err


def test_the_cpu_of_the_machine_that_tests_run_on_can_run(no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run([], capsys)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "--device cpu: can run here"
    for name in (
        "Python",
        "numpy",
        "OpenCV",
        "PyAV",
        "H.264 encoder",
        "ONNX Runtime",
        "provider cpu",
        "GPU",
        "TensorRT",
    ):
        assert name in out
    assert len(out.splitlines()) <= 45  # one screen


def test_a_gpu_that_is_not_there_exits_1_and_is_told_apart_from_options(
    no_gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = _run(["--device", "tensorrt"], capsys)
    assert code == 1
    assert " NO  GPU                    no GPU driver (libcuda.so.1 can't be loaded)" in out
    mend = next(line for line in out.splitlines() if line.endswith("install NVIDIA's driver, or use --device cpu"))
    assert "(optional)" not in mend
    assert "can't run here; in the way: GPU" in out.splitlines()[-1]


def test_json_is_all_that_stdout_holds(no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(["--device", "cuda:1", "--json"], capsys)
    content = json.loads(out)
    assert (code, content["device"], content["can_run"]) == (1, "cuda:1", False)
    (gpu,) = [item for item in content["findings"] if item["name"] == "GPU"]
    assert gpu == {
        "name": "GPU",
        "found": False,
        "text": "no GPU driver (libcuda.so.1 can't be loaded)",
        "mend": "install NVIDIA's driver, or use --device cpu",
        "needed_by": ["cuda", "ort-tensorrt", "tensorrt"],
    }
    assert json.loads(_run(["--json"], capsys)[1])["can_run"] is True


def test_an_unknown_device_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(["--device", "fpga"], capsys)
    assert (code, out) == (2, "")
    assert err.startswith("error: Invalid value for '--device': expected auto, cpu, cuda[:i]")


@pytest.mark.parametrize(("module", "name"), [("cv2", "OpenCV"), ("av", "PyAV"), ("onnxruntime", "ONNX Runtime")])
def test_a_package_that_does_not_load_is_in_the_way_and_hides_nothing(
    module: str, name: str, no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    device = parse_device("cpu")
    findings = examine(device)
    assert name in [item.name for item in obstacles(findings, device)]
    broken = _by_name(findings)[name]
    assert broken.text.startswith("doesn't load (")
    assert broken.mend is not None
    assert "pip install" in broken.mend
    assert _by_name(findings)["numpy"].found


def test_numpy_that_is_not_installed_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_PACKAGES", ("numpy", "no_such_package_here"))
    found = _by_name(list(packages.check_packages()))
    assert found["numpy"].found
    missing = found["no_such_package_here"]
    assert (missing.found, missing.text) == (False, "not installed")
    assert missing.needed_by == ALL_DEVICES


def test_a_check_that_fails_is_a_finding() -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("first", True, "fine")
        raise RuntimeError("two\nlines")

    first, failed = findings_of("thing", broken, frozenset({"cuda"}))
    assert first.found
    assert (failed.name, failed.found, failed.needed_by) == ("thing", False, frozenset({"cuda"}))
    assert failed.text == "thing couldn't be looked at: two lines"


def test_two_opencv_packages_are_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"opencv-python": "4.10", "opencv-python-headless": "4.10"}
    monkeypatch.setattr(packages, "installed", both.get)
    conflict = _by_name(list(packages.check_opencv()))["OpenCV packages"]
    assert not conflict.found
    assert "pip uninstall opencv-python opencv-python-headless" in (conflict.mend or "")


def test_both_onnxruntimes_are_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "installed", {"onnxruntime": "1.20", "onnxruntime-gpu": "1.20"}.get)
    assert not _by_name(list(devices.check_onnxruntime()))["ONNX Runtime packages"].found


_BUILD = """
  GUI:                           GTK3
    GStreamer:                   YES (1.20.3)
    gPhoto2:                     NO
"""


def test_opencvs_build_information_is_read() -> None:
    assert packages._build_option(_BUILD, "GStreamer") == "YES (1.20.3)"
    assert packages._build_option(_BUILD, "GUI") == "GTK3"
    assert packages._build_option(_BUILD.replace("YES (1.20.3)", "NO"), "GStreamer") is None
    assert packages._build_option(_BUILD.replace("GTK3", "NONE"), "GUI") is None
    assert packages._build_option("", "GUI") is None


def test_a_missing_encoder_is_said_but_does_not_stop_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_has_codec", lambda name, mode: mode == "r")
    encoder = _by_name(list(packages.check_video()))["H.264 encoder"]
    assert (encoder.found, encoder.needed_by) == (False, frozenset())
    assert "--only-binary av av" in (encoder.mend or "")


def test_a_provider_counts_only_if_a_session_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    found = _by_name(list(devices.check_onnxruntime()))
    assert found["provider cpu"].found
    assert not found["provider cuda"].found
    assert found["provider cuda"].text.startswith("CUDAExecutionProvider is listed, but lib")
    assert found["provider ort-tensorrt"].text == "this package has no TensorrtExecutionProvider"


def test_gpus_are_listed_and_one_too_high_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Gpu(0, "NVIDIA Something", "8.9", "560.35 (CUDA 12.6)", 24, False)
    monkeypatch.setattr(gpu_module, "probe_gpus", lambda: (card,))
    (first,) = devices.check_gpu([Device("tensorrt", 0)])
    assert (first.name, first.found) == ("GPU 0", True)
    assert first.text == "NVIDIA Something, compute capability 8.9, driver 560.35 (CUDA 12.6)"
    poses, detector = Device("cuda", 1), Device("cuda", 0)
    findings = list(devices.check_gpu([poses, detector]))
    (wrong,) = obstacles(findings, poses)
    assert (wrong.name, wrong.found, wrong.text) == ("cuda:1", False, "expected GPU 1, the driver shows 1")
    assert obstacles(findings, detector) == []  # each is judged by its own GPU
    assert [one.text for one in obstacles(list(devices.check_gpu([Device("cpu"), poses])), poses)] == [wrong.text]


def test_tensorrt_is_named_with_its_flavour_or_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    flavour = tensorrt_flavour.TensorRtFlavour("tensorrt_rtx", "1.7.1", None)
    monkeypatch.setattr(tensorrt_flavour, "installed_flavours", lambda names=(): ((flavour,), ()))
    monkeypatch.setattr(tensorrt_flavour, "runtime_problem", lambda flavour: None)
    (found,) = devices.check_tensorrt()
    assert (found.found, found.text) == (True, "TensorRT-RTX 1.7.1")
    monkeypatch.setattr(tensorrt_flavour, "installed_flavours", lambda names=(): ((), ("TensorRT is not installed",)))
    (missing,) = devices.check_tensorrt()
    assert missing.text == "TensorRT is not installed"
    assert (missing.mend or "").startswith("JetPack has it; ")


def test_one_cuda_binding_that_loads_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    from sharpose.engines.cuda import device as cuda_device

    monkeypatch.setattr(cuda_device, "installed_bindings", lambda: ("cuda-python", "pycuda"))
    problems = {"cuda-python": None, "pycuda": "doesn't load (libcuda.so.1)"}
    monkeypatch.setattr(devices, "import_problem", lambda name, load: problems[name])
    (found,) = devices.check_bindings()
    assert found.found
    assert "pycuda doesn't load (libcuda.so.1)" in found.text
    problems["cuda-python"] = "doesn't load (no driver)"
    (broken,) = devices.check_bindings()
    assert not broken.found
    monkeypatch.setattr(cuda_device, "installed_bindings", lambda: ())
    (missing,) = devices.check_bindings()
    assert not missing.found
    assert (missing.mend or "").startswith("pip install cuda-bindings, or ")


def test_cuda_bindings_that_hold_pythons_lock_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from sharpose.engines.cuda import device as cuda_device

    monkeypatch.setattr(cuda_device, "installed_bindings", lambda: ("cuda-python",))
    monkeypatch.setattr(devices, "import_problem", lambda name, load: None)
    for version, free in (("12.8.0", False), ("12.9.0", False), ("12.9.1", True), ("12.9.10", True), ("13.0.0", True)):
        monkeypatch.setattr(devices, "installed", {"cuda-bindings": version}.get)
        found, *others = devices.check_bindings()
        assert found.found
        assert found.text == f"cuda-python {version}"
        assert [other.found for other in others] == ([] if free else [False])
        for other in others:
            assert "holds Python's lock" in other.text
            assert other.needed_by == frozenset()  # slower, and runs
            assert other.mend == 'pip install "cuda-bindings==12.*" --upgrade'


_IMPORTS = """
import sys
import sharpose.runtime.doctor.cli as doctor
heavy = {"numpy", "cv2", "av", "onnxruntime", "rich", "pydantic", "torch"} & set(sys.modules)
assert not heavy, heavy
from sharpose.engines.device import parse_device
doctor.examine(parse_device("cpu"))
assert "torch" not in sys.modules
"""


def test_it_imports_nothing_heavy_and_never_torch() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_first_error_of_tensorrts_runtime_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    flavours = tuple(tensorrt_flavour.TensorRtFlavour(name, "10.3", None) for name in ("tensorrt", "tensorrt_rtx"))
    monkeypatch.setattr(tensorrt_flavour, "installed_flavours", lambda names=(): (flavours, ()))
    monkeypatch.setattr(tensorrt_flavour, "runtime_problem", lambda flavour: "CUDA initialization failure: 35")
    first, second = devices.check_tensorrt()
    assert not first.found
    assert first.text == "TensorRT 10.3 is installed, but its runtime doesn't start: CUDA initialization failure: 35"
    assert (first.needed_by, second.needed_by) == (frozenset({"tensorrt"}), frozenset())  # the first is used


@pytest.mark.parametrize("missing", [None, MissingLibrary("libcudnn.so.9 can't be loaded", "install it")])
def test_onnx_runtimes_cuda_is_looked_for_as_sessions_do(
    missing: MissingLibrary | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    from sharpose.engines import choose, onnxrt

    preloaded: list[bool] = []
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(onnxrt, "preload_cuda", lambda: preloaded.append(True))
    monkeypatch.setattr(onnxrt, "missing_library", lambda kind: missing)
    monkeypatch.setattr(
        choose, "provider_works", lambda provider: missing is None or provider == "CPUExecutionProvider"
    )
    found = _by_name(list(devices.check_onnxruntime()))
    assert preloaded == [True]
    cuda = found["ONNX Runtime's CUDA"]
    assert (cuda.found, cuda.needed_by) == (missing is None, frozenset({"cuda", "ort-tensorrt"}))
    assert cuda.text == (missing.problem if missing else "CUDA 13.0 and cuDNN load (pip's or the system's)")
    assert found["provider cuda"].found == (missing is None)
    if missing is not None:
        assert found["provider cuda"].text == "CUDAExecutionProvider is listed, but libcudnn.so.9 can't be loaded"
        assert {cuda.mend, found["provider cuda"].mend} == {"install it"}


def test_the_shipped_bundle_runs_where_that_takes_no_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from sharpose.engines import onnxrt

    (found,) = devices.check_bundle(Device("cpu"), run=True)
    assert (found.found, found.text) == (True, "sharpose_tiny_coco_256x192 runs on cpu in fp32")
    for device, run in ((Device("cpu"), False), (Device("tensorrt"), True)):
        (found,) = devices.check_bundle(device, run=run)
        assert (found.found, found.text) == (True, "sharpose_tiny_coco_256x192 opens")
    monkeypatch.setattr(onnxrt, "PROVIDERS", {"cpu": "CPUExecutionProvider", "cuda": "CPUExecutionProvider"})
    monkeypatch.setattr(onnxrt, "_providers", lambda *_: ["CPUExecutionProvider"])
    found, nodes = devices.check_bundle(Device("cuda"), run=True)
    assert (found.found, found.text) == (True, "sharpose_tiny_coco_256x192 runs on cuda:0 in fp32")
    assert (nodes.name, nodes.found, nodes.needed_by) == ("nodes on the CPU", False, frozenset())
    assert re.match(r"coarse\.onnx on cuda:0: (\d+) of \1 nodes run on the CPU \(Add \d+, ", nodes.text)

    def refuse(*_: object, **__: object) -> None:
        raise EngineError("too little memory")

    monkeypatch.setattr(onnxrt, "OnnxRuntimeRunner", refuse)
    (found,) = devices.check_bundle(Device("cuda"), run=True)
    assert (found.found, found.text) == (False, "can't run on cuda:0: too little memory")
    assert found.needed_by == frozenset({"cuda"})


def test_poses_of_an_untried_device_are_compared_with_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from sharpose.engines import onnxrt
    from sharpose.engines.two_stage import HostTwoStage

    monkeypatch.setattr(onnxrt, "PROVIDERS", dict.fromkeys(("cpu", "coreml"), "CPUExecutionProvider"))
    monkeypatch.setattr(onnxrt, "_providers", lambda *_: ["CPUExecutionProvider"])
    found, poses, nodes = devices.check_bundle(Device("coreml"), run=True)
    assert (found.found, found.text) == (True, "sharpose_tiny_coco_256x192 runs on coreml in fp32")
    assert (poses.name, poses.found, poses.needed_by) == ("poses", True, frozenset({"coreml"}))
    assert poses.text == "coarse and refined, OKS with those of this machine's CPU 1.000"
    assert re.match(r"coarse\.onnx on coreml: (\d+) of \1 nodes run on the CPU", nodes.text)

    right = HostTwoStage.run_fine
    monkeypatch.setattr(HostTwoStage, "run_fine", lambda self, rows: right(self, rows)[:, :, [1, 0, 2]])
    _, poses, _ = devices.check_bundle(Device("coreml"), run=True)
    assert not poses.found
    assert poses.mend is not None
    assert poses.mend.startswith("expected at least 0.9: use another device")


def test_providers_of_other_systems_are_looked_at_where_they_are_or_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnxruntime

    assert not {"provider coreml", "provider directml"} & _by_name(list(devices.check_onnxruntime())).keys()
    asked = _by_name(list(devices.check_onnxruntime({"directml"})))
    assert "provider coreml" not in asked
    assert asked["provider directml"].text == "this package has no DmlExecutionProvider"
    assert str(asked["provider directml"].mend).startswith("on Windows, pip uninstall onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CoreMLExecutionProvider"])
    listed = _by_name(list(devices.check_onnxruntime()))["provider coreml"]
    assert (listed.found, listed.text) == (False, "CoreMLExecutionProvider is listed, but can't start")


def _lacking(*kinds: str) -> list[Finding]:
    return [Finding(kind, False, "missing", "install it", frozenset({kind})) for kind in kinds]


@pytest.mark.parametrize(
    ("lacking", "found", "text"),
    [
        ((), True, "on tensorrt:1, else cuda:1, else cpu"),
        (("cuda",), True, "on tensorrt:1, else cpu"),
        (("tensorrt",), False, "can't run on tensorrt:1"),
    ],
)
def test_detectors_run_beside_the_poses(lacking: tuple[str, ...], found: bool, text: str) -> None:
    (row,) = devices.check_detectors(_lacking(*lacking), Device("tensorrt", 1))
    assert (row.name, row.found, row.text) == ("detectors", found, text)


def test_detectors_that_only_onnx_runtime_runs_are_said_where_it_is_missing() -> None:
    able, others = devices.check_detectors(_lacking("cuda", "cpu"), Device("tensorrt"))
    assert (able.found, able.text) == (True, "on tensorrt:0")
    assert (others.found, others.needed_by) == (False, frozenset())
    assert (others.mend or "").startswith("pip install ")


def test_both_halves_must_run(no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(["--detector-device", "cuda:1"], capsys)
    assert code == 1
    poses, detectors = out.splitlines()[-2:]
    assert poses == "poses on cpu: can run here"
    assert detectors.startswith("detectors on cuda:1: can't run here; in the way: provider cuda")
    content = json.loads(_run(["--detector-device", "cuda:1", "--json"], capsys)[1])
    assert (content["device"], content["detector_device"], content["can_run"]) == ("cpu", "cuda:1", False)


def test_tf32_is_shown_with_what_overrides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    (found,) = devices.check_tf32(Device("tensorrt"))
    assert found.text == "off in float32 graphs; --tf32 turns it on"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    (found,) = devices.check_tf32(Device("cuda"))
    assert found.text.endswith("; NVIDIA_TF32_OVERRIDE=0 in the environment")


@pytest.fixture
def intel(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO sees a CPU and a GPU."""
    seen = [
        openvino.OpenVinoDevice("CPU", "Core Ultra 7", ("fp32", "int8")),
        openvino.OpenVinoDevice("GPU", "Arc", ("fp32", "fp16", "int8")),
    ]
    monkeypatch.setattr(openvino, "visible_devices", lambda: seen)


def test_devices_of_openvino_are_listed_and_one_that_is_not_there_is_in_its_own_way_alone(intel: None) -> None:
    gpu, npu = parse_device("openvino:GPU"), parse_device("openvino:NPU")
    findings = list(devices.check_openvino([gpu, npu]))
    assert [(item.name, item.found) for item in findings] == [
        ("OpenVINO", True),
        ("OpenVINO CPU", True),
        ("OpenVINO GPU", True),
        ("openvino:NPU", False),
    ]
    assert findings[2].text == "Arc, computes in fp32, fp16, int8"
    assert findings[3].text == "OpenVINO sees CPU (Core Ultra 7), GPU (Arc) here"
    assert findings[3].mend == "install Intel's driver for it, or use device openvino:CPU"
    assert obstacles(findings, gpu) == []
    assert obstacles(findings, npu) == [findings[3]]


def test_the_last_line_says_what_auto_takes(no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(["--device", "auto"], capsys)
    assert code == 0
    (taken,) = re.findall(r"^device auto takes (cpu|openvino:CPU);", err, re.MULTILINE)
    assert out.splitlines()[-1] == f"--device auto takes {taken}: can run here"


def test_openvino_that_is_not_installed_is_no_obstacle_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise EngineError("OpenVINO is not installed: pip install it")

    monkeypatch.setattr(openvino, "visible_devices", refuse)
    findings = list(devices.check_openvino([]))
    assert [(item.text, item.mend) for item in findings] == [("OpenVINO is not installed", "pip install it")]
    assert obstacles(findings, parse_device("openvino")) == findings
    assert obstacles(findings, parse_device("cpu")) == []


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_the_shipped_bundle_runs_in_openvino(no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(["--device", "openvino", "--detector-device", "openvino:GPU.99"], capsys)
    assert (code, err) == (1, "")
    assert "sharpose_tiny_coco_256x192 runs on openvino:CPU in fp32" in out
    assert out.splitlines()[-2:] == [
        "poses on openvino:CPU: can run here",
        "detectors on openvino:GPU.99: can't run here; in the way: openvino:GPU.99",
    ]

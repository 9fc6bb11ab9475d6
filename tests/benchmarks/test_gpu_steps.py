"""The steps of a GPU day, rehearsed on a stand-in device whose engines are the bundle's graphs in ONNX Runtime."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gpu_steps
import latency
import numpy as np
import pytest
from detector_graphs import says, yolox_rows
from gpu_day import CouldNotRunError, Notes, Setup
from host_cuda import HostCuda
from measuring import baselines, turns

from sharpose.bundle import Bundle, Precision, shipped_bundle
from sharpose.config import ModelConfig
from sharpose.engines.base import specs
from sharpose.engines.gpu import Gpu
from sharpose.engines.stages import open_stages
from sharpose.engines.tensorrt import load as tensorrt_load
from sharpose.engines.tensorrt.library import TensorRtFlavour
from sharpose.engines.tensorrt.load import TensorRtSettings
from sharpose.engines.tensorrt.two_stage import TensorRtTwoStage
from sharpose.errors import EngineError
from sharpose.export import verify
from sharpose.heatmap import decode_heatmaps
from sharpose.runtime.cli import command as run_command
from sharpose.runtime.result import Boxes

GPU = Gpu(0, "Stand-in 9000", "9.0", "CUDA 13.0", 132, False)
FLAVOUR = TensorRtFlavour("tensorrt", "10.13.0", ModuleType("tensorrt"))
MOST = 3


def _host_engine() -> type:
    """The engine that the engines' own tests run on."""
    path = Path(__file__).parents[1] / "engines" / "conftest.py"
    spec = importlib.util.spec_from_file_location("engine_stand_ins", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["engine_stand_ins"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    engine: type = module.HostEngine
    return engine


class Rehearsal:
    """A machine with a stand-in GPU: what was opened on it, and what is done to it."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.setup = Setup(bundle, folder, frames=15, openings=4, repeats=3, seconds=0, rounds=2)
        self.notes = Notes(folder / "notes.json")
        self.cudas: list[HostCuda] = []
        self.settings: list[TensorRtSettings] = []
        self.precisions: list[Precision] = []
        self.fault: str | None = None
        self.moved: Callable[[str, dict[str, Any]], None] = lambda stage, outputs: None
        self._engine = _host_engine()
        self._sessions: dict[Path, Any] = {}

    def open_cuda_device(self, index: int = 0, name: str | None = None) -> HostCuda:
        if self.fault == name == "pycuda":
            raise EngineError("CUDA bindings: pycuda is not installed")
        self.cudas.append(HostCuda(has_graphs=name != "pycuda"))
        return self.cudas[-1]

    def load(
        self, bundle: Bundle, device: object, precision: Precision, settings: TensorRtSettings
    ) -> TensorRtTwoStage:
        self.settings.append(settings)
        self.precisions.append(precision)
        cuda = vars(tensorrt_load)["open_cuda_device"](0, None)  # a step may have put another there
        with cuda.active():
            coarse, fine = (self._make(bundle, stage, cuda) for stage in ("coarse", "fine"))
        return TensorRtTwoStage(
            coarse, fine, cuda, "tensorrt:0", precision, use_graphs=settings.cuda_graphs is not False
        )

    def _make(self, bundle: Bundle, stage: str, cuda: Any) -> Any:
        import onnxruntime

        path, entry = bundle.graph(stage)
        if path not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            providers = ["CPUExecutionProvider"]
            self._sessions[path] = onnxruntime.InferenceSession(str(path), options, providers=providers)
        session = self._sessions[path]
        inputs, outputs = specs(entry)

        def compute(arrays: dict[str, Any]) -> dict[str, Any]:
            found = dict(zip(outputs, session.run(list(outputs), dict(arrays)), strict=True))
            self.moved(stage, found)
            return found

        return self._engine(stage, cuda, inputs, outputs, compute, max_batch=bundle.manifest.max_batch)

    def run(self, name: str) -> tuple[bool, str]:
        outcome: tuple[bool, str] = getattr(gpu_steps, f"check_{name}")(self.setup, self.notes)
        json.dumps(self.notes.values)  # plain values
        return outcome


@pytest.fixture
def rehearsal(small_batches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rehearsal]:
    stage = Rehearsal(small_batches, tmp_path)
    monkeypatch.setattr(gpu_steps, "probe_gpu", lambda index: GPU)
    monkeypatch.setattr(gpu_steps, "installed_flavours", lambda: ((FLAVOUR,), ()))
    for module in (gpu_steps, tensorrt_load):
        monkeypatch.setattr(module, "open_cuda_device", stage.open_cuda_device)
    monkeypatch.setattr(tensorrt_load, "load_tensorrt_two_stage", stage.load)
    monkeypatch.setattr(
        gpu_steps, "open_stages", lambda bundle, device, precision, **rest: open_stages(bundle, "cpu", precision)
    )
    monkeypatch.setattr(verify, "_other_devices", list)
    for module in (gpu_steps, latency):
        monkeypatch.setattr(module, "picture_with", small_picture)
    monkeypatch.setattr(turns, "_TURN_S", 0.0)
    logger = logging.getLogger("sharpose")
    before = list(logger.handlers)
    yield stage
    logger.handlers[:] = before


def small_picture(people: int) -> tuple[np.ndarray, Boxes]:
    """A picture that is drawn at once, and some people in it."""
    left = np.arange(people, dtype=np.float32)[:, None] * 20
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    return image, Boxes.from_xyxy(np.hstack([left, np.full_like(left, 10), left + 60, np.full_like(left, 200)]))


@pytest.fixture(scope="module")
def small_batches(nano_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_small_batches(nano_bundle, tmp_path_factory.mktemp("bundle") / "nano")


def of_small_batches(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle, at most three people in a run."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "bundle.json").read_text("utf-8"))
    (folder / "bundle.json").write_text(json.dumps(manifest | {"max_batch": MOST}), "utf-8")
    return folder


def test_bindings_copy_and_replay(rehearsal: Rehearsal) -> None:
    assert rehearsal.run("bindings") == (True, "copies and graphs are right")
    assert rehearsal.notes.values["bindings"] == [
        {"binding": "cuda-python", "outcome": "right"},
        {"binding": "pycuda", "outcome": "right"},
    ]
    with_graphs, without = rehearsal.cudas
    assert with_graphs.log.count("launch graph") == 2
    assert "capture" not in without.log
    assert all(cuda.closed for cuda in rehearsal.cudas)


def test_a_binding_that_is_missing_or_changes_bytes_is_named(rehearsal, monkeypatch) -> None:
    rehearsal.fault = "pycuda"
    good, text = rehearsal.run("bindings")
    assert (good, text) == (False, "pycuda: CUDA bindings: pycuda is not installed")
    monkeypatch.setattr(HostCuda, "copy", lambda self, target, source, nbytes, stream: None)
    assert rehearsal.run("bindings")[1].startswith("cuda-python: copies: bytes were changed on the way")


def test_engines_agree_with_the_cpu(rehearsal: Rehearsal) -> None:
    assert rehearsal.run("engines") == (True, "all are built, loaded and right")
    (row,) = rehearsal.notes.values["engines"]
    assert (row["engine"], row["precision"], row["error"]) == ("TensorRT 10.13.0", "fp32", "")
    assert row["first s"] > 0
    assert row["second s"] > 0
    assert row["median px"] < 1e-3
    assert [item.flavour for item in rehearsal.settings] == ["tensorrt"] * 2
    assert rehearsal.precisions == ["fp32"] * 2


def _move_by_2(stage: str, found: dict[str, Any]) -> None:
    found["keypoints"] += 2


def test_engines_that_are_wrong_or_do_not_load_are_named(rehearsal: Rehearsal, monkeypatch) -> None:
    rehearsal.moved = _move_by_2
    assert rehearsal.run("engines") == (False, "TensorRT 10.13.0, fp32: keypoints moved by 2.8 px")

    def refuse(*_: object) -> None:
        raise EngineError("no kernel for this GPU")

    monkeypatch.setattr(tensorrt_load, "load_tensorrt_two_stage", refuse)
    assert rehearsal.run("engines") == (False, "TensorRT 10.13.0, fp32: no kernel for this GPU")


def test_parity_has_peaks_in_column_0(rehearsal: Rehearsal, tmp_path: Path, monkeypatch) -> None:
    """Of the shipped bundle: heatmaps of random weights are so flat that rounding moves their peaks."""
    bundle = of_small_batches(shipped_bundle(), tmp_path / "shipped")
    rehearsal.setup = replace(rehearsal.setup, bundle=bundle)
    good, text = rehearsal.run("parity")
    peaks = rehearsal.notes.values["peaks in column 0"]
    assert (good, text) == (True, f"within tolerance, {peaks} peaks in column 0")
    assert peaks >= 5
    (row,) = rehearsal.notes.values["engines"]
    assert (row["device"], row["precision"]) == ("cpu", "fp32")
    assert rehearsal.notes.values["keypoints that numpy decodes otherwise, fp32"] == 0
    verified = SimpleNamespace(failures=[], engines=(), unusable=("cuda, fp32: cublas is missing",))
    monkeypatch.setattr(gpu_steps, "verify_bundle", lambda *words, **rest: verified)
    monkeypatch.setattr(gpu_steps, "decode_heatmaps", lambda *words: decode_heatmaps(*words) + 4)
    assert rehearsal.run("parity")[1].startswith("fp32: numpy decodes ")
    assert rehearsal.notes.values["not verified"] == [{"line": "cuda, fp32: cublas is missing"}]


def test_batches_of_every_size_with_graphs_and_without(rehearsal: Rehearsal) -> None:
    assert rehearsal.run("batches") == (True, "every batch size is right, with graphs and without")
    rows = rehearsal.notes.values["calls"]
    assert [(row["graphs"], row["people"]) for row in rows] == [
        (graphs, people) for graphs in ("off", "on") for people in range(1, MOST + 1)
    ]
    assert all(row["first ms"] > 0 and row["second ms"] > 0 and row["median px"] < 1e-3 for row in rows)
    assert [item.cuda_graphs for item in rehearsal.settings] == [False, True]


def test_batches_that_change_poses_are_named(rehearsal: Rehearsal) -> None:
    def move(stage: str, found: dict[str, Any]) -> None:
        if stage == "fine" and len(found["keypoints"]) == 2:
            found["keypoints"] += 1

    rehearsal.moved = move
    good, text = rehearsal.run("batches")
    assert not good
    assert text.startswith("2 people, graphs off: keypoints moved by 1.4 px")


def test_a_failed_capture_gives_a_warning_and_the_same_poses(rehearsal: Rehearsal) -> None:
    good, text = rehearsal.run("capture")
    assert good, text
    assert text.startswith("keypoints moved by 0 px; ")
    assert "waiting in a capture was not refused" in rehearsal.notes.values["warnings"]


def test_latency_by_stage_and_what_runs_beside_the_engines(rehearsal: Rehearsal, monkeypatch) -> None:
    monkeypatch.setattr(gpu_steps, "judge_overhead", lambda cases: [])  # beside engines of microseconds, all is slow
    assert rehearsal.run("latency") == (True, "a frame takes little more than its engines")
    rows = rehearsal.notes.values["mean ms"]
    assert [(row["what"], row["people"], row["refined"]) for row in rows] == [
        ("tensorrt fp32", people, percent) for people in (1, MOST) for percent in (50, 100)
    ]
    assert all(0 < row["coarse"] < row["end to end"] and row["fine"] > 0 for row in rows)
    monkeypatch.setattr(gpu_steps, "judge_overhead", lambda cases: [f"{len(cases)} cases are slow"])
    assert rehearsal.run("latency") == (False, "4 cases are slow")


def test_baselines_are_judged_by_the_targets(rehearsal: Rehearsal, monkeypatch, quick_dense) -> None:
    """PyTorch runs on the CPU; nothing is compiled."""

    class OnCpu(baselines.TorchTwoStage):
        def __init__(self, config: ModelConfig, device: str, *words: int, compiled: bool, **rest: Any) -> None:
            assert device == "cuda:0"
            super().__init__(config, "cpu", *words, **rest)

    monkeypatch.setattr(baselines, "TorchTwoStage", OnCpu)
    monkeypatch.setattr(baselines, "export_dense", quick_dense)
    good, _ = rehearsal.run("baselines")
    targets = rehearsal.notes.values["targets"]
    assert good == all(row["met"] == "True" for row in targets)
    for row, baseline in zip(targets, ("torch-eager cuda:0", "torch-compiled cuda:0", "dense tensorrt"), strict=True):
        assert re.fullmatch(
            rf"tensorrt fp32 is [\d.]+ times as fast as {baseline} fp(32|16), .*; expected [\d.]+", row["what"]
        )
    people = [row["what"].partition(", ")[2].split()[0] for row in targets]
    assert people == ["1", str(MOST), str(MOST)]


def test_baselines_that_cannot_run_are_named(rehearsal: Rehearsal, monkeypatch, quick_dense) -> None:
    monkeypatch.setattr(baselines, "export_dense", quick_dense)
    good, text = rehearsal.run("baselines")
    assert not good
    assert "against torch-eager, 1 person, 100 % refined: not compared; expected 4" in text
    assert len(rehearsal.notes.values["left out"]) == 2
    assert "has no CUDA here" in rehearsal.notes.values["left out"][0]["line"]


def test_providers_with_and_without_preload(rehearsal: Rehearsal, monkeypatch) -> None:
    with pytest.raises(CouldNotRunError, match=r"ONNX Runtime [\d.]+ has only .*CPUExecutionProvider"):
        rehearsal.run("providers")
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        if "without" in words or "ort-tensorrt" in words:
            return subprocess.CompletedProcess(words, 2, "", "error: cublas is missing\nmore\n")
        folder = Path(words[words.index("--output") + 1])
        folder.mkdir()
        cases = [{"contenders": {"cuda fp32": {"mean_ms": time}}} for time in (1.5, 4.5)]
        (folder / "latency.json").write_text(json.dumps({"cases": cases}))
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(gpu_steps, "_call", call)
    assert rehearsal.run("providers") == (False, "ort-tensorrt: error: cublas is missing")
    rows = rehearsal.notes.values["mean ms"]
    assert [(row["device"], row["preload"], row["one person"], row["four people"], row["error"]) for row in rows] == [
        ("cuda", "with", 1.5, 4.5, ""),
        ("cuda", "without", None, None, "error: cublas is missing"),
        ("ort-tensorrt", "with", None, None, "error: cublas is missing"),
        ("ort-tensorrt", "without", None, None, "error: cublas is missing"),
    ]


@pytest.mark.slow
def test_the_changed_latency_benchmark_runs(rehearsal: Rehearsal, monkeypatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    calls = _recorded(monkeypatch, "_call", lambda *words: subprocess.CompletedProcess(words, 2, "", "no"))
    rehearsal.run("providers")
    words = [word if word != "cuda" else "cpu" for word in calls[1]]
    assert "without" in words
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(gpu_steps.__file__).parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads((Path(words[-1]) / "latency.json").read_text())["cases"]) == 2


def test_threads_give_the_same_results(rehearsal: Rehearsal) -> None:
    assert rehearsal.run("threads") == (True, "the same results as alone")
    assert rehearsal.notes.values["detector"] == "the coarse graph on the CPU"
    runs = iter(range(100))

    def drift(stage: str, found: dict[str, Any]) -> None:
        found["keypoints"] += 10 * next(runs)

    rehearsal.moved = drift
    good, text = rehearsal.run("threads")
    assert (good, text) == (False, "estimator: run 0 gave other results than alone")


def test_the_given_detector_takes_part(rehearsal: Rehearsal, tmp_path: Path, monkeypatch) -> None:
    row = [40.0, 30.0, 20.0, 30.0, 0.9, 0.9, 0.1, 0.1]
    path = says(tmp_path / "detector.onnx", output=yolox_rows((0, row)))
    rehearsal.setup = replace(rehearsal.setup, detector=path)
    monkeypatch.setattr(gpu_steps, "detector_devices", lambda text: ("cpu",))
    assert rehearsal.run("threads") == (True, "the same results as alone")
    assert rehearsal.notes.values["detector"] == "detector.onnx on cpu"


def test_reopening_frees_everything(rehearsal: Rehearsal) -> None:
    good, text = rehearsal.run("reopening")
    assert good, text
    assert text.startswith("4 times opened, run and closed; memory grew by ")
    assert len(rehearsal.settings) == 4
    assert all(cuda.closed and not +cuda.live for cuda in rehearsal.cudas)
    assert [row["host"] > 50 for row in rehearsal.notes.values["memory in MiB"]] == [True] * 4


@pytest.mark.parametrize(("host", "gpu", "good"), [(0, 0, True), (1, 1, True), (2, 0, False), (0, 2, False)])
def test_growing_memory_is_named(host: int, gpu: int, good: bool, tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.json")
    for run in range(50):
        notes.row("memory in MiB", host=float(300 + host * run), gpu=float(900 + gpu * run + (run < 5)))
    expected = f"memory grew by {39 * host} MiB (host), {39 * gpu} MiB (gpu)"
    assert gpu_steps._judge_memory(notes) == (good, expected)


def test_a_long_run_counts_its_frames(rehearsal: Rehearsal) -> None:
    good, text = rehearsal.run("frames")
    assert good, text
    assert text.startswith("15 of 15 frames; keypoints moved by 0 px at most; memory grew by ")
    assert rehearsal.notes.values["p99 in ms, first tenth"] > 0
    assert len(rehearsal.notes.values.pop("memory in MiB")) == 15
    rehearsal.setup = Setup(rehearsal.setup.bundle, rehearsal.setup.folder, frames=10**6, long_run_s=0.2)
    rehearsal.notes.row("memory in MiB", host=1.0, gpu=0.0)
    good, text = rehearsal.run("frames")
    assert not good
    assert " of 1000000 frames" in text


def test_the_sanitizer_runs_frames_or_is_missing(rehearsal: Rehearsal, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CouldNotRunError, match="compute-sanitizer is not on the PATH"):
        rehearsal.run("sanitizer")
    tool = tmp_path / "compute-sanitizer"
    tool.write_text('#!/bin/sh\necho "$@"\necho "========= ERROR SUMMARY: 2 errors"\nexit 9\n')
    tool.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tool))
    calls = _recorded(monkeypatch, "_call")
    assert rehearsal.run("sanitizer") == (False, "ERROR SUMMARY: 2 errors")
    assert rehearsal.notes.values["exit code"] == 9
    run_command.make_context("run", list(calls[0][calls[0].index("run") + 1 :]))


def _recorded(
    monkeypatch: pytest.MonkeyPatch, name: str, answer: Callable[..., object] | None = None
) -> list[tuple[str, ...]]:
    calls: list[tuple[str, ...]] = []
    original = answer or getattr(gpu_steps, name)

    def call(*words: str) -> object:
        calls.append(words)
        return original(*words)

    monkeypatch.setattr(gpu_steps, name, call)
    return calls


def test_video_names_what_is_refused(rehearsal: Rehearsal, monkeypatch) -> None:
    def call(*words: str) -> subprocess.CompletedProcess[str]:
        assert words[0] == "run"
        run_command.make_context("run", list(words[1:]))  # these options exist
        refused = "cuda" in words
        return subprocess.CompletedProcess(words, 2 * refused, "", "error: no device\n" * refused)

    monkeypatch.setattr(gpu_steps, "_sharpose", call)
    assert rehearsal.run("video") == (False, "decode with cuda: error: no device")
    rows = rehearsal.notes.values["video"]
    assert [(row["what"], row["error"]) for row in rows] == [
        ("encode", ""),
        ("encode with h264_nvenc", ""),
        ("decode", ""),
        ("decode with cuda", "error: no device"),
    ]


def test_the_doctor_is_quoted(rehearsal: Rehearsal, monkeypatch) -> None:
    findings = [
        {"name": "GPU 0", "found": True, "text": "Stand-in 9000", "needed_by": []},
        {"name": "TensorRT", "found": False, "text": "too old", "needed_by": ["tensorrt"]},
        {"name": "windows", "found": False, "text": "not built in", "needed_by": []},
    ]
    report = {"device": "tensorrt:0", "can_run": False, "findings": findings}
    done = subprocess.CompletedProcess((), 1, json.dumps(report), "")
    monkeypatch.setattr(gpu_steps, "_sharpose", lambda *words: done)
    assert rehearsal.run("doctor") == (False, "TensorRT: too old")
    assert [row["found"] for row in rehearsal.notes.values["findings"]] == [True, False, False]


@pytest.mark.parametrize("name", sorted(name for name in vars(gpu_steps) if name.startswith("check_")))
def test_without_a_gpu_each_says_why_it_could_not_run(name: str, tmp_path: Path, monkeypatch) -> None:
    def no_gpu(index: int) -> Gpu:
        raise EngineError("no GPU driver")

    monkeypatch.setattr(gpu_steps, "probe_gpu", no_gpu)
    if name == "check_doctor":
        return  # it always runs
    with pytest.raises(CouldNotRunError, match="no GPU driver"):
        getattr(gpu_steps, name)(Setup(shipped_bundle(), tmp_path), Notes(tmp_path / "notes.json"))


def test_without_tensorrt_each_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gpu_steps, "probe_gpu", lambda index: GPU)
    monkeypatch.setattr(gpu_steps, "installed_flavours", lambda: ((), ("TensorRT is not installed",)))
    for check in (gpu_steps.check_engines, gpu_steps.check_batches, gpu_steps.check_frames):
        with pytest.raises(CouldNotRunError, match="TensorRT is not installed"):
            check(Setup(shipped_bundle(), tmp_path), Notes(tmp_path / "notes.json"))

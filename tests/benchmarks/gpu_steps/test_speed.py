"""How fast the stand-in and what it is compared with are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from gpu_rehearsal import MOST, Rehearsal, recorded
from gpu_steps import speed
from gpu_steps.device import BENCHMARKS
from gpu_steps.notes import CouldNotRunError
from measuring import baselines

from sharpose.config import ModelConfig
from sharpose.runtime.cli import command as run_command


def test_latency_by_stage_and_what_runs_beside_the_engines(rehearsal: Rehearsal, monkeypatch) -> None:
    monkeypatch.setattr(speed, "judge_overhead", lambda cases: [])  # beside engines of microseconds, all is slow
    assert rehearsal.run("latency") == (True, "a frame takes little more than its engines")
    rows = rehearsal.notes.values["mean ms"]
    assert [(row["what"], row["people"], row["refined"]) for row in rows] == [
        ("tensorrt fp32", people, percent) for people in (1, MOST) for percent in (50, 100)
    ]
    assert all(0 < row["coarse"] < row["end to end"] and row["fine"] > 0 for row in rows)
    monkeypatch.setattr(speed, "judge_overhead", lambda cases: [f"{len(cases)} cases are slow"])
    assert rehearsal.run("latency") == (False, "4 cases are slow")


def test_baselines_are_judged_by_the_targets(rehearsal: Rehearsal, monkeypatch, quick_dense) -> None:
    """PyTorch runs on the CPU; nothing is compiled."""

    class OnCpu(baselines.TorchTwoStage):
        def __init__(self, config: ModelConfig, device: str, *words: int, compiled: bool, **rest: Any) -> None:
            assert device == "cuda:0"
            super().__init__(config, "cpu", *words, **rest)

    monkeypatch.setattr(speed, "_need_pytorch_with_cuda", lambda: None)
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
    with pytest.raises(CouldNotRunError, match=r"PyTorch .* has no CUDA here; install its CUDA build"):
        rehearsal.run("baselines")
    monkeypatch.setattr(speed, "_need_pytorch_with_cuda", lambda: None)
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

    monkeypatch.setattr(speed, "call", call)
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
    calls = recorded(monkeypatch, speed, lambda *words: subprocess.CompletedProcess(words, 2, "", "no"))
    rehearsal.run("providers")
    words = [word if word != "cuda" else "cpu" for word in calls[1]]
    assert "without" in words
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=BENCHMARKS)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads((Path(words[-1]) / "latency.json").read_text())["cases"]) == 2


def test_video_names_what_is_refused(rehearsal: Rehearsal, monkeypatch) -> None:
    def call(*words: str) -> subprocess.CompletedProcess[str]:
        assert words[0] == "run"
        run_command.make_context("run", list(words[1:]))  # these options exist
        refused = "cuda" in words
        return subprocess.CompletedProcess(words, 2 * refused, "", "error: no device\n" * refused)

    monkeypatch.setattr(speed, "run_sharpose", call)
    assert rehearsal.run("video") == (False, "decode with cuda: error: no device")
    rows = rehearsal.notes.values["video"]
    assert [(row["what"], row["error"]) for row in rows] == [
        ("encode", ""),
        ("encode with h264_nvenc", ""),
        ("decode", ""),
        ("decode with cuda", "error: no device"),
    ]

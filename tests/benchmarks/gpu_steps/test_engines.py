"""What the device and its engines compute, on a stand-in."""

from __future__ import annotations

import json
import logging
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gpu_rehearsal import MOST, Rehearsal, of_small_batches
from gpu_steps import engines
from gpu_steps.notes import CouldNotRunError
from host_cuda import HostCuda

from sharpose.bundle import shipped_bundle
from sharpose.engines.cuda.device import CudaDevice
from sharpose.engines.tensorrt import load as tensorrt_load
from sharpose.errors import EngineError
from sharpose.heatmap import decode_heatmaps


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


def test_bindings_that_are_not_installed_are_not_missed(rehearsal: Rehearsal, monkeypatch) -> None:
    monkeypatch.setattr(engines, "installed_bindings", lambda: ("cuda-python",))
    assert rehearsal.run("bindings") == (True, "copies and graphs are right")
    monkeypatch.setattr(engines, "installed_bindings", tuple)
    with pytest.raises(CouldNotRunError, match="none of cuda-python, pycuda is installed"):
        rehearsal.run("bindings")


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
    monkeypatch.setattr(engines, "verify_bundle", lambda *words, **rest: verified)
    monkeypatch.setattr(engines, "decode_heatmaps", lambda *words: decode_heatmaps(*words) + 4)
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


def test_another_warning_says_nothing_of_the_capture(rehearsal: Rehearsal, monkeypatch) -> None:
    def warn(index: int = 0, name: str | None = None) -> CudaDevice:
        logging.getLogger("sharpose.tensorrt").warning("CUDA lazy loading is not enabled")
        return rehearsal.open_cuda_device(index, name)

    monkeypatch.setattr(engines, "_with_broken_capture", warn)
    assert rehearsal.run("capture") == (False, "keypoints moved by 0 px; nothing was said of it")
    assert "lazy loading" in rehearsal.notes.values["warnings"]


def test_the_doctor_is_quoted(rehearsal: Rehearsal, monkeypatch) -> None:
    findings = [
        {"name": "GPU 0", "found": True, "text": "Stand-in 9000", "needed_by": []},
        {"name": "TensorRT", "found": False, "text": "too old", "needed_by": ["tensorrt"]},
        {"name": "windows", "found": False, "text": "not built in", "needed_by": []},
    ]
    report = {"device": "tensorrt:0", "can_run": False, "findings": findings}
    done = subprocess.CompletedProcess((), 1, json.dumps(report), "")
    monkeypatch.setattr(engines, "run_sharpose", lambda *words: done)
    assert rehearsal.run("doctor") == (False, "TensorRT: too old")
    assert [row["found"] for row in rehearsal.notes.values["findings"]] == [True, False, False]

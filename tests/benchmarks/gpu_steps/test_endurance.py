"""Long runs, many runs and two threads, on a stand-in."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from detector_graphs import says, yolox_rows
from gpu_rehearsal import Rehearsal, recorded
from gpu_steps import endurance
from gpu_steps.notes import CouldNotRunError, Notes, Setup

from sharpose.runtime.cli import command as run_command


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
    monkeypatch.setattr(endurance, "detector_devices", lambda text: ("cpu",))
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
    assert endurance._judge_memory(notes) == (good, expected)


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
    calls = recorded(monkeypatch, endurance)
    assert rehearsal.run("sanitizer") == (False, "ERROR SUMMARY: 2 errors")
    assert rehearsal.notes.values["exit code"] == 9
    run_command.make_context("run", list(calls[0][calls[0].index("run") + 1 :]))

"""All steps where something that they need is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from gpu_rehearsal import GPU
from gpu_steps import device
from gpu_steps.__main__ import CHECKS, main
from gpu_steps.notes import CouldNotRunError, Notes, Setup

from sharpose.bundle import shipped_bundle
from sharpose.engines.gpu import Gpu
from sharpose.errors import EngineError


@pytest.mark.parametrize("name", sorted(set(CHECKS) - {"doctor"}))
def test_without_a_gpu_each_says_why_it_could_not_run(name: str, tmp_path: Path, monkeypatch) -> None:
    def no_gpu(index: int) -> Gpu:
        raise EngineError("no GPU driver")

    monkeypatch.setattr(device, "probe_gpu", no_gpu)
    with pytest.raises(CouldNotRunError, match="no GPU driver"):
        CHECKS[name](Setup(shipped_bundle(), tmp_path), Notes(tmp_path / "notes.json"))


def test_without_tensorrt_each_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(device, "probe_gpu", lambda index: GPU)
    monkeypatch.setattr(device, "installed_flavours", lambda: ((), ("TensorRT is not installed",)))
    for name in ("engines", "batches", "frames"):
        with pytest.raises(CouldNotRunError, match="TensorRT is not installed"):
            CHECKS[name](Setup(shipped_bundle(), tmp_path), Notes(tmp_path / "notes.json"))


@pytest.mark.parametrize("arguments", [[], ["doctor"], ["nothing", "{}", "/dev/null"]])
def test_a_step_that_nobody_knows_is_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_steps", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: expected a step, its setup and a file, as `python benchmarks/gpu_day.py` gives\n"

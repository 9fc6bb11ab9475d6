"""All steps where something that they need is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu_rehearsal import GPU
from gpu_steps import device
from gpu_steps.__main__ import CHECKS
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

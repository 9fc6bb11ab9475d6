"""A stand-in GPU for the steps of a GPU day."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import latency
import pytest
from gpu_rehearsal import FLAVOUR, GPU, Rehearsal, of_small_batches, small_picture
from gpu_steps import device, endurance, engines
from measuring import turns

from sharpose.bundle import Bundle, Precision
from sharpose.engines.cuda.device import CUDA_BINDINGS
from sharpose.engines.stages import EngineStages, open_stages
from sharpose.engines.tensorrt import load as tensorrt_load
from sharpose.export import verify


@pytest.fixture
def rehearsal(small_batches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rehearsal]:
    def open_on_the_cpu(bundle: Bundle, device: str, precision: Precision, **rest: object) -> EngineStages:
        return open_stages(bundle, "cpu", precision)

    stage = Rehearsal(small_batches, tmp_path)
    monkeypatch.setattr(device, "probe_gpu", lambda index: GPU)
    for module in (device, engines):
        monkeypatch.setattr(module, "installed_flavours", lambda: ((FLAVOUR,), ()))
    for module in (engines, tensorrt_load):
        monkeypatch.setattr(module, "open_cuda_device", stage.open_cuda_device)
    monkeypatch.setattr(engines, "installed_bindings", lambda: CUDA_BINDINGS)
    monkeypatch.setattr(tensorrt_load, "load_tensorrt_two_stage", stage.load)
    for module in (engines, endurance):
        monkeypatch.setattr(module, "open_stages", open_on_the_cpu)
    monkeypatch.setattr(verify, "_other_devices", list)
    for module in (endurance, latency):
        monkeypatch.setattr(module, "picture_with", small_picture)
    monkeypatch.setattr(turns, "_TURN_S", 0.0)
    logger = logging.getLogger("sharpose")
    before = list(logger.handlers)
    yield stage
    logger.handlers[:] = before


@pytest.fixture(scope="module")
def small_batches(nano_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_small_batches(nano_bundle, tmp_path_factory.mktemp("bundle") / "nano")

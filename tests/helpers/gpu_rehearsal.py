"""A machine with a stand-in GPU, whose engines are the bundle's graphs in ONNX Runtime, for the steps of a GPU day."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gpu_steps.__main__ import CHECKS
from gpu_steps.notes import Notes, Setup
from host_cuda import HostCuda

from sharpose.bundle import Bundle, Precision
from sharpose.engines.base import specs
from sharpose.engines.gpu import Gpu
from sharpose.engines.tensorrt import load as tensorrt_load
from sharpose.engines.tensorrt.library import TensorRtFlavour
from sharpose.engines.tensorrt.load import TensorRtSettings
from sharpose.engines.tensorrt.two_stage import TensorRtTwoStage
from sharpose.errors import EngineError
from sharpose.runtime.result import Boxes

GPU = Gpu(0, "Stand-in 9000", "9.0", "CUDA 13.0", 132, False)
FLAVOUR = TensorRtFlavour("tensorrt", "10.13.0", ModuleType("tensorrt"))
MOST = 3
"""People in a batch."""


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
        outcome: tuple[bool, str] = CHECKS[name](self.setup, self.notes)
        json.dumps(self.notes.values)  # plain values
        return outcome


def small_picture(people: int) -> tuple[np.ndarray, Boxes]:
    """A picture that is drawn at once, and some people in it."""
    left = np.arange(people, dtype=np.float32)[:, None] * 20
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    return image, Boxes.from_xyxy(np.hstack([left, np.full_like(left, 10), left + 60, np.full_like(left, 200)]))


def of_small_batches(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle, at most three people in a run."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "bundle.json").read_text("utf-8"))
    (folder / "bundle.json").write_text(json.dumps(manifest | {"max_batch": MOST}), "utf-8")
    return folder


def recorded(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, answer: Callable[..., object] | None = None
) -> list[tuple[str, ...]]:
    """The words of all calls that a module of steps makes from now on; `answer` is called in place of programs."""
    calls: list[tuple[str, ...]] = []
    original = answer or vars(module)["call"]

    def call(*words: str) -> object:
        calls.append(words)
        return original(*words)

    monkeypatch.setattr(module, "call", call)
    return calls

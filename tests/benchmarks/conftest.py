"""The dense model of the nano configuration, exported once for all tests of the benchmarks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from measuring import baselines
from torch import nn

from sharpose.config import ModelConfig
from sharpose.export import onnx as onnx_export
from sharpose.model.graphs import FineGraph


@pytest.fixture(scope="session")
def dense_nano(made_once: Callable[..., Path], nano_config: ModelConfig, nano_bundle: Path) -> Path:
    """A bundle of at most three people in a run; its fine graph is the nano bundle's own, since tracing one that holds
    nothing takes seconds too.
    """
    trace = vars(onnx_export)["_export"]

    def trace_once(module: nn.Module, *given: object) -> onnx.ModelProto:
        return onnx.load(str(nano_bundle / "fine.onnx")) if isinstance(module, FineGraph) else trace(module, *given)

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx_export, "_export", trace_once)
            patch.delattr(baselines.DenseModel, "fine_stage")
            baselines.export_dense(nano_config, folder, half=False, max_batch=3)

    return made_once("dense_nano", make)


@pytest.fixture(scope="session")
def quick_dense(dense_nano: Path) -> Callable[..., Path]:
    """In place of `export_dense`: copies what was exported before."""

    def copy(config: ModelConfig, folder: Path, *, half: bool, max_batch: int) -> Path:
        shutil.copytree(dense_nano, folder)
        return folder

    return copy

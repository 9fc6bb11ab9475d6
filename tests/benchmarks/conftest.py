"""The dense model of the nano configuration, exported once for all tests of the benchmarks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from measuring import baselines

from sharpose.config import ModelConfig


@pytest.fixture(scope="session")
def dense_nano(made_once: Callable[..., Path], nano_config: ModelConfig) -> Path:
    """A bundle of at most three people in a run."""
    return made_once("dense_nano", lambda folder: baselines.export_dense(nano_config, folder, half=False, max_batch=3))


@pytest.fixture(scope="session")
def quick_dense(dense_nano: Path) -> Callable[..., Path]:
    """In place of `export_dense`: copies what was exported before."""

    def copy(config: ModelConfig, folder: Path, *, half: bool, max_batch: int) -> Path:
        shutil.copytree(dense_nano, folder)
        return folder

    return copy

"""Fixtures for all tests: the folder of shared material, small models and bundles, commands."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

if TYPE_CHECKING:
    from forked_commands import CommandServer

    from sharpose.bundle import Bundle
    from sharpose.config import ModelConfig
    from sharpose.model import SHaRPose

ROOT = Path(__file__).resolve().parent.parent

MadeOnce: TypeAlias = Callable[[str, Callable[[Path], object]], Path]


def pytest_configure(config: pytest.Config) -> None:
    """Keep what the user has cached out of the tests, and the other way round; all processes of a run share a cache.

    Processes that tests start run this checkout's package, whatever is installed or in the shell's PYTHONPATH.
    Bytecode is kept, though the shell may say otherwise: else hundreds of processes would each compile what they
    import. What batches cost is kept as well, though the tests themselves keep the machine busy: else hundreds of runs
    would each measure it.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    os.getloadavg = lambda: (0.0, 0.0, 0.0)
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="sharpose-tests-cache-")
        config.add_cleanup(folder.cleanup)
        os.environ["XDG_CACHE_HOME"] = folder.name
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


LONGEST = (
    "training/test_train_cli.py",
    "export/test_cli.py",
    "serving/test_end_to_end.py",
    "test_types.py",
    "benchmarks/test_latency.py",
    "training/test_eval_cli.py",
    "benchmarks/test_scaling.py",
    "benchmarks/test_overhead.py",
    "archive/test_run.py",
    "test_packaging.py",
    "training/test_own_skeleton.py",
    "training/evaluation/test_gate.py",
    "training/objectives/test_distillation.py",
    "examples/test_cpp.py",
    "runtime/sources/test_rtsp.py",
)
"""Files that take longest: they are begun first, so that no process works on one while the others have nothing left."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin the longest files first, then those of many tests; xdist takes them in this order (the Makefile)."""
    tests, folder = Counter(item.path for item in items), ROOT / "tests"
    first = {folder / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (first.get(item.path, len(first)), -tests[item.path]))


def pytest_collection_finish() -> None:
    """Keep what was imported out of every garbage collection: with torch, each took a second. Tracing makes many."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The material beside the checkout; skips the test where it is missing."""
    path = ROOT.parent / "shared"
    if not (path / "media").is_dir():
        pytest.skip(f"no shared material at {path}")
    return path


@pytest.fixture(scope="session")
def nano_config() -> ModelConfig:
    from nano_model import NANO

    return NANO


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MadeOnce:
    """Make a folder once for all processes of the test run: `made_once(name, make)` calls `make(path)`."""
    from sharpose.file_locks import file_lock

    own = tmp_path_factory.getbasetemp()
    root = own if worker_id == "master" else own.parent

    def shared(name: str, make: Callable[[Path], object]) -> Path:
        folder, unfinished = root / name, root / f"{name}.unfinished"
        with file_lock(root / f"{name}.lock"):
            if not folder.exists():
                shutil.rmtree(unfinished, ignore_errors=True)  # of a process that failed or was killed
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return shared


@pytest.fixture(scope="session")
def nano_bundle(made_once: MadeOnce, nano_config: ModelConfig) -> Path:
    """A bundle of the nano model with random weights (seed 0), for what needs no poses; copy it before changing it."""
    return made_once("nano_bundle", lambda folder: _export_random(nano_config, folder))


@pytest.fixture(scope="session")
def small_bundle(made_once: MadeOnce) -> Path:
    """The same for sharpose_small_coco_256x192, whose runs take a while."""
    from sharpose.config import load_config

    return made_once("small_bundle", lambda folder: _export_random(load_config("sharpose_small_coco_256x192"), folder))


@pytest.fixture(scope="session")
def little_model() -> SHaRPose:
    """Two blocks of width 96 with reproducible weights that do something; float32. Copy it before changing it."""
    import torch
    from reference_model import reference_state

    from sharpose.config import load_config
    from sharpose.model import random_model

    config = load_config("sharpose_tiny_coco_256x192").replace({"width": 96, "depth": 2, "heads": 3})
    model = random_model(config).model
    state = reference_state({key: tuple(value.shape) for key, value in model.state_dict().items()})
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return model


@pytest.fixture(scope="session")
def two_precisions(little_model: SHaRPose, made_once: MadeOnce) -> Bundle:
    """A bundle of `little_model` in fp32 and fp16; copy it before changing it."""
    from reference_model import reference_crops

    from sharpose.bundle import open_bundle
    from sharpose.export.bundle import ExportOptions, export_bundle
    from sharpose.export.pictures import ParityPictures
    from sharpose.model import LoadedModel

    def make(folder: Path) -> None:
        loaded = LoadedModel(little_model, little_model.config, "the tests' reference weights", ())
        pictures = ParityPictures(reference_crops(4, little_model.config.crop_size), "blocks of colour")
        export_bundle(loaded, folder, pictures, ExportOptions(precisions=("fp32", "fp16"), max_batch=6))

    return open_bundle(made_once("two_precisions", make))


def _export_random(config: ModelConfig, folder: Path) -> None:
    from reference_model import reference_crops

    from sharpose.export.bundle import ExportOptions, export_bundle
    from sharpose.export.pictures import ParityPictures
    from sharpose.model import random_model

    pictures = ParityPictures(reference_crops(4, config.crop_size), "blocks of colour")
    export_bundle(random_model(config, seed=0), folder, pictures, ExportOptions(gate_chosen_by="the tests"))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The process's own environment, but for torch: `import torch` fails as where it isn't installed."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "COLUMNS": "100"}


@pytest.fixture(scope="session")
def command_server(environment: dict[str, str]) -> Iterator[CommandServer]:
    """Runs commands in forks of a process without torch."""
    from forked_commands import CommandServer

    server = CommandServer(environment)
    yield server
    server.close()

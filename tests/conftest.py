"""Fixtures for all tests: the folder of shared material, small models and bundles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

if TYPE_CHECKING:
    from sharpose.bundle import Bundle
    from sharpose.config import ModelConfig
    from sharpose.model import SHaRPose

ROOT = Path(__file__).resolve().parent.parent

MadeOnce: TypeAlias = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The material beside the checkout; skips the test where it is missing."""
    path = ROOT.parent / "shared"
    if not (path / "media").is_dir():
        pytest.skip(f"no shared material at {path}")
    return path


@pytest.fixture(scope="session")
def nano_config() -> ModelConfig:
    """The smallest model with all parts: 12 regions, 2 blocks, 12 heads."""
    from sharpose.config import ModelConfig
    from sharpose.skeleton import COCO17

    return ModelConfig(
        name="nano",
        skeleton=COCO17,
        crop_size=(128, 96),
        width=24,
        depth=2,
        heads=12,
        alpha=0.5,
        quality_threshold=0.99,
    )


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MadeOnce:
    """Make a folder once for all processes of the test run: `made_once(name, make)` calls `make(path)`."""
    from sharpose.files import file_lock

    own = tmp_path_factory.getbasetemp()
    root = own if worker_id == "master" else own.parent

    def shared(name: str, make: Callable[[Path], object]) -> Path:
        folder = root / name
        with file_lock(root / f"{name}.lock"):
            if not folder.exists():
                make(folder)
        return folder

    return shared


@pytest.fixture(scope="session")
def tiny_bundle(made_once: MadeOnce) -> Path:
    """A bundle of sharpose_tiny_coco_256x192 with random weights (seed 0); copy it before changing it."""
    return made_once("tiny_bundle", lambda folder: _export_random("sharpose_tiny_coco_256x192", folder))


@pytest.fixture(scope="session")
def small_bundle(made_once: MadeOnce) -> Path:
    """The same for sharpose_small_coco_256x192, which takes about eight times as long to run."""
    return made_once("small_bundle", lambda folder: _export_random("sharpose_small_coco_256x192", folder))


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
        export_bundle(loaded, folder, pictures, ExportOptions(precisions=("fp32", "fp16"), max_batch=4))

    return open_bundle(made_once("two_precisions", make))


def _export_random(name: str, folder: Path) -> None:
    from reference_model import reference_crops

    from sharpose.config import load_config
    from sharpose.export.bundle import ExportOptions, export_bundle
    from sharpose.export.pictures import ParityPictures
    from sharpose.model import random_model

    config = load_config(name)
    pictures = ParityPictures(reference_crops(4, config.crop_size), "blocks of colour")
    export_bundle(random_model(config, seed=0), folder, pictures, ExportOptions(gate_chosen_by="the tests"))

"""A bundle in both precisions, small enough to be exported once for all tests here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from reference_model import reference_crops, reference_state

from sharpose.bundle import Bundle, open_bundle
from sharpose.config import load_config
from sharpose.export.bundle import ExportOptions, export_bundle
from sharpose.export.pictures import ParityPictures
from sharpose.model import LoadedModel, SHaRPose, random_model


@pytest.fixture(scope="session")
def little_model() -> SHaRPose:
    """Two blocks of width 96 with reproducible weights that do something; float32. Copy it before changing it."""
    config = load_config("sharpose_tiny_coco_256x192").replace({"width": 96, "depth": 2, "heads": 3})
    model = random_model(config).model
    state = reference_state({key: tuple(value.shape) for key, value in model.state_dict().items()})
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return model


@pytest.fixture(scope="session")
def two_precisions(little_model: SHaRPose, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Bundle:
    """A bundle of `little_model` in fp32 and fp16; copy it before changing it."""

    def make(folder: Path) -> None:
        loaded = LoadedModel(little_model, little_model.config, "the tests' reference weights", ())
        pictures = ParityPictures(reference_crops(4, little_model.config.crop_size), "blocks of colour")
        export_bundle(loaded, folder, pictures, ExportOptions(precisions=("fp32", "fp16"), max_batch=4))

    return open_bundle(made_once("two_precisions", make))


@pytest.fixture
def bundle_copy(two_precisions: Bundle, tmp_path: Path) -> Path:
    """A copy of `two_precisions` that a test may change."""
    import shutil

    return Path(shutil.copytree(two_precisions.path, tmp_path / "bundle"))

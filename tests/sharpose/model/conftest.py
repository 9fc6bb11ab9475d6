from pathlib import Path

import numpy as np
import pytest
import torch

from sharpose.config import ModelConfig
from sharpose.model import SHaRPose, random_model

DATA = Path(__file__).parent.parent.parent / "data"


@pytest.fixture(scope="session")
def recorded():
    """What the released model computed, by configuration name."""

    def read(name):
        with np.load(DATA / f"released_{name.removeprefix('sharpose_')}.npz") as file:
            return dict(file)

    return read


@pytest.fixture
def nano(nano_config: ModelConfig) -> SHaRPose:
    """A fresh model with weights large enough to tell regions apart."""
    model = random_model(nano_config, seed=1).model
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def image(nano_config: ModelConfig) -> torch.Tensor:
    """Three normalised crops for `nano`."""
    return torch.randn((3, 3, *nano_config.crop_size), generator=torch.Generator().manual_seed(3))

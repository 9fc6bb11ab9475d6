"""The folded model gives what the model gives, and its last fine block computes keypoints alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_model import reference_crops, reference_state

from sharpose.config import ModelConfig
from sharpose.engines.stages import fine_inputs
from sharpose.export.folding import FoldedBlock, folded_model
from sharpose.model import SHaRPose
from sharpose.model.graphs import TorchStages


@pytest.fixture(scope="module")
def model(nano_config: ModelConfig) -> SHaRPose:
    """With biases and norms that aren't trivial, as random weights have them."""
    model = SHaRPose(nano_config).eval()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(value) for name, value in reference_state(shapes).items()})
    return model


def test_all_outputs_stay(model: SHaRPose) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    crops = reference_crops(3, model.config.crop_size)
    plain, folded = TorchStages(model), TorchStages(folded_model(model))
    expected, found = plain.coarse(crops), folded.coarse(crops)
    for name in ("heatmaps", "quality", "region_features", "region_embeddings"):
        # GELU's approximation is 0.0005 off.
        wide = expected[name].astype(np.float64)
        np.testing.assert_allclose(found[name].astype(np.float64), wide, atol=2e-3 * np.abs(wide).max(), err_msg=name)
    assert np.array_equal(found["region_order"], expected["region_order"])
    inputs = fine_inputs(crops, expected, model.config)
    refined, other = (stages.fine(inputs)["heatmaps"].astype(np.float64) for stages in (plain, folded))
    np.testing.assert_allclose(other, refined, atol=2e-3 * np.abs(refined).max())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_single_patches_are_embedded_as_a_picture_is(model: SHaRPose) -> None:
    embed = folded_model(model).backbone.patch_embed
    patch = torch.from_numpy(reference_crops(1, model.config.crop_size)[:, :16, :16]).permute(0, 3, 1, 2).float()
    wide = torch.cat([patch, patch.flip(0)], dim=3)
    torch.testing.assert_close(embed(patch)[:, 0], embed(wide)[:, 0], atol=1e-4, rtol=1e-5)


def test_the_first_tokens_are_those_of_the_whole_block(model: SHaRPose) -> None:
    block = folded_model(model).backbone.blocks[0]
    assert isinstance(block, FoldedBlock)
    x = torch.randn(2, 9, model.config.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(block.forward_first(x, 4), block(x)[:, :4], atol=1e-5, rtol=1e-5)
    computed: list[int] = []
    block.mlp.register_forward_pre_hook(lambda _, arguments: computed.append(arguments[0].shape[1]))
    block.forward_first(x, 4)
    assert computed == [4]

"""The modules that become graphs are the model, with pixels in and keypoints out."""

import numpy as np
import pytest
import torch

from sharpose.config import ModelConfig
from sharpose.engines.stages import fine_inputs
from sharpose.errors import EngineError
from sharpose.heatmap import decode_heatmaps
from sharpose.model import SHaRPose, random_model
from sharpose.model.graphs import COARSE_OUTPUTS, CoarseGraph, FineGraph, Normalise, TorchStages
from sharpose.tokens import gather_patches


@pytest.fixture(scope="module")
def model(nano_config: ModelConfig) -> SHaRPose:
    model = random_model(nano_config).model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def crops(nano_config):
    return np.random.default_rng(0).integers(0, 256, (3, *nano_config.crop_size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def coarse(model, crops):
    names = ("keypoints", "quality", "region_order", "region_features", "region_embeddings", "heatmaps")
    with torch.no_grad():
        return dict(zip(names, CoarseGraph(model)(torch.from_numpy(crops)), strict=True))


def test_normalise(nano_config):
    pixels = torch.tensor([[0, 0, 0], [255, 255, 255], [124, 116, 104]], dtype=torch.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (pixels.numpy() / 255 - mean) / std
    np.testing.assert_allclose(Normalise(nano_config)(pixels), expected, atol=1e-6)
    own = nano_config.replace({"pixel_mean": (0.5, 0.5, 0.5), "pixel_std": (0.5, 0.5, 0.25)})
    np.testing.assert_allclose(Normalise(own)(pixels)[:2], [[-1, -1, -2], [1, 1, 2]], atol=1e-6)


def test_the_coarse_graph_is_the_coarse_stage(model, crops, coarse, nano_config):
    with torch.no_grad():
        image = Normalise(nano_config)(torch.from_numpy(crops)).permute(0, 3, 1, 2)
        stage = model.coarse_stage()(image)
    for name in ("quality", "region_features", "region_embeddings", "heatmaps"):
        torch.testing.assert_close(coarse[name], getattr(stage, name), atol=1e-6, rtol=1e-6)
    assert coarse["region_order"].dtype == torch.int32
    assert coarse["region_order"].tolist() == stage.region_order.tolist()
    decoded = decode_heatmaps(coarse["heatmaps"].numpy(), nano_config.crop_size)
    assert np.median(np.abs(coarse["keypoints"].numpy() - decoded)) < 1e-3


@pytest.mark.parametrize("rows", [[0, 1, 2], [2], [1, 1, 0]])
def test_both_graphs_and_the_gather_are_the_model(model, crops, coarse, rows, nano_config):
    index = np.array(rows, np.int32)
    patches = gather_patches(crops, index, coarse["region_order"].numpy(), nano_config.num_selected)
    carried = [coarse[name] for name in ("region_order", "region_features", "region_embeddings")]
    with torch.no_grad():
        keypoints, heatmaps = FineGraph(model)(torch.from_numpy(index), torch.from_numpy(patches), *carried)
        image = Normalise(nano_config)(torch.from_numpy(crops)).permute(0, 3, 1, 2)
        expected = model(image, float("inf")).heatmaps[rows]
    assert heatmaps.shape == (len(rows), 17, 32, 24)
    torch.testing.assert_close(heatmaps, expected, atol=1e-5, rtol=1e-4)
    decoded = decode_heatmaps(heatmaps.numpy(), nano_config.crop_size)
    assert np.median(np.abs(keypoints.numpy() - decoded)) < 1e-3
    assert (keypoints[..., 2].numpy() == decoded[..., 2]).all()


def test_stages_on_arrays_are_the_graphs_and_leave_the_model_as_it_was(model, crops, coarse, nano_config):
    stages = TorchStages(model, max_batch=4)
    for training in (True, False):
        model.train(training)
        found = stages.coarse(crops)
        assert model.training is model.backbone.training is training
    assert list(found) == COARSE_OUTPUTS
    for name, value in found.items():
        np.testing.assert_allclose(value, coarse[name].numpy(), atol=1e-6)
    fine = stages.fine(fine_inputs(crops, found, nano_config))
    assert list(fine) == ["keypoints", "heatmaps"]
    assert fine["keypoints"].shape == (3, nano_config.num_keypoints, 3)
    with pytest.raises(EngineError, match="device nowhere: PyTorch can't use it"):
        TorchStages(model, "nowhere")

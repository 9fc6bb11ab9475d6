"""This model in PyTorch behind the pipeline, and the dense model as a bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from measuring.baselines import DenseModel, TorchTwoStage

from sharpose.bundle import open_bundle
from sharpose.config import ModelConfig
from sharpose.errors import EngineError
from sharpose.model.graphs import CoarseGraph
from sharpose.runtime import PoseEstimator

BOXES = [[0, 0, 60, 100], [20, 10, 90, 90]]
IMAGE = np.random.default_rng(0).integers(0, 256, (120, 100, 3), np.uint8)


def test_pytorch_gives_the_poses_of_the_bundle(nano_bundle: Path) -> None:
    """Both have random weights of seed 0."""
    bundle = open_bundle(nano_bundle)
    stages = TorchTwoStage(bundle.model, "cpu", bundle.manifest.max_batch, threads=1)
    with PoseEstimator(nano_bundle, threads=1) as engine, PoseEstimator.from_stages(bundle, stages) as eager:
        expected, found = (estimator(IMAGE, BOXES, rows=[1]) for estimator in (engine, eager))
    np.testing.assert_allclose(found.quality, expected.quality, atol=1e-5)
    np.testing.assert_allclose(found.keypoints[..., 2], expected.keypoints[..., 2], atol=1e-4)
    assert found.refined.tolist() == [False, True]


def test_half_runs_in_half(nano_config: ModelConfig) -> None:
    stages = TorchTwoStage(nano_config, "cpu", 2, half=True)
    stages.crops[:] = 7
    coarse = stages.run_coarse(2)
    assert {tensor.dtype for tensor in stages._carried[1:]} == {torch.float16}
    assert stages.run_fine(np.array([1], np.int32)).shape == (1, *coarse.keypoints.shape[1:])


def test_both_graphs_are_compiled(nano_config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def compile_nothing(graph: torch.nn.Module, dynamic: bool) -> torch.nn.Module:
        compiled.append(type(graph).__name__)
        return graph

    monkeypatch.setattr(torch, "compile", compile_nothing)
    TorchTwoStage(nano_config, "cpu", 1, compiled=True)
    assert compiled == ["CoarseGraph", "FineGraph"]


def test_without_a_compiler_it_says_so(nano_config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(EngineError, match=r"needs a C\+\+ compiler, and there is none"):
        TorchTwoStage(nano_config, "cpu", 1, compiled=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_cuda_it_says_so(nano_config: ModelConfig) -> None:
    with pytest.raises(EngineError, match=r"PyTorch [\d.]+.* has no CUDA here"):
        TorchTwoStage(nano_config, "cuda:0", 1)


def test_the_dense_model_is_a_bundle_whose_coarse_stage_is_all_of_it(
    nano_config: ModelConfig, dense_nano: Path
) -> None:
    bundle = open_bundle(dense_nano)
    assert (bundle.precisions, bundle.manifest.max_batch) == (("fp32",), 3)
    with PoseEstimator(dense_nano, threads=1) as estimator:
        found = estimator(IMAGE, BOXES, rows=[])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DenseModel(nano_config).eval()
    with torch.inference_mode():
        crops = torch.zeros((2, *nano_config.crop_size, 3), dtype=torch.uint8)
        outputs = CoarseGraph(model)(crops)
    assert outputs[-1].shape == (2, 17, *nano_config.heatmap_size)
    assert found.keypoints.shape == (2, 17, 3)
    assert np.isfinite(found.keypoints).all()
    grid = model.decoder(torch.zeros(1, nano_config.width, 8, 6))
    assert grid.shape[2:] == nano_config.heatmap_size  # 16 pixels a token, 4 a heatmap's pixel

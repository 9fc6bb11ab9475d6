"""The counted work is what PyTorch counts while it runs the exported modules, and the README has these numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from flops import count_cost, count_parameters, main
from measuring.baselines import DenseModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sharpose.config import ModelConfig, load_config
from sharpose.export.folding import folded_model
from sharpose.model import random_model
from sharpose.model.graphs import CoarseGraph, FineGraph

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_count_is_pytorchs(nano_config: ModelConfig, head: str, folded: bool) -> None:
    config = nano_config.replace({"head": head, "alpha": 0.3})
    model = random_model(config).model
    if folded:
        model = folded_model(model)
    image = torch.zeros((1, *config.crop_size, 3), dtype=torch.uint8)
    patches = torch.zeros((1, 4 * config.num_selected, 16 * 16 * 3), dtype=torch.uint8)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):  # the fused kernel's products aren't counted
        with FlopCounterMode(display=False) as coarse:
            _, _, order, features, embeddings, _ = CoarseGraph(model)(image)
        with FlopCounterMode(display=False) as fine:
            FineGraph(model)(torch.zeros(1, dtype=torch.int32), patches, order, features, embeddings)
    cost = count_cost(config, folded=folded)
    assert (2 * cost.coarse, 2 * cost.fine) == (coarse.get_total_flops(), fine.get_total_flops())
    if folded:  # which holds the patch embedding twice
        return
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    dense = CoarseGraph(DenseModel(config).eval())
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        dense(image)
    assert 2 * cost.vitpose == counter.get_total_flops()


def test_the_dense_models_fine_graph_holds_nothing(nano_config: ModelConfig) -> None:
    """A bundle must have one, and nobody runs it."""
    config = nano_config
    coarse, fine = (graph(DenseModel(config).eval()) for graph in (CoarseGraph, FineGraph))
    assert sum(parameter.numel() for parameter in fine.parameters()) == 0
    patches = torch.zeros((2, 4 * config.num_selected, 16 * 16 * 3), dtype=torch.uint8)
    with torch.inference_mode():
        _, _, *carried, of_coarse = coarse(torch.zeros((3, *config.crop_size, 3), dtype=torch.uint8))
        keypoints, heatmaps = fine(torch.tensor([2, 0], dtype=torch.int32), patches, *carried)
    assert (keypoints.shape, heatmaps.shape) == ((2, config.num_keypoints, 3), (2, *of_coarse.shape[1:]))


def test_the_readme_has_these_numbers() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    number = r"([\d.]+)"
    row = rf"^\| ([\w ]+) \| (\d+)×(\d+) \| {number} M \| {number} \| {number} \| {number} \|"
    rows = re.findall(row, text, re.MULTILINE)
    assert len(rows) == 6
    for kind, height, width, *numbers in rows:
        size, _, skeleton = kind.partition(" ")
        config = load_config(f"sharpose_{size}_{skeleton.lower() or 'coco'}_{height}x{width}")
        cost = count_cost(config)
        both = cost.coarse + cost.fine
        counted = [count_parameters(config) / 1e6, config.alpha, cost.coarse / 1e9, both / 1e9]
        assert numbers == [f"{value:.1f}" for value in counted], kind


def test_the_performance_page_has_the_printed_table(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    assert capsys.readouterr().out in (ROOT / "docs" / "performance.md").read_text("utf-8")


def test_dense_is_the_fine_stage_with_every_region(nano_config: ModelConfig) -> None:
    """But for the small MLP that reuses coarse features."""
    everything = nano_config.replace({"alpha": 1.0})
    reuse = everything.num_regions * 2 * everything.width * everything.mlp_hidden
    assert count_cost(everything).fine - reuse == count_cost(nano_config).dense

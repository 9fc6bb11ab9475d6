"""Guidance by a real ONNX graph whose features are mean colours, so that all targets are known."""

from __future__ import annotations

import gc
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sharpose.config import ModelConfig
from sharpose.engines import openvino
from sharpose.errors import ConfigError
from sharpose.model import random_model
from sharpose.model.backbone import Block
from sharpose.model.stages import cut_patches
from sharpose.training.objectives.guidance import GuidanceRecipe, GuidanceTeacher, GuidedNetwork, by_region
from sharpose.training.objectives.network import PoseNetwork, recompute_blocks
from sharpose.training.objectives.pose import LossRecipe, PoseObjective
from sharpose.training.objectives.teacher import Teacher
from sharpose.training.recipe import parse_recipe

CPU = torch.device("cpu")


@pytest.fixture
def images(nano_config: ModelConfig) -> Tensor:
    """Four crops of coarse noise, so that squares differ in their mean."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (4, 8, 6, 3), dtype=torch.uint8, generator=generator)
    return blocks.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)


def guided(config: ModelConfig, values: dict[str, Any], path: Path, **stages: Any) -> GuidedNetwork:
    torch.manual_seed(1)
    model = random_model(config, seed=1).model
    return GuidedNetwork(model, GuidanceTeacher(GuidanceRecipe(**values), path, config, CPU), 8, **stages).train()


def projection(network: GuidedNetwork, name: str) -> Any:
    return network.guided[name]


def squares(images: Tensor, side: int) -> Tensor:
    """[B, 3, rows, columns]: mean colours."""
    return torch.nn.functional.avg_pool2d(images.permute(0, 3, 1, 2).float(), side)


def test_features_are_standardised_by_what_was_measured(
    nano_config: ModelConfig, guidance: dict[str, Any], guide_onnx: Path, images: Tensor
) -> None:
    network = guided(nano_config, guidance, guide_onnx)
    network.measure([images[:1], images[1:]], lambda tensor: tensor)
    deep = squares(images, 32)
    regions = projection(network, "region_features")
    torch.testing.assert_close(regions.mean, deep.mean((0, 2, 3)), atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(regions.deviation, deep.std((0, 2, 3), unbiased=False), atol=1e-3, rtol=1e-4)
    found = regions.standardised(deep)
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
    # a channel that hardly changes isn't blown up
    grey = images.clone()
    grey[..., 2] = 7
    network.measure([grey], lambda tensor: tensor)
    assert regions.deviation[2] == pytest.approx(0.02 * float(regions.deviation[:2].mean()), rel=0.05)


def test_fine_patches_get_the_features_of_their_own_place() -> None:
    features = torch.arange(8 * 6).reshape(1, 1, 8, 6)
    found = by_region(features, (4, 3))
    assert found.shape == (1, 12, 4, 1)
    # region (1, 2): rows 2 and 3, columns 4 and 5
    assert found[0, 5, :, 0].tolist() == [2 * 6 + 4, 2 * 6 + 5, 3 * 6 + 4, 3 * 6 + 5]


def test_the_terms_by_hand(
    nano_config: ModelConfig, guidance: dict[str, Any], guide_onnx: Path, images: Tensor
) -> None:
    network = guided(nano_config, guidance, guide_onnx, fine_share=0.25)
    network.measure([images], lambda tensor: tensor)
    regions, patches = projection(network, "region_features"), projection(network, "patch_features")
    output = network(images)
    assert output.guidance is not None
    pose = network.pose
    with torch.no_grad():
        pixels = network.normalised(images)
        backbone = pose.backbone
        embedded = backbone.patch_embed(torch.nn.functional.avg_pool2d(pixels, 2)) + backbone.pos_embed_list[0]
        first = torch.cat([backbone.quality_token.expand(4, -1, -1), backbone.keypoint_tokens.expand(4, -1, -1)], 1)
        tokens = backbone.blocks[0](torch.cat([first, embedded], 1))[:2, 18:]  # half of the batch
        wanted = regions.standardised(squares(images[:2], 32)).flatten(2).transpose(1, 2)
        by_hand = (regions(tokens) - wanted).square().mean()
        # the mean colour of a patch, whichever way its pixels are found; the fine stage had one crop
        colours = cut_patches(images.permute(0, 3, 1, 2).float(), output.region_order, 6, 3)[:1].mean((-1, -2))
        patches.linear.weight.zero_()
        of_patches = ((colours - patches.mean) / patches.deviation).square().mean()
    torch.testing.assert_close(output.guidance["guidance_region_features"].detach(), by_hand, atol=1e-5, rtol=1e-4)
    again = network(images).guidance
    assert again is not None
    torch.testing.assert_close(again["guidance_patch_features"].detach(), of_patches, atol=1e-5, rtol=1e-4)
    # heatmaps begin as nearly nobody: logits of -4 against 0.9 where red is above 128
    red = squares(images[:2], 4)[:, :1].expand(-1, 17, -1, -1) > 128
    with torch.no_grad():
        projection(network, "heatmaps").proj.weight.zero_()
    heat = torch.nn.functional.binary_cross_entropy_with_logits(torch.full(red.shape, -4.0), 0.9 * red.float())
    again = network(images).guidance
    assert again is not None
    torch.testing.assert_close(again["guidance_heatmaps"].detach(), heat, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("after_block", [1, 2])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_reach_the_blocks_up_to_the_one_named(
    nano_config: ModelConfig,
    guidance: dict[str, Any],
    guide_onnx: Path,
    images: Tensor,
    after_block: int,
    recompute: bool,
) -> None:
    config = nano_config.replace({"depth": 3})
    model = random_model(config, seed=1).model
    if recompute:
        recompute_blocks(model)
    recipe = GuidanceRecipe(**guidance | {"after_block": after_block})
    network = GuidedNetwork(model, GuidanceTeacher(recipe, guide_onnx, config, CPU), 8).train()
    network.measure([images], lambda tensor: tensor)
    for name in ("guidance_region_features", "guidance_patch_features"):
        network.zero_grad()
        terms = network(images).guidance
        assert terms is not None
        terms[name].backward()
        reached = [
            bool(block.mlp.fc1.weight.grad is not None and block.mlp.fc1.weight.grad.any())
            for block in model.backbone.blocks
            if isinstance(block, Block)
        ]
        # the fine stage's patches also get the coarse stage's final features, through all blocks
        assert reached == [name == "guidance_patch_features" or index < after_block for index in range(3)]
    network.zero_grad()
    terms = network(images).guidance
    assert terms is not None
    terms["guidance_heatmaps"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.backbone.norm.parameters())


def test_it_ends_when_told_and_all_parameters_keep_a_gradient(
    nano_config: ModelConfig,
    guidance: dict[str, Any],
    guide_onnx: Path,
    images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = GuidanceRecipe(**guidance | {"final_share": 0.25, "final_factor": 0.2})
    assert [recipe.factor(epoch, 8) for epoch in range(8)] == [1, 1, 1, 1, 1, 1, 0.2, 0.2]
    network = guided(nano_config, guidance | {"final_factor": 0}, guide_onnx, fine_from_epoch=2)
    plain = PoseNetwork(random_model(nano_config, seed=1).model, fine_from_epoch=2).train()
    for epoch, expected in (
        (1, {"region_features", "heatmaps"}),
        (5, {"region_features", "patch_features", "heatmaps"}),
        (6, set()),
    ):
        if epoch == 6:
            monkeypatch.setattr(Teacher, "__call__", None)  # it isn't asked any more
        network.zero_grad()
        for one in (network, plain):
            one.begin_step(epoch)
        output, without = network(images), plain(images)
        assert torch.equal(output.coarse, without.coarse)
        assert set(output.guidance or {}) == {f"guidance_{name}" for name in expected}
        loss = output.coarse.mean() + (0.0 if output.fine is None else output.fine.mean()) + output.quality.mean()
        (loss + sum((output.guidance or {}).values())).backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        assert [name for name, gradient in gradients.items() if gradient is None] == []
        for name in network.guided:
            own = [grad for key, grad in gradients.items() if key.startswith(f"guided.{name}.") and grad is not None]
            assert any(bool(gradient.any()) for gradient in own) == (name in expected)


def test_the_loss_adds_the_terms_by_their_weights(
    nano_config: ModelConfig, guidance: dict[str, Any], guide_onnx: Path, images: Tensor
) -> None:
    values = guidance | {"weight": 0.5, "heatmap_weight": 3.0, "final_factor": 0.2}
    network = guided(nano_config, values, guide_onnx)
    output = network(images)
    targets, weights = torch.zeros_like(output.coarse), torch.ones(4, 17)
    plain = PoseObjective(LossRecipe(), nano_config, CPU)
    objective = PoseObjective(LossRecipe(), nano_config, CPU, GuidanceRecipe(**values), 8)
    for epoch, factor in ((5, 1.0), (6, 0.2)):
        found = objective(output, targets, weights, epoch)
        features = found["guidance_region_features"] + found["guidance_patch_features"]
        expected = plain(output._replace(guidance=None), targets, weights, epoch)["loss"]
        expected = expected + factor * (0.5 * features + 3.0 * found["guidance_heatmaps"])
        torch.testing.assert_close(found["loss"], expected)
    with torch.no_grad():
        assert network.eval()(images).guidance is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"onnx": "absent.onnx"}, "guidance .*absent.onnx: expected an ONNX file, found none"),
        ({"region_features": "inner"}, r"guidance\.region_features: .*one of deep, mid, heat; got inner"),
        ({"patch_features": "deep"}, r"patch_features: expected \[B, C, 8, 6\] .*128x96, deep of .*\['B', 3, 4, 3\]"),
        ({"heatmaps": "mid"}, r"heatmaps: expected \[B, 17, 32, 24\] .* has \['B', 3, 8, 6\]"),
        ({"runtime": "openvino", "bf16": True}, "guidance: needs OpenVINO: pip install openvino, or runtime"),
    ],
)
def test_what_cannot_guide_is_named(
    nano_config: ModelConfig,
    guidance: dict[str, Any],
    guide_onnx: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(openvino, "_core_and_process", openvino._core_and_process.__wrapped__)
    monkeypatch.setitem(sys.modules, "openvino", None)
    values = guidance | change
    with pytest.raises(ConfigError, match=message):
        guided(nano_config, values, guide_onnx.parent / values["onnx"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"after_block": 3}, r"guidance\.after_block: expected at most the model's 2 blocks, got 3"),
        ({"region_features": None, "patch_features": None, "heatmaps": None}, "the names of outputs; got none"),
        ({"bf16": True}, "bf16 is for runtime openvino, got onnxruntime"),
        ({"pixel_std": [1, 0, 1]}, "pixel_std: expected three positive numbers"),
        ({"blocks": 3}, "blocks: unknown key"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(
    nano_values: dict[str, Any], guidance: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe(nano_values | {"guidance": guidance | change}, source="test")
    with pytest.raises(ConfigError, match="guidance excludes pretrain and compile"):
        parse_recipe(nano_values | {"guidance": guidance, "compile": True}, source="test")


def test_openvino_finds_the_same(
    nano_config: ModelConfig, guidance: dict[str, Any], guide_onnx: Path, images: Tensor
) -> None:
    if find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    names, found = ["deep", "mid", "heat"], []
    for values in ({}, {"runtime": "openvino"}, {"runtime": "openvino", "bf16": True}):
        recipe = GuidanceRecipe(**guidance | values)
        teacher = Teacher(recipe, guide_onnx, nano_config.crop_size, CPU, "guidance")
        found.append([teacher(images[:people], names) for people in (4, 1)])
    for exact, same, rough in zip(*found, strict=True):
        for one, other, third in zip(exact, same, rough, strict=True):
            np.testing.assert_allclose(other, one, atol=1e-3)
            np.testing.assert_allclose(third, one, atol=2)


def test_a_signal_after_openvino_is_a_signal(
    nano_config: ModelConfig, guidance: dict[str, Any], guide_onnx: Path, images: Tensor
) -> None:
    """Its plugin moves the stack that handlers run on; what it leaves behind must be memory that is there."""
    if find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    recipe = GuidanceRecipe(**guidance | {"runtime": "openvino"})
    teachers = [Teacher(recipe, guide_onnx, nano_config.crop_size, CPU, "guidance") for _ in range(2)]
    for teacher in teachers:
        teacher(images[:1], ["deep"])
    del teacher
    while teachers:
        teachers.pop(0)
    gc.collect()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGUSR1, lambda number, frame: os._exit(7))
        signal.raise_signal(signal.SIGUSR1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

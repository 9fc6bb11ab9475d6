"""Layers and decays of the small model, as the released code has them."""

import pytest

from sharpose.config import load_config
from sharpose.model import SHaRPose
from sharpose.training.optimizer import OptimizerRecipe, build_optimizer, is_decayed, layer_of, set_learning_rate


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("backbone.keypoint_tokens", 0),
        ("backbone.quality_token", 0),
        ("backbone.pos_embed_list.0", 0),
        ("backbone.pos_embed_list.1", 0),
        ("backbone.patch_embed.proj.weight", 0),
        ("backbone.blocks.0.attn.qkv.weight", 1),
        ("backbone.blocks.11.norm1.bias", 12),
        ("backbone.norm.weight", 13),
        ("backbone.reuse_block.1.fc1.weight", 13),
        ("backbone.quality_predictor.mlp.0.weight", 13),
        ("keypoint_head.heatmap_mlp.1.weight", 13),
        ("dense.proj.weight", 13),
    ],
)
def test_layers(name: str, layer: int) -> None:
    assert layer_of(name, depth=12) == layer


@pytest.mark.parametrize(
    ("name", "dimensions", "decayed"),
    [
        ("backbone.keypoint_tokens", 3, False),
        ("backbone.quality_token", 3, False),
        ("backbone.pos_embed_list.1", 3, False),
        ("backbone.patch_embed.proj.weight", 4, True),
        ("backbone.patch_embed.proj.bias", 1, False),
        ("backbone.blocks.3.norm1.weight", 1, False),
        ("backbone.blocks.3.mlp.fc2.weight", 2, True),
        ("backbone.quality_predictor.mlp.6.weight", 2, True),
        ("keypoint_head.heatmap_mlp.1.weight", 2, True),
    ],
)
def test_weight_decay(name: str, dimensions: int, decayed: bool) -> None:
    assert is_decayed(name, dimensions) is decayed


def test_every_parameter_is_in_one_group_with_its_rate() -> None:
    config = load_config("sharpose_small_coco_256x192")
    model = SHaRPose(config)
    optimizer = build_optimizer(model.named_parameters(), 12, OptimizerRecipe(layer_decay=0.8))
    names = [name for group in optimizer.param_groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    rates = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
    decays = {name: group["weight_decay"] for group in optimizer.param_groups for name in group["names"]}
    assert rates["backbone.patch_embed.proj.weight"] == pytest.approx(5e-4 * 0.8**13)
    assert rates["backbone.blocks.0.attn.qkv.weight"] == pytest.approx(5e-4 * 0.8**12)
    assert rates["backbone.blocks.11.attn.qkv.weight"] == pytest.approx(5e-4 * 0.8)
    assert rates["keypoint_head.heatmap_mlp.1.weight"] == pytest.approx(5e-4)
    assert decays["backbone.blocks.11.attn.qkv.weight"] == 0.1
    assert decays["backbone.blocks.11.attn.qkv.bias"] == 0.0
    assert all(group["betas"] == (0.9, 0.999) for group in optimizer.param_groups)

    set_learning_rate(optimizer, 0.1)
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(5e-5)
    set_learning_rate(optimizer, 0.5)  # of the base rate, not of the last
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(2.5e-4)


def test_muon_is_for_the_matrices_of_blocks_alone() -> None:
    config = load_config("sharpose_tiny_coco_256x192")
    model = SHaRPose(config)
    optimizer = build_optimizer(model.named_parameters(), 8, OptimizerRecipe(kind="muon", layer_decay=0.8))
    names = [name for group in optimizer.param_groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    matrices = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
    expected = {f"backbone.blocks.{block}.{matrix}" for block in range(8) for matrix in matrices}
    assert {name for group in optimizer.param_groups if group["orthogonal"] for name in group["names"]} == expected
    rates = {name: group["base_lr"] for group in optimizer.param_groups for name in group["names"]}
    assert rates["backbone.blocks.7.attn.qkv.weight"] == pytest.approx(5e-4 * 0.8)

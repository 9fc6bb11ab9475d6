"""Layers and decays as the released code has them, Muon, and the learning rate over a run."""

import copy
import math

import pytest
import torch
from pydantic import ValidationError

from sharpose.config import load_config
from sharpose.model import SHaRPose
from sharpose.training.optimizer import (
    MuonAdamW,
    OptimizerRecipe,
    Schedule,
    build_optimizer,
    is_decayed,
    layer_of,
    orthogonalised,
    set_learning_rate,
)


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


def groups(parameters, **values):
    return [{"params": list(parameters), **values}]


def make(parameters, *, orthogonal, weight_decay=0.0):
    return MuonAdamW(
        groups(parameters, orthogonal=orthogonal, weight_decay=weight_decay), lr=0.01, betas=(0.9, 0.99), momentum=0.9
    )


def steps(optimizer, parameters, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("shape", [(2, 48, 48), (3, 32, 96), (1, 96, 32)])
def test_directions_stay_and_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = orthogonalised(matrices)
    assert found.shape == matrices.shape
    values = torch.linalg.svdvals(found)
    assert values.max() < 1.3
    # square random matrices have singular values near nothing, which five rounds can't bring up
    assert values.median() > 0.7
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.mT @ found @ right.mT
    rest = turned - torch.diag_embed(torch.diagonal(turned, dim1=1, dim2=2))
    assert rest.abs().max() < 0.02


def test_directions_in_bfloat16_differ_by_little() -> None:
    matrices = torch.randn(4, 192, 48, generator=torch.Generator().manual_seed(1))
    exact, found = orthogonalised(matrices), orthogonalised(matrices, torch.bfloat16)
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    similarity = torch.cosine_similarity(found.flatten(1), exact.flatten(1), dim=1)
    assert similarity.min() > 0.999
    values = torch.linalg.svdvals(found)
    assert 0.6 < values.min() < values.max() < 1.3


def test_the_optimizer_uses_it_where_told() -> None:
    weights = []
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(torch.ones(16, 8))
        optimizer = make([weight], orthogonal=True)
        optimizer.dtype = dtype
        steps(optimizer, [weight], 3)
        weights.append(weight.detach())
    assert not torch.equal(*weights)
    torch.testing.assert_close(*weights, atol=1e-3, rtol=0)


def test_layers_of_one_shape_keep_their_own_rates() -> None:
    generator = torch.Generator().manual_seed(4)
    gradients = [torch.randn(8, 12, generator=generator) for _ in range(2)]
    together = [torch.nn.Parameter(torch.zeros(8, 12)) for _ in range(2)]
    both = groups(together[:1], orthogonal=True) + groups(together[1:], orthogonal=True)
    both[1]["lr"] = 0.003
    for parameter, gradient in zip(together, gradients, strict=True):
        parameter.grad = gradient
    MuonAdamW(both, lr=0.01, betas=(0.9, 0.99), momentum=0.9).step()
    for parameter, gradient, rate in zip(together, gradients, (0.01, 0.003), strict=True):
        expected = -rate * 0.2 * 12**0.5 * orthogonalised(gradient[None])[0]
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-6, rtol=1e-4)


def test_nothing_becomes_nothing() -> None:
    assert torch.equal(orthogonalised(torch.zeros(1, 4, 8)), torch.zeros(1, 4, 8))


def test_groups_that_are_not_orthogonal_are_adamws() -> None:
    start = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    steps(make([ours], orthogonal=False, weight_decay=0.1), [ours], 5)
    steps(torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1), [theirs], 5)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_a_first_step_of_muon_by_hand() -> None:
    weight = torch.nn.Parameter(torch.full((4, 16), 2.0))
    weight.grad = torch.randn(4, 16, generator=torch.Generator().manual_seed(3))
    expected = 2.0 * (1 - 0.01 * 0.5) - 0.01 * 0.2 * 4.0 * orthogonalised(weight.grad[None])[0]
    make([weight], orthogonal=True, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), expected, atol=1e-6, rtol=1e-5)


def test_matrices_of_one_shape_are_learnt_as_if_alone() -> None:
    generator = torch.Generator().manual_seed(4)
    together = [torch.nn.Parameter(torch.randn(8, 12, generator=generator)) for _ in range(2)]
    gradients = [torch.randn(8, 12, generator=generator) for _ in range(2)]
    alone = copy.deepcopy(together[1])
    for parameter, gradient in zip(together, gradients, strict=True):
        parameter.grad = gradient
    alone.grad = gradients[1]
    make(together, orthogonal=True).step()
    make([alone], orthogonal=True).step()
    torch.testing.assert_close(together[1], alone, atol=1e-6, rtol=1e-5)


def test_what_has_no_gradient_is_left_alone() -> None:
    for orthogonal in (False, True):
        weight = torch.nn.Parameter(torch.ones(3, 3))
        make([weight], orthogonal=orthogonal, weight_decay=0.5).step()
        assert torch.equal(weight, torch.ones(3, 3))


@pytest.mark.parametrize("orthogonal", [False, True])
def test_going_on_from_a_state_is_going_on(orthogonal: bool) -> None:
    whole = torch.nn.Parameter(torch.ones(4, 6))
    first = make([whole], orthogonal=orthogonal)
    steps(first, [whole], 3, seed=1)
    part = torch.nn.Parameter(whole.detach().clone())
    second = make([part], orthogonal=orthogonal)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(first, [whole], 3, seed=2)
    steps(second, [part], 3, seed=2)
    assert torch.equal(whole, part)


EPOCH = 100  # steps


def test_the_released_warm_up_and_steps() -> None:
    schedule = Schedule(epochs=210)
    assert schedule.factor(0, EPOCH) == pytest.approx(0.001)
    assert schedule.factor(250, EPOCH) == pytest.approx(0.001 + 0.5 * 0.999)
    assert schedule.factor(499, EPOCH) == pytest.approx(1 - 0.999 / 500)
    assert schedule.factor(500, EPOCH) == 1.0
    assert schedule.factor(170 * EPOCH - 1, EPOCH) == 1.0
    assert schedule.factor(170 * EPOCH, EPOCH) == pytest.approx(0.1)
    assert schedule.factor(200 * EPOCH - 1, EPOCH) == pytest.approx(0.1)
    assert schedule.factor(200 * EPOCH, EPOCH) == pytest.approx(0.01)


def test_a_cosine_ends_where_it_should() -> None:
    schedule = Schedule(epochs=10, policy="cosine", warmup_steps=0, final_factor=0.1)
    assert schedule.factor(0, EPOCH) == 1.0
    assert schedule.factor(250, EPOCH) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert schedule.factor(1000, EPOCH) == pytest.approx(0.1)


def test_a_constant_rate_still_warms_up() -> None:
    schedule = Schedule(epochs=10, policy="constant", warmup_steps=10, warmup_from=0.5)
    assert [schedule.factor(step, EPOCH) for step in (0, 5, 10, 900)] == pytest.approx([0.5, 0.75, 1, 1])


def test_steps_must_rise() -> None:
    with pytest.raises(ValidationError, match="must rise"):
        Schedule(epochs=3, step_epochs=(2, 1))


def test_a_line_ends_where_it_should() -> None:
    schedule = Schedule(epochs=10, policy="linear", warmup_steps=0, final_factor=0.1)
    assert [schedule.factor(step, EPOCH) for step in (0, 250, 1000)] == pytest.approx([1.0, 0.775, 0.1])

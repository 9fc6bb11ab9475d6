"""Attention and patch embedding as matrix products, against the model's own operators."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor

from sharpose.config import ModelConfig
from sharpose.model import SHaRPose, random_model
from sharpose.model.backbone import Attention, PatchEmbed
from sharpose.training.objectives import cpu_operators
from sharpose.training.objectives.cpu_operators import attend_by_products, embed_by_product, use_cpu_operators
from sharpose.training.objectives.network import PoseNetwork


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    return list(torch.autograd.grad((output.float() * weights).sum(), inputs))


def test_attention_as_products_equals_the_fused_one_in_both_passes() -> None:
    torch.manual_seed(0)
    attention = Attention(24, 3)
    fed = [torch.randn(2, 3, 11, 8, requires_grad=True) for _ in range(3)]
    inputs: list[Tensor] = [*fed, attention.proj.weight]
    expected = attention.attend(*fed)
    found = attend_by_products(attention, *fed)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    for one, other in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    # by hand: the first query of the first head
    scores = (fed[0][0, 0, 0] * fed[1][0, 0]).sum(1) / 8**0.5
    by_hand = (scores.softmax(0)[:, None] * fed[2][0, 0]).sum(0)
    attention.proj.weight.data.copy_(torch.eye(24))
    torch.testing.assert_close(attend_by_products(attention, *fed)[0, 0, :8], by_hand + attention.proj.bias[:8])


def test_patches_as_a_product_equal_the_convolution_in_both_passes() -> None:
    torch.manual_seed(0)
    embedding = PatchEmbed(12)
    pixels = torch.randn(2, 3, 48, 32)
    assert embedding.proj.bias is not None
    inputs: list[Tensor] = [embedding.proj.weight, embedding.proj.bias]
    expected, found = embedding(pixels), embed_by_product(embedding, pixels)
    assert found.shape == (2, 6, 12)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.fixture
def images(nano_config: ModelConfig) -> Tensor:
    shape = (3, *nano_config.crop_size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def loss_and_gradients(model: SHaRPose, images: Tensor, *, bf16: bool) -> tuple[float, Tensor]:
    network = PoseNetwork(model, dense=False).train()
    with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else contextlib.nullcontext():
        output = network(images)
    assert output.fine is not None
    loss = (output.coarse.float() - 0.5).square().mean() + (output.fine.float() - 0.5).square().mean()
    loss.backward()
    found = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return loss.item(), torch.cat(found)


def test_a_step_in_bfloat16_goes_the_same_way(nano_config: ModelConfig, images: Tensor) -> None:
    """The angle to the float32 gradient is no larger than with the fused attention."""
    model = random_model(nano_config, seed=1).model
    exact_loss, exact = loss_and_gradients(model, images, bf16=False)
    model.zero_grad()
    _, fused = loss_and_gradients(model, images, bf16=True)
    model.zero_grad()
    use_cpu_operators(model)
    loss, found = loss_and_gradients(model, images, bf16=True)
    assert not torch.equal(found, fused)
    assert loss == pytest.approx(exact_loss, rel=0.01)
    angle = torch.cosine_similarity(found, exact, dim=0)
    assert angle > 0.995
    assert 1 - angle < 2 * (1 - torch.cosine_similarity(fused, exact, dim=0)) + 1e-4
    assert float(found.norm()) == pytest.approx(float(exact.norm()), rel=0.02)


def test_they_are_for_training_in_mixed_precision_alone(
    nano_config: ModelConfig, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(nano_config, seed=1).model
    with torch.no_grad():
        expected = PoseNetwork(model)(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            halves = PoseNetwork(model)(images)
    exact_loss, exact = loss_and_gradients(model, images, bf16=False)
    model.zero_grad()

    def refuse(*arguments: object) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(cpu_operators, "attend_by_products", refuse)
    monkeypatch.setattr(cpu_operators, "embed_by_product", refuse)
    use_cpu_operators(model)
    with torch.no_grad():
        assert torch.equal(PoseNetwork(model)(images).fine, expected.fine)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(PoseNetwork(model)(images).fine, halves.fine)
    loss, found = loss_and_gradients(model, images, bf16=False)
    assert loss == exact_loss
    assert torch.equal(found, exact)
    model.zero_grad()
    with pytest.raises(AssertionError):
        loss_and_gradients(model, images, bf16=True)

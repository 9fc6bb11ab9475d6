import copy

import pytest
import torch

from sharpose.training.optimizer import MuonAdamW, orthogonalised


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

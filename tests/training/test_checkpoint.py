"""Averaged weights; the checkpoints themselves are tested with whole runs in test_loop.py."""

import pytest
import torch
from torch import nn

from sharpose.training.checkpoint import WeightAverage


def test_the_average_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = WeightAverage(model, decay=0.5)
    expected = 0.0
    for step, value in enumerate((1.0, 3.0, 2.0), start=1):
        nn.init.constant_(model.weight, value)
        average.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.weights["weight"].item() == pytest.approx(expected)


def test_the_model_gets_its_own_weights_back_even_after_an_error() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, decay=0.9)
    own = torch.full((2, 2), 7.0)
    with torch.no_grad():
        model.weight.copy_(own)

    def fail() -> None:
        with average.applied_to(model):
            assert torch.equal(model.weight, average.weights["weight"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(model.weight, own)

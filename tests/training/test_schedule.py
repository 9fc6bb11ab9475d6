import math

import pytest
from pydantic import ValidationError

from sharpose.training.optimizer import Schedule

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

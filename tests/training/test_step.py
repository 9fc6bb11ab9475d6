"""Single training steps."""

from __future__ import annotations

from typing import Any

import torch

from sharpose.model import SHaRPose
from sharpose.training.distributed import Ranks
from sharpose.training.loop import _blank_batch
from sharpose.training.recipe import parse_recipe
from sharpose.training.step import Stepper, build_objective


def test_a_step_of_fp16_that_overflows_changes_nothing_and_has_no_norm(nano_values: dict[str, Any]) -> None:
    recipe = parse_recipe(nano_values | {"precision": "fp16", "optimizer": {"gradient_clip": 1.0}}, source="test")
    ranks = Ranks(0, 1, torch.device("cpu"))
    torch.manual_seed(0)
    network, objective = build_objective(recipe, SHaRPose(recipe.model), ranks.device)
    stepper = Stepper(recipe, network, objective, ranks)
    weight = network.pose.backbone.norm.weight
    before = weight.detach().clone()
    batch = _blank_batch(recipe, 2)
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    values, _ = stepper.step(iter([batch]), 1.0, 0, stop=False)
    assert torch.equal(weight, before)
    assert {"loss", "gradient_norm"} & set(values) == {"loss"}
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    values, _ = stepper.step(iter([batch]), 1.0, 0, stop=False)
    assert not torch.equal(weight, before)
    assert 0 < values["gradient_norm"] < 100

import pytest
import torch

from sharpose.config import ModelConfig
from sharpose.training.objectives.network import TrainingOutput
from sharpose.training.objectives.pose import LossRecipe, PoseObjective, heatmap_cross_entropy, heatmap_mse

CPU = torch.device("cpu")


def output(config: ModelConfig, fine: int | None) -> tuple[TrainingOutput, torch.Tensor, torch.Tensor]:
    """Four crops, and targets and weights for them."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(4, 17, *config.heatmap_size, generator=generator) for _ in range(3)]
    weights = torch.rand(4, 17, generator=generator)
    made = TrainingOutput(maps[0], None if fine is None else maps[1][:fine], torch.zeros(4), None, torch.zeros(4, 12))
    return made, maps[2], weights


@pytest.mark.parametrize("crops", [4, 1])
def test_the_fine_stage_counts_for_the_crops_it_saw(nano_config: ModelConfig, crops: int) -> None:
    found, targets, weights = output(nano_config, crops)
    recipe = LossRecipe(cross_entropy=0.1, quality_after_epoch=5)
    terms = PoseObjective(recipe, nano_config, CPU)(found, targets, weights, 0)
    first = slice(crops)
    assert found.fine is not None
    mse = heatmap_mse(found.fine, targets[first], weights[first])
    cross_entropy = heatmap_cross_entropy(found.fine, targets[first], weights[first], 10.0)
    assert float(terms["fine_mse"]) == pytest.approx(float(mse))
    assert float(terms["fine_cross_entropy"]) == pytest.approx(float(cross_entropy))
    whole = terms["coarse_mse"] + mse + 0.1 * (terms["coarse_cross_entropy"] + cross_entropy)
    assert float(terms["loss"]) == pytest.approx(float(whole))


def test_without_a_fine_stage_there_are_no_terms_of_it(nano_config: ModelConfig) -> None:
    found, targets, weights = output(nano_config, None)
    terms = PoseObjective(LossRecipe(quality_after_epoch=5), nano_config, CPU)(found, targets, weights, 0)
    assert not any(name.startswith("fine") for name in terms)
    assert float(terms["loss"]) == pytest.approx(float(terms["coarse_mse"]))

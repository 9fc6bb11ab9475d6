"""Target heatmaps against the decoder, loss values worked out by hand, and the terms' sum."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from sharpose.config import ModelConfig
from sharpose.errors import InputError
from sharpose.heatmap import decode_heatmaps
from sharpose.training.objectives.network import TrainingOutput
from sharpose.training.objectives.pose import (
    LossRecipe,
    PoseObjective,
    heatmap_cross_entropy,
    heatmap_mse,
    heatmap_targets,
    pose_oks,
    quality_mse,
)


def test_mse_is_the_mean_over_joints_of_the_weighted_mean_square() -> None:
    heatmaps, targets = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    heatmaps[0, 0, 0, 0] = 2.0  # 4 / 4 pixels = 1
    heatmaps[0, 1] = 1.0  # 1
    targets[0, 1, 0, 0] = 3.0  # (4 + 1 + 1 + 1) / 4 = 1.75
    assert heatmap_mse(heatmaps, targets, torch.ones(1, 2)).item() == pytest.approx((1 + 1.75) / 2)
    assert heatmap_mse(heatmaps, targets, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.5)
    assert heatmap_mse(heatmaps, targets, torch.tensor([[0.5, 1.0]])).item() == pytest.approx((0.5 + 1.75) / 2)


def test_the_loss_of_a_batch_is_the_mean_of_its_halves_whatever_their_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    heatmaps, targets = torch.randn(2, 4, 3, 5, 4, generator=generator)
    weights = torch.tensor([[1.0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 0, 0]])
    for loss in (heatmap_mse, partial(heatmap_cross_entropy, temperature=10.0)):
        halves = [loss(heatmaps[part], targets[part], weights[part]) for part in (slice(0, 2), slice(2, 4))]
        torch.testing.assert_close(loss(heatmaps, targets, weights), sum(halves) / 2)


def test_cross_entropy_by_hand() -> None:
    target = torch.tensor([1.0, 0.0, 0.0, 0.0]).reshape(1, 1, 2, 2)
    high = math.exp(2) / (math.exp(2) + 3)  # softmax of 2 * target
    low = 1 / (math.exp(2) + 3)
    expected = high * math.log(high / 0.25) + 3 * low * math.log(low / 0.25)  # against a flat heatmap
    found = heatmap_cross_entropy(torch.zeros(1, 1, 2, 2), target, torch.ones(1, 1), 2.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_heatmap_that_equals_its_target_but_for_a_constant_is_perfect() -> None:
    target = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(1))
    weights = torch.ones(1, 3)
    assert heatmap_cross_entropy(target + 0.7, target, weights, 10.0).item() == pytest.approx(0, abs=1e-5)
    assert heatmap_cross_entropy(2 * target, target, weights, 10.0).item() > 0.01


def one_peak(x: int, y: int) -> torch.Tensor:
    heatmap = torch.zeros(1, 1, 64, 48)
    heatmap[0, 0, y, x] = 1.0
    return heatmap


def test_oks_scales_x_by_width_and_y_by_height() -> None:
    sigmas = torch.tensor([0.1])
    crop = (256, 192)
    for found, step in ((one_peak(25, 30), 191 / 47), (one_peak(20, 35), 255 / 63)):
        oks, labelled = pose_oks(found, one_peak(20, 30), torch.ones(1, 1), sigmas, crop)
        expected = math.exp(-((5 * step) ** 2) / (2 * 256 * 192 * (2 * 0.1) ** 2))
        assert oks.item() == pytest.approx(expected, rel=1e-5)
        assert labelled.tolist() == [True]


def test_oks_counts_labelled_keypoints_only_and_a_missing_peak_as_wrong() -> None:
    found = torch.cat([one_peak(20, 30), one_peak(1, 1), -one_peak(4, 4)], dim=1)
    target = torch.cat([one_peak(20, 30), one_peak(40, 60), one_peak(0, 0)], dim=1)
    oks, labelled = pose_oks(
        found.repeat(3, 1, 1, 1),
        target.repeat(3, 1, 1, 1),
        torch.tensor([[1.0, 0, 0], [1, 0, 0.5], [0, 0, 0]]),
        torch.tensor([0.05, 0.05, 0.05]),
        (256, 192),
    )
    assert oks.tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert labelled.tolist() == [True, True, False]


def test_quality_by_hand_and_no_gradient_to_the_target() -> None:
    quality = torch.tensor([0.5, 2.0, 0.9], requires_grad=True)
    loss = quality_mse(quality, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([True, True, False]))
    assert loss.item() == pytest.approx((0.25 + 4.0) / 3)
    heatmaps = one_peak(3, 3).requires_grad_()
    oks, _ = pose_oks(heatmaps, one_peak(3, 3), torch.ones(1, 1), torch.tensor([0.1]), (256, 192))
    assert not oks.requires_grad


CPU = torch.device("cpu")


def output(config: ModelConfig, fine: int | None) -> tuple[TrainingOutput, torch.Tensor, torch.Tensor]:
    """Four crops, and targets and weights for them."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(4, 17, *config.heatmap_size, generator=generator) for _ in range(3)]
    weights = torch.rand(4, 17, generator=generator)
    fine_maps = None if fine is None else maps[1][:fine]
    made = TrainingOutput(maps[0], fine_maps, torch.zeros(4), None, torch.zeros(4, 12), torch.zeros(4, 12, 8))
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


CROP, HEATMAP = (256, 192), (64, 48)


def test_a_target_decodes_to_its_keypoint() -> None:
    rng = np.random.default_rng(0)
    keypoints = np.stack([rng.uniform(40, 150, 17), rng.uniform(40, 210, 17), np.full(17, 2.0)], axis=1)
    targets, weights = heatmap_targets(keypoints.astype(np.float32), CROP, HEATMAP)
    decoded = decode_heatmaps(targets[None], CROP)[0]
    assert weights.tolist() == [1.0] * 17
    # The cut-off of the Gaussian leaves a few hundredths of a crop pixel.
    assert np.abs(decoded[:, :2] - keypoints[:, :2]).max() < 0.1


def test_the_peak_is_one_exactly_on_a_pixel_and_corners_meet() -> None:
    corners = np.array([[0, 0, 2], [191, 255, 2]], dtype=np.float32)
    targets, _ = heatmap_targets(corners, CROP, HEATMAP)
    assert targets[0, 0, 0] == 1.0
    assert targets[1, 63, 47] == 1.0
    assert targets[0, 2, 0] == pytest.approx(np.exp(-0.5))


def test_unlabelled_and_far_keypoints_have_no_weight_and_no_mark() -> None:
    keypoints = np.array([[90, 90, 0], [-60, 90, 2], [90, 400, 2], [-10, 90, 1]], dtype=np.float32)
    targets, weights = heatmap_targets(keypoints, CROP, HEATMAP)
    assert weights.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert targets[:3].max() == 0.0
    assert 0.0 < targets[3].max() < 1.0


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match=r"expected shape \[J, 3\], got \[17, 2\]"):
        heatmap_targets(np.zeros((17, 2), np.float32), CROP, HEATMAP)
    with pytest.raises(InputError, match="sigma"):
        heatmap_targets(np.zeros((17, 3), np.float32), CROP, HEATMAP, sigma=0.0)

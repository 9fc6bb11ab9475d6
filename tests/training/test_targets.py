"""Targets against the decoder: what a model is trained towards must decode to what was labelled."""

from __future__ import annotations

import numpy as np
import pytest

from sharpose.errors import InputError
from sharpose.heatmap import decode_heatmaps
from sharpose.training.objectives.pose import heatmap_targets

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

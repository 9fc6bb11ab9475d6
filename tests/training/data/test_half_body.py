"""Half bodies: which half, how often, and the frame around it."""

from __future__ import annotations

import numpy as np
import pytest

from sharpose.skeleton import COCO17, MPII16
from sharpose.training.data.augment import half_body_frame, upper_body

POINTS = np.column_stack([np.linspace(10, 42, 17), np.linspace(5, 85, 17)]).astype(np.float32)
ALL = np.ones(17, np.bool_)


def test_the_upper_halves_are_the_datasets_own() -> None:
    assert np.flatnonzero(upper_body(COCO17)).tolist() == list(range(11))
    assert np.flatnonzero(upper_body(MPII16)).tolist() == [7, 8, 9, 10, 11, 12, 13, 14, 15]


def test_upper_comes_when_a_normal_number_is_below_one_half() -> None:
    rng = np.random.default_rng(0)
    frames = [half_body_frame(POINTS, ALL, COCO17, 0.75, rng) for _ in range(2000)]
    tops = [frame.center[1] < 45 for frame in frames if frame is not None]
    assert len(tops) == 2000
    assert np.mean(tops) == pytest.approx(0.6915, abs=0.03)


def test_the_frame_is_centred_on_the_mean_and_grown_by_half() -> None:
    upper = np.zeros(17, np.bool_)
    upper[[0, 5, 10]] = True
    frame = half_body_frame(POINTS, upper, COCO17, 0.75, np.random.default_rng(0))
    assert frame is not None
    assert frame.center == pytest.approx([20.0, 30.0])  # points at x 10, 20, 30 and y 5, 30, 55
    assert frame.size == pytest.approx([50 * 0.75 * 1.5, 50 * 1.5])


def test_too_few_keypoints_make_no_frame() -> None:
    one = np.zeros(17, np.bool_)
    one[0] = True
    assert half_body_frame(POINTS, one, COCO17, 0.75, np.random.default_rng(0)) is None


def test_a_half_of_two_gives_way_to_the_other() -> None:
    mostly_lower = np.zeros(17, np.bool_)
    mostly_lower[[0, 1, 11, 13, 15]] = True
    for seed in range(20):
        frame = half_body_frame(POINTS, mostly_lower, COCO17, 0.75, np.random.default_rng(seed))
        assert frame is not None
        assert frame.center[1] == pytest.approx(POINTS[[11, 13, 15], 1].mean())

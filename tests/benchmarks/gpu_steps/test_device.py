"""The distance of poses that the steps judge by."""

from __future__ import annotations

import math

import numpy as np
from gpu_steps.device import distance


def test_one_wrong_row_is_seen_and_so_is_nan() -> None:
    rng = np.random.default_rng(0)
    coarse, fine = rng.uniform(0, 200, (2, 8, 17, 3)).astype(np.float32)
    assert distance((coarse, fine), (coarse.copy(), fine.copy())) == 0
    swapped = coarse.copy()
    swapped[[2, 3]] = coarse[[3, 2]]
    assert distance((coarse, fine), (swapped, fine)) > 10
    empty = fine.copy()
    empty[7] = 0
    assert distance((coarse, fine), (coarse, empty)) > 10
    assert math.isnan(distance((coarse, fine), (coarse, np.full_like(fine, np.nan))))
    jump = fine.copy()
    jump[0, :3] += 50  # a few keypoints of a person that rounding moves elsewhere
    assert distance((coarse, fine), (coarse, jump)) == 0

"""Mixtures: shares, rotation through large parts, repetition of small ones."""

from __future__ import annotations

import numpy as np
import pytest

from sharpose.errors import InputError
from sharpose.skeleton import COCO17, MPII16, Skeleton
from sharpose.training.data.mixed import MixedDataset
from sharpose.training.data.sample import Sample


class Numbered:
    """A dataset whose people are numbers."""

    def __init__(self, name: str, length: int, skeleton: Skeleton = COCO17) -> None:
        self.name, self.skeleton, self._length = name, skeleton, length

    def __len__(self) -> int:
        return self._length

    def load(self, index: int, epoch: int = 0) -> Sample:
        joints = self.skeleton.num_keypoints
        points, weights = np.zeros((joints, 3), np.float32), np.zeros(joints, np.float32)
        return Sample(np.zeros((2, 2, 3), np.uint8), np.zeros(4, np.float32), points, weights, 1.0, index, epoch, "")


def test_shares_and_rotation() -> None:
    mixed = MixedDataset([(Numbered("small", 4), 3), (Numbered("large", 100), 1)], length=40)
    assert len(mixed) == 40
    assert mixed.counts == (30, 10)
    assert mixed.name == "small+large"
    drawn = [mixed.part_of(index) for index in range(40)]
    small = [number for part, number in drawn if part == 0]
    assert sorted(set(small)) == [0, 1, 2, 3]
    assert {small.count(number) for number in range(4)} == {7, 8}
    large = [mixed.part_of(index, epoch)[1] for epoch in range(10) for index in range(30, 40)]
    assert sorted(large) == list(range(100))  # ten epochs of ten: everybody once
    assert large != sorted(large)


def test_load_asks_the_part() -> None:
    mixed = MixedDataset([(Numbered("a", 5), 1), (Numbered("b", 5), 1)])
    part, number = mixed.part_of(7, epoch=2)
    assert part == 1
    assert (mixed.load(7, 2).image_id, mixed.load(7, 2).annotation_id) == (number, 2)


def test_bad_mixtures_are_refused() -> None:
    with pytest.raises(InputError, match="one skeleton, got coco17 and mpii16"):
        MixedDataset([(Numbered("a", 5), 1), (Numbered("b", 5, MPII16), 1)])
    for parts in ([], [(Numbered("a", 5), 0.0)], [(Numbered("a", 5), float("nan"))]):
        with pytest.raises(InputError, match="weights above 0"):
            MixedDataset(parts)
    with pytest.raises(InputError, match="leaves none"):
        MixedDataset([(Numbered("a", 5), 1000), (Numbered("b", 5), 1)], length=10)

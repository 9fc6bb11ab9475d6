"""Mixtures: shares, rotation through large parts, repetition of small ones."""

from __future__ import annotations

import numpy as np
import pytest

from sharpose.errors import InputError
from sharpose.skeleton import COCO17, MPII16, Skeleton
from sharpose.training.data.mixed import CachedDataset, MixedDataset, SampleCache
from sharpose.training.data.sample import Sample
from sharpose.training.data.scene import SceneDataset


class Numbered:
    """A dataset whose people are numbers."""

    def __init__(self, name: str, length: int, skeleton: Skeleton = COCO17) -> None:
        self.name, self.skeleton, self._length = name, skeleton, length

    def __len__(self) -> int:
        return self._length

    def load(self, index: int, epoch: int = 0) -> Sample:
        joints = self.skeleton.num_keypoints
        points, weights = np.zeros((joints, 3), np.float32), np.zeros(joints, np.float32)
        return Sample(np.zeros((2, 2, 3), np.uint8), np.zeros(4, np.float32), points, weights, index, epoch, "")


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


class Counting:
    """A dataset that counts what it is asked for."""

    def __init__(self) -> None:
        self.dataset = SceneDataset(seed=3, length=4, repeat=True)
        self.name, self.skeleton = self.dataset.name, self.dataset.skeleton
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.dataset)

    def load(self, index: int, epoch: int = 0):
        self.asked.append(index)
        return self.dataset.load(index, epoch)


def test_a_sample_is_made_once() -> None:
    inner = Counting()
    cached = CachedDataset(inner, SampleCache(1 << 30))
    assert (len(cached), cached.name, cached.skeleton) == (4, "scene", inner.skeleton)
    first = [cached.load(index) for index in range(4)]
    again = [cached.load(index, epoch=1) for index in range(4)]
    assert inner.asked == [0, 1, 2, 3]
    assert all(np.array_equal(one.image_bgr, other.image_bgr) for one, other in zip(first, again, strict=True))


def test_room_is_shared_and_what_finds_none_is_made_again() -> None:
    inner = Counting()
    sizes = [inner.dataset.load(index).image_bgr.nbytes for index in range(4)]
    cache = SampleCache(sum(sizes[:2]))
    one, other = CachedDataset(inner, cache), CachedDataset(inner, cache)
    for _ in range(2):
        one.load(0)
        other.load(1)
        one.load(2)
    assert cache.used == sum(sizes[:2])
    assert inner.asked == [0, 1, 2, 2]

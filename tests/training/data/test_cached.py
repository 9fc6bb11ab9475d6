import numpy as np

from sharpose.training.data.mixed import CachedDataset, SampleCache
from sharpose.training.data.scene import SceneDataset


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

"""Samples kept in memory, for data that are slow to decode or to draw and small enough."""

from __future__ import annotations

from sharpose.training.data.dataset import PoseDataset
from sharpose.training.data.sample import Sample

__all__ = ["CachedDataset", "SampleCache"]


class SampleCache:
    """How much several datasets may keep together, in one process.

    Args:
        limit: Bytes of pictures.

    Attributes:
        used: Bytes kept so far.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> bool:
        """Whether there is room for `size` bytes more; if so, they are taken."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True


class CachedDataset:
    """A dataset that gives the same samples in every epoch, and remembers them while there is room.

    Args:
        dataset: Of which.
        cache: The room. Loader workers are processes, and each has its own.
    """

    def __init__(self, dataset: PoseDataset, cache: SampleCache) -> None:
        self.name = dataset.name
        self.skeleton = dataset.skeleton
        self._dataset = dataset
        self._cache = cache
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def load(self, index: int, epoch: int = 0) -> Sample:
        """See `PoseDataset.load`."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        sample = self._dataset.load(index, epoch)
        if self._cache.take(sample.image_bgr.nbytes):
            self._kept[index] = sample
        return sample

"""Datasets made of datasets: mixed by weight, kept in memory, or some of their people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sharpose.errors import InputError
from sharpose.training.data.sample import PoseDataset, Sample


class Subset:
    """The people of a dataset at some indices, in that order."""

    def __init__(self, dataset: PoseDataset, indices: Sequence[int]) -> None:
        self.name = dataset.name
        self.skeleton = dataset.skeleton
        self._dataset = dataset
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def load(self, index: int, epoch: int = 0) -> Sample:
        """See `PoseDataset.load`."""
        return self._dataset.load(self._indices[index], epoch)


class SampleCache:
    """Memory that several datasets of one process share: `used` of `limit` bytes of pictures."""

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
    """A dataset that gives the same samples in every epoch, and keeps them while `cache` has room.

    Loader workers are processes, and each has its own cache.
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


class MixedDataset:
    """Several datasets, each with its share of every epoch.

    A dataset with fewer people than its share is repeated; of one with more, each epoch takes others, in a shuffled
    order that goes through all of them before any comes again.

    Args:
        parts: Datasets of one skeleton, and how much of an epoch each is (any positive unit).
        length: People in an epoch; as many as all datasets have together if None.
        seed: Seed of the order in which a dataset's people come.

    Raises:
        InputError: no parts, a weight that isn't positive, different skeletons, or an epoch too short for a part.
    """

    def __init__(self, parts: Sequence[tuple[PoseDataset, float]], *, length: int | None = None, seed: int = 0) -> None:
        if not parts or any(not weight > 0 or weight == float("inf") for _, weight in parts):
            raise InputError(f"mixed dataset: expected weights above 0, got {[weight for _, weight in parts]}")
        self.skeleton = parts[0][0].skeleton
        for dataset, _ in parts:
            if dataset.skeleton != self.skeleton:
                raise InputError(
                    f"mixed dataset: expected one skeleton, got {self.skeleton.name} and {dataset.skeleton.name}"
                )
        self.name = "+".join(dataset.name for dataset, _ in parts)
        self.parts = tuple(dataset for dataset, _ in parts)
        self._seed = seed
        total = sum(len(dataset) for dataset in self.parts) if length is None else length
        shares = np.cumsum([weight for _, weight in parts])
        self._ends = [round(total * share / shares[-1]) for share in shares]
        self.counts = tuple(np.diff([0, *self._ends]).tolist())
        if min(self.counts) < 1:
            raise InputError(f"mixed dataset: an epoch of {total} leaves none for a part: {list(self.counts)}")

    def __len__(self) -> int:
        return self._ends[-1]

    def part_of(self, index: int, epoch: int = 0) -> tuple[int, int]:
        """Numbers of the part, and of the person in it, at `index` of an epoch."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} of {len(self)}")
        part = int(np.searchsorted(self._ends, index, side="right"))
        start = self._ends[part] - self.counts[part]
        turn, place = divmod(epoch * self.counts[part] + index - start, len(self.parts[part]))
        order = np.random.default_rng([self._seed, part, turn]).permutation(len(self.parts[part]))
        return part, int(order[place])

    def load(self, index: int, epoch: int = 0) -> Sample:
        """See `PoseDataset.load`."""
        part, chosen = self.part_of(index, epoch)
        # An endless part must not repeat itself: its picture depends on the epoch too.
        return self.parts[part].load(chosen, epoch)

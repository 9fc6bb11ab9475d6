"""Making one batch: a function of the seed, the epoch and the batch's number alone, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from sharpose.errors import SourceError
from sharpose.training.data.augment import AugmentSpec, CropSample, make_crop
from sharpose.training.data.batch import Batch
from sharpose.training.data.dataset import PoseDataset, UndecodableImageError
from sharpose.training.data.sample import Sample
from sharpose.training.targets import heatmap_targets

__all__ = ["BatchMaker", "BatchPlace", "MadeBatch"]

_SHUFFLE, _AUGMENT = 1, 2  # two streams of chance
_SUBSTITUTES = 100  # pictures tried in place of one that can't be decoded


@dataclass(frozen=True)
class BatchPlace:
    """Which batch: `epoch`, and the `[start, stop)` positions of its people in that epoch's order."""

    epoch: int
    start: int
    stop: int


@dataclass(frozen=True)
class MadeBatch:
    """A batch, and what went wrong on the way: one message for every picture that could not be decoded."""

    batch: Batch
    undecodable: tuple[str, ...]


@dataclass(frozen=True)
class BatchMaker:
    """Everything that batches are made of; goes to worker processes. See `CropLoader` for the fields."""

    dataset: PoseDataset
    spec: AugmentSpec
    crop_size: tuple[int, int]
    heatmap_size: tuple[int, int] | None
    sigma: float
    seed: int
    shuffle: bool

    def order(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The epoch's order: int64 [len(dataset)]."""
        people = np.arange(len(self.dataset), dtype=np.int64)
        return np.random.default_rng([self.seed, _SHUFFLE, epoch]).permutation(people) if self.shuffle else people

    def make(self, place: BatchPlace) -> MadeBatch:
        """Load, augment and stack.

        Raises:
            SourceError: too many pictures in a row can't be decoded.
        """
        order = self.order(place.epoch)
        failures: list[str] = []
        samples, crops = [], []
        for position in range(place.start, place.stop):
            sample = self._load(order, position, place.epoch, failures)
            rng = np.random.default_rng([self.seed, _AUGMENT, place.epoch, position])
            samples.append(sample)
            crops.append(make_crop(sample, self.spec, self.crop_size, self.dataset.skeleton, rng))
        return MadeBatch(self._stack(samples, crops), tuple(failures))

    def _load(
        self, order: np.ndarray[tuple[int], np.dtype[np.int64]], position: int, epoch: int, failures: list[str]
    ) -> Sample:
        """The sample of a position; where its picture can't be decoded, the next in the dataset that can."""
        first = int(order[position])
        for step in range(min(_SUBSTITUTES, len(self.dataset))):
            try:
                return self.dataset.load((first + step) % len(self.dataset), epoch)
            except UndecodableImageError as error:
                failures.append(str(error))
        raise SourceError(f"{self.dataset.name}: {len(failures)} pictures in a row can't be used: {failures[-1]}")

    def _stack(self, samples: list[Sample], crops: list[CropSample]) -> Batch:
        keypoints = np.stack([crop.keypoints for crop in crops])
        weights = np.stack([crop.weights for crop in crops])
        targets = np.zeros((*keypoints.shape[:2], 0, 0), np.float32)
        if self.heatmap_size is not None:
            made = [heatmap_targets(points, self.crop_size, self.heatmap_size, self.sigma) for points in keypoints]
            targets = np.stack([heatmaps for heatmaps, _ in made])
            weights = weights * np.stack([inside for _, inside in made])
        return Batch(
            images=torch.from_numpy(np.stack([crop.crop for crop in crops])),
            targets=torch.from_numpy(targets),
            weights=torch.from_numpy(weights),
            keypoints=torch.from_numpy(keypoints),
            areas=torch.tensor([crop.area for crop in crops], dtype=torch.float32),
            image_ids=torch.tensor([sample.image_id for sample in samples], dtype=torch.int64),
            annotation_ids=torch.tensor([sample.annotation_id for sample in samples], dtype=torch.int64),
        )


def start_worker(worker: int) -> None:
    """What a worker process does first: one thread each, the processes are the parallelism."""
    cv2.setNumThreads(0)

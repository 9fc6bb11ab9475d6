"""Batches of crops in a seeded order: the same for any number of workers and ranks, and exactly resumable."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sharpose.cli import EXIT_CODES
from sharpose.errors import InputError, SharposeError, SourceError, TrainingError, counted, one_line
from sharpose.training.data.augment import AugmentSpec, CropSample, PixelChange, make_crop
from sharpose.training.data.sample import PoseDataset, Sample, UndecodableImageError
from sharpose.training.objectives.pose import DEFAULT_SIGMA, heatmap_targets


@dataclass(frozen=True)
class Batch:
    """B crops."""

    images: Tensor  # uint8 [B, H, W, 3], RGB
    targets: Tensor  # float32 [B, J, h, w], heatmaps; [B, J, 0, 0] where the loader was asked for none
    weights: Tensor  # float32 [B, J], trust in a label; 0 where there is none or its target lies outside the heatmap
    keypoints: Tensor  # float32 [B, J, 3], `x, y` in crop pixels and COCO visibility
    image_ids: Tensor  # int64 [B]
    annotation_ids: Tensor  # int64 [B]
    change: PixelChange | None = None  # what the network is to change of the images; None where augmentation has none

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """A copy on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, for fast copies to a GPU."""
        return self._each(Tensor.pin_memory)

    def _each(self, copied: Callable[[Tensor], Tensor]) -> Batch:
        values = {name: copied(value) for name, value in vars(self).items() if name != "change"}
        change = None if self.change is None else PixelChange(*map(copied, self.change))
        return replace(self, **values, change=change)


_SHUFFLE, _AUGMENT = 1, 2  # two streams of random numbers
_SUBSTITUTES = 100  # pictures tried in place of one that can't be decoded


@dataclass(frozen=True)
class _Place:
    """Place of a batch: `epoch`, and the `[start, stop)` positions of its people in that epoch's order."""

    epoch: int
    start: int
    stop: int


@dataclass(frozen=True)
class _Made:
    """A batch, None where nobody is left in it, and a message for every picture that could not be decoded."""

    batch: Batch | None
    undecodable: tuple[str, ...]


@dataclass(frozen=True)
class _BatchMaker(Dataset["_Made | SharposeError"]):
    """All that batches are made of; goes to worker processes, which ask it for places. Fields as in `CropLoader`."""

    dataset: PoseDataset
    spec: AugmentSpec
    crop_size: tuple[int, int]
    heatmap_size: tuple[int, int] | None
    sigma: float
    seed: int
    shuffle: bool
    substitute: bool

    def __getitem__(self, place: _Place) -> _Made | SharposeError:
        """Load, augment and stack. Errors come back as values: PyTorch would wrap their message."""
        order = np.arange(len(self.dataset), dtype=np.int64)
        if self.shuffle:
            order = np.random.default_rng([self.seed, _SHUFFLE, place.epoch]).permutation(order)
        failures: list[str] = []
        samples, crops = [], []
        try:
            for position in range(place.start, place.stop):
                sample = self._load(int(order[position]), place.epoch, failures)
                if sample is None:
                    continue
                rng = np.random.default_rng([self.seed, _AUGMENT, place.epoch, position])
                samples.append(sample)
                crops.append(make_crop(sample, self.spec, self.crop_size, self.dataset.skeleton, rng))
            return _Made(self._stack(samples, crops) if samples else None, tuple(failures))
        except SharposeError as error:
            return error

    def _load(self, first: int, epoch: int, failures: list[str]) -> Sample | None:
        """Person `first`; where the picture can't be decoded, the next one whose can be, or None without substitutes.

        Adds a message to `failures` for each picture that can't be decoded.
        """
        for step in range(min(_SUBSTITUTES, len(self.dataset)) if self.substitute else 1):
            try:
                return self.dataset.load((first + step) % len(self.dataset), epoch)
            except UndecodableImageError as error:
                failures.append(str(error))
        if not self.substitute:
            return None
        raise SourceError(
            f"{self.dataset.name}: {counted(len(failures), 'picture')} in a row can't be used: {failures[-1]}"
        )

    def _stack(self, samples: list[Sample], crops: list[CropSample]) -> Batch:
        keypoints = np.stack([crop.keypoints for crop in crops])
        weights = np.stack([crop.weights for crop in crops])
        targets = np.zeros((*keypoints.shape[:2], 0, 0), np.float32)
        if self.heatmap_size is not None:
            made = [heatmap_targets(points, self.crop_size, self.heatmap_size, self.sigma) for points in keypoints]
            targets = np.stack([heatmaps for heatmaps, _ in made])
            weights = weights * np.stack([inside for _, inside in made])
        changes = [crop.change for crop in crops if crop.change is not None]
        return Batch(
            images=torch.from_numpy(np.stack([crop.crop for crop in crops])),
            targets=torch.from_numpy(targets),
            weights=torch.from_numpy(weights),
            keypoints=torch.from_numpy(keypoints),
            image_ids=torch.tensor([sample.image_id for sample in samples], dtype=torch.int64),
            annotation_ids=torch.tensor([sample.annotation_id for sample in samples], dtype=torch.int64),
            change=PixelChange(*map(torch.cat, zip(*changes, strict=True))) if changes else None,
        )


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # the worker processes are the parallelism
    # Signals come to the whole process group (`timeout`, Slurm, systemd, Ctrl-C). The command that trains decides what
    # they mean: it finishes its step, which may need a batch from here, and then ends the workers.
    for number in EXIT_CODES:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if sys.platform == "linux" and parent is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
        threading.Thread(target=_end_when_told, args=(parent.pid,), name="signals", daemon=True).start()


def _started(loader: DataLoader[_Made | SharposeError]) -> Iterator[_Made | SharposeError]:
    """Begin a pass; processes that it starts have SIGTERM blocked in all threads, and don't free what they inherit.

    Some libraries (gRPC, PyTorch's own pool) start threads in a forked process at once, and a signal that its main
    thread blocks would go to those. A SIGTERM to this process is delivered once the others have started.

    A session of ONNX Runtime that is garbage here would be collected there as well, and waits for its threads, which a
    forked process doesn't have.
    """
    if sys.platform == "linux":
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
        gc.freeze()  # a forked process never collects what is here now
        try:
            return iter(loader)
        finally:
            gc.unfreeze()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        return iter(loader)


def _end_when_told(parent: int | None) -> None:
    """Wait for SIGTERM from the process that started this one, as PyTorch and Python end workers; others' is ignored.

    macOS doesn't say who sent a signal, so SIGTERM to the group ends workers there.
    """
    if sys.platform == "linux":
        while signal.sigwaitinfo((signal.SIGTERM,)).si_pid != parent:
            pass
        os._exit(0)


_STATE_KEYS = ("seed", "people", "global_batch", "epoch", "batch")


class CropLoader:
    """Batches of crops: iterating gives the rest of the current epoch, iterating again the next one.

    All random numbers come from `(seed, epoch, position in the epoch)`. Ranks share every global batch of
    `batch_size * world_size` people, rank by rank, so that together they see what one process with that batch sees.

    Args:
        dataset: The people.
        spec: The augmentation.
        crop_size: `(height, width)`.
        heatmap_size: `(h, w)` of targets; None makes none.
        sigma: Standard deviation of the targets in heatmap pixels.
        batch_size: People in a batch of one rank.
        seed: Seed of order and augmentation; 0 or more.
        workers: Processes that make batches; 0 makes them in this one.
        rank: Number of this share of every global batch.
        world_size: Number of shares.
        shuffle: Whether every epoch has another order; else the dataset's own.
        drop_last: Whether to leave out a last batch that isn't full; needed with more than one rank.
        substitute: Whether another person takes the place of one whose picture can't be decoded; else the batch has
            fewer people, and one without anybody isn't yielded. For measuring, which is to be of the same people.
        max_undecodable: Different pictures that may fail to decode before it stops.
        pin_memory: Put batches into page-locked memory.

    Raises:
        InputError: an argument is out of range, or there are fewer people than a global batch.
    """

    def __init__(
        self,
        dataset: PoseDataset,
        spec: AugmentSpec,
        crop_size: tuple[int, int],
        heatmap_size: tuple[int, int] | None,
        sigma: float = DEFAULT_SIGMA,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
        substitute: bool = True,
        max_undecodable: int = 10,
        pin_memory: bool = False,
    ) -> None:
        if batch_size < 1 or seed < 0 or workers < 0 or not 0 <= rank < world_size:
            raise InputError(
                "loader: expected batch_size >= 1, seed >= 0, workers >= 0 and rank in [0, world_size), got "
                f"{batch_size}, {seed}, {workers}, {rank} of {world_size}"
            )
        if world_size > 1 and not drop_last:
            raise InputError("loader: several ranks need drop_last: a last batch can't be shared evenly")
        self._global_batch = batch_size * world_size
        if not len(dataset) or (drop_last and len(dataset) < self._global_batch):
            raise InputError(
                f"loader: {dataset.name} has {counted(len(dataset), 'person')}, fewer than a batch of "
                f"{self._global_batch}"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.max_undecodable = max_undecodable
        self.undecodable: dict[str, int] = {}  # number of times that each picture failed to decode, by message
        self._maker = _BatchMaker(dataset, spec, crop_size, heatmap_size, sigma, seed, shuffle, substitute)
        full, rest = divmod(len(dataset), self._global_batch)
        batches = full + (1 if rest and not drop_last else 0)
        self._plan = _Plan(len(dataset), batches, self._global_batch, rank * batch_size, batch_size)
        self._workers = workers
        self._loader: DataLoader[_Made | SharposeError] | None = None
        self._pin_memory = pin_memory

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        """The remaining batches of the current epoch.

        Raises:
            SourceError: too many pictures can't be decoded.
            TrainingError: a worker process was killed.
        """
        if self._loader is None:
            # The plan doesn't refer back to this object: inside a reference cycle, PyTorch's workers end slowly.
            self._loader = DataLoader(
                self._maker,
                batch_size=None,
                sampler=self._plan,
                num_workers=self._workers,
                worker_init_fn=_start_worker,
                persistent_workers=self._workers > 0,
                generator=torch.Generator(),  # else every pass draws from the global one, which a resumed run must keep
            )
        try:
            for made in _started(self._loader):
                if isinstance(made, SharposeError):
                    raise made
                self._count(made)
                self._plan.advance()
                if made.batch is not None:
                    yield made.batch.pin_memory() if self._pin_memory else made.batch
        except GeneratorExit:  # the caller stops here, and may go on later
            raise
        except BaseException as error:
            self.close()  # a traceback may hold the workers in a reference cycle, too
            if isinstance(error, EOFError | ConnectionError) or str(error).startswith("DataLoader worker"):
                raise TrainingError(
                    f"a process that loads pictures was killed ({one_line(error)}); if memory ran out, take fewer "
                    "`workers` or a smaller `data.cache_mib`"
                ) from error
            raise

    def close(self) -> None:
        """End the worker processes. May be called twice; iterating again starts new ones."""
        self._loader = None

    def state(self) -> dict[str, int]:
        """The position after the last batch that was yielded. Plain numbers, the same on every rank."""
        values = (self._maker.seed, len(self.dataset), self._global_batch, self._plan.epoch, self._plan.batch)
        return dict(zip(_STATE_KEYS, values, strict=True))

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state()`; not while iterating.

        Raises `InputError` where it is of another seed, dataset or global batch, or not a state.
        """
        own = self.state()
        if set(state) != set(own) or any(not isinstance(value, int) for value in state.values()):
            raise InputError(f"loader state: expected whole numbers for {list(own)}, got {dict(state)}")
        for key in _STATE_KEYS[:3]:
            if state[key] != own[key]:
                raise InputError(f"loader state: it was saved with {key} {state[key]}, this loader has {own[key]}")
        if state["epoch"] < 0 or not 0 <= state["batch"] < len(self):
            raise InputError(f"loader state: no epoch {state['epoch']}, batch {state['batch']} of {len(self)}")
        self._plan.epoch, self._plan.batch = state["epoch"], state["batch"]

    def _count(self, made: _Made) -> None:
        for message in made.undecodable:
            self.undecodable[message] = self.undecodable.get(message, 0) + 1
        if len(self.undecodable) > self.max_undecodable:
            raise SourceError(
                f"{self.dataset.name}: {counted(len(self.undecodable), 'picture')} can't be decoded, more than the "
                f"{self.max_undecodable} allowed; the last: {list(self.undecodable)[-1]}"
            )


@dataclass(eq=False)
class _Plan(Sampler[_Place]):
    """The loader's position, and the places of the epoch's remaining batches."""

    people: int
    batches: int
    global_batch: int
    offset: int
    size: int
    epoch: int = 0
    batch: int = 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[_Place]:
        epoch = self.epoch  # workers are ahead of what was yielded
        for number in range(self.batch, self.batches):
            start = number * self.global_batch + self.offset
            yield _Place(epoch, start, min(start + self.size, self.people))

    def advance(self) -> None:
        """Count a batch that was yielded."""
        self.batch += 1
        if self.batch == self.batches:
            self.epoch, self.batch = self.epoch + 1, 0

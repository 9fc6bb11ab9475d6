"""Batches of crops in a seeded order: the same whatever the number of workers or ranks, and resumable exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from sharpose.errors import InputError, SharposeError, SourceError
from sharpose.training.data.augment import AugmentSpec
from sharpose.training.data.batch import Batch
from sharpose.training.data.dataset import PoseDataset
from sharpose.training.data.making import BatchMaker, BatchPlace, MadeBatch, start_worker
from sharpose.training.targets import DEFAULT_SIGMA

__all__ = ["CropLoader"]

_STATE_KEYS = ("seed", "people", "global_batch", "epoch", "batch")


class CropLoader:
    """Iterating gives the rest of the current epoch; iterating again gives the next one.

    All chance comes from `(seed, epoch, position in the epoch)`. Ranks share every global batch of
    `batch_size * world_size` people, rank by rank, so that together they see what one process with that batch sees.

    Args:
        dataset: The people.
        spec: How crops vary.
        crop_size: `(height, width)`.
        heatmap_size: `(h, w)` of targets; None makes none (where they are made on the GPU).
        sigma: Of the targets, in heatmap pixels.
        batch_size: People in a batch of one rank.
        seed: Of order and augmentation; 0 or more.
        workers: Processes that make batches; 0 makes them here.
        rank: Which share of every global batch.
        world_size: How many shares.
        shuffle: Another order every epoch; else the dataset's own.
        drop_last: Leave out the batch that isn't full; needed where there is more than one rank.
        max_undecodable: So many different pictures may fail to decode (others take their places) before it stops.
        pin_memory: Put batches into page-locked memory.

    Attributes:
        undecodable: How often each picture failed to decode, by message.

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
                f"loader: {dataset.name} has {len(dataset)} people, fewer than a batch of {self._global_batch}"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.max_undecodable = max_undecodable
        self.undecodable: dict[str, int] = {}
        self._maker = BatchMaker(dataset, spec, crop_size, heatmap_size, sigma, seed, shuffle)
        full, rest = divmod(len(dataset), self._global_batch)
        batches = full + (1 if rest and not drop_last else 0)
        self._plan = _Plan(len(dataset), batches, self._global_batch, rank * batch_size, batch_size)
        self._workers = workers
        self._loader: DataLoader[MadeBatch | SharposeError] | None = None
        self._pin_memory = pin_memory

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._plan)

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, from 0."""
        return self._plan.epoch

    @property
    def batch(self) -> int:
        """The next batch's number in its epoch, from 0."""
        return self._plan.batch

    def __iter__(self) -> Iterator[Batch]:
        """What is left of the current epoch.

        Raises:
            SourceError: too many pictures can't be decoded; the last is named.
        """
        if self._loader is None:
            # The plan doesn't refer back to this object: inside a reference cycle, PyTorch's workers end slowly.
            self._loader = DataLoader(
                _Batches(self._maker),
                batch_size=None,
                sampler=self._plan,
                num_workers=self._workers,
                collate_fn=_unchanged,
                worker_init_fn=start_worker,
                persistent_workers=self._workers > 0,
            )
        try:
            for made in self._loader:
                if isinstance(made, SharposeError):
                    raise made
                self._count(made)
                self._plan.advance()
                yield made.batch.pin_memory() if self._pin_memory else made.batch
        except GeneratorExit:  # the caller stops here, and may go on later
            raise
        except BaseException:
            self.close()  # a traceback may hold the workers in a reference cycle, too
            raise

    def close(self) -> None:
        """End the worker processes, at once. May be called twice; iterating again starts new ones."""
        self._loader = None

    def state(self) -> dict[str, int]:
        """Where the loader stands: the batches that were handed out are done. Plain numbers, the same on every rank."""
        values = (self._maker.seed, len(self.dataset), self._global_batch, self.epoch, self.batch)
        return dict(zip(_STATE_KEYS, values, strict=True))

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state()` was taken; not while iterating.

        Raises:
            InputError: the state is of another seed, dataset or global batch, or not a state.
        """
        own = self.state()
        if set(state) != set(own) or any(not isinstance(value, int) for value in state.values()):
            raise InputError(f"loader state: expected whole numbers for {list(own)}, got {dict(state)}")
        for key in _STATE_KEYS[:3]:
            if state[key] != own[key]:
                raise InputError(f"loader state: it was saved with {key} {state[key]}, this loader has {own[key]}")
        if state["epoch"] < 0 or not 0 <= state["batch"] < len(self):
            raise InputError(f"loader state: epoch {state['epoch']}, batch {state['batch']} of {len(self)} is nowhere")
        self._plan.epoch, self._plan.batch = state["epoch"], state["batch"]

    def _count(self, made: MadeBatch) -> None:
        for message in made.undecodable:
            self.undecodable[message] = self.undecodable.get(message, 0) + 1
        if len(self.undecodable) > self.max_undecodable:
            raise SourceError(
                f"{self.dataset.name}: {len(self.undecodable)} pictures can't be decoded, more than the "
                f"{self.max_undecodable} allowed; the last: {list(self.undecodable)[-1]}"
            )


class _Batches(Dataset["MadeBatch | SharposeError"]):
    """What a worker holds: an "index" is a place. Errors come back as values: PyTorch would wrap their message."""

    def __init__(self, maker: BatchMaker) -> None:
        self._maker = maker

    def __getitem__(self, place: BatchPlace) -> MadeBatch | SharposeError:
        try:
            return self._maker.make(place)
        except SharposeError as error:
            return error


class _Plan(Sampler[BatchPlace]):
    """Where the loader stands, and the places that it asks its workers for."""

    def __init__(self, people: int, batches: int, global_batch: int, offset: int, size: int) -> None:
        self.epoch = 0
        self.batch = 0
        self._people = people
        self._batches = batches
        self._global_batch = global_batch
        self._offset = offset
        self._size = size

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[BatchPlace]:
        """The remaining batches of the current epoch."""
        epoch = self.epoch  # workers ask ahead of what was handed out
        for number in range(self.batch, self._batches):
            start = number * self._global_batch + self._offset
            yield BatchPlace(epoch, start, min(start + self._size, self._people))

    def advance(self) -> None:
        """A batch was handed out."""
        self.batch += 1
        if self.batch == self._batches:
            self.epoch, self.batch = self.epoch + 1, 0


def _unchanged(made: Any) -> Any:  # noqa: ANN401 - as PyTorch's types want it
    return made

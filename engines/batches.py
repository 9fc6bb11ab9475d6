"""Batches: the sizes that a stage computes, what each was measured to cost, and what a number of people is cut into."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from sharpose.bundle import Bundle
from sharpose.engines.device import processor_name, usable_cores
from sharpose.errors import EngineError
from sharpose.file_locks import file_lock
from sharpose.files import cache_folder, found_at, read_json, replacing

_MEASURING_SECONDS = 1.0  # sizes that would take longer in all aren't measured, nor used where batches are cut
_REPEATS = 3  # the shortest counts: whatever else runs only adds


class BatchBuckets:
    """Batch sizes that a stage computes, and what they were measured to cost.

    Smaller batches are padded: 1, 2, 3, 4, 6, 8, 12, 16, 24 … max, so that at most half as much again is computed in
    vain. With `exact`, every size from `smallest` on is its own bucket; where batches are computed in several parts at
    once, only multiples of their number are, and what is smaller, for the others take as long as the next multiple.

    Args:
        smallest: The smallest size.
        largest: The largest size.
        exact: Whether nothing but the smallest size is padded to.
        divisible: Whether a run of the stage may be cut into several batches.
        parts: Parts of a batch that are computed at once (`Runner.parts`); with `exact`.

    Attributes:
        sizes: Ascending.
        seconds: Measured, by size; empty while nothing is known.
        divisible, parts: As given.
    """

    def __init__(
        self, smallest: int, largest: int, *, exact: bool = False, divisible: bool = False, parts: int = 1
    ) -> None:
        sizes = {size for size in range(smallest, largest + 1) if size < parts or size % parts == 0}
        sizes |= {smallest, largest}
        if not exact:
            powers = [1 << exponent for exponent in range(largest.bit_length())]
            sizes &= {smallest, largest, *powers, *(power + power // 2 for power in powers)}
        self.sizes = tuple(sorted(sizes))
        self.divisible, self.parts = divisible, parts
        self.seconds: dict[int, float] = {}
        self._costs = np.zeros(largest + 1)  # seconds of a run, by people
        self._first = np.zeros(largest + 1, np.int64)  # its first, and largest, batch

    def fit(self, count: int) -> int:
        """The smallest bucket that holds `count`, which is at most the largest."""
        return self.sizes[bisect_left(self.sizes, count)]

    def learn(self, seconds: Mapping[int, float]) -> None:
        """Take the measured seconds of some sizes, instead of those known before; none forgets them.

        Sizes between measured ones are taken to cost what lies between. Larger ones cost in proportion, and where runs
        can be cut aren't used.
        """
        self.seconds = dict(sorted(seconds.items()))
        people = np.arange(len(self._costs))
        self._first, self._costs = people.copy(), np.zeros(len(people))
        if not self.seconds:
            return
        padded = np.array([0, *(self.fit(count) for count in range(1, len(people)))])
        largest = max(self.seconds)
        one_batch = np.interp(padded, list(self.seconds), list(self.seconds.values()))
        one_batch = one_batch * np.maximum(padded / largest, 1.0)
        one_batch[0] = 0.0
        if not self.divisible:
            self._costs = one_batch
            return
        for count in range(1, len(people)):
            sizes = people[1 : min(count, largest) + 1]
            costs = one_batch[sizes] + self._costs[count - sizes]
            best = len(sizes) - 1 - int(np.argmin(costs[::-1]))  # of equals the largest, so that batches are few
            self._costs[count], self._first[count] = costs[best], sizes[best]

    def cost(self, count: int) -> float:
        """Seconds of a run of `count` people, cut or padded as it is; 0 for nobody, and while nothing is known."""
        return float(self._costs[count])

    def cut(self, count: int) -> tuple[int, ...]:
        """How many people each batch of a run of `count` holds, largest first: the cheapest way that is known."""
        if not (self.divisible and self.seconds):
            return (count,)
        batches = []
        while count:
            batches.append(int(self._first[count]))
            count -= batches[-1]
        return tuple(sorted(batches, reverse=True))


RunBoth = Callable[[int], tuple[float, float]]
"""Runs both stages for so many people, in one batch each; returns the seconds of the coarse and of the fine one."""


def settle(
    coarse: BatchBuckets,
    fine: BatchBuckets,
    run: RunBoth,
    clock: Callable[[], float],
    cache: BatchCache | None = None,
) -> None:
    """Let both stages' buckets know what batches cost: from the cache or, for about a second, by measuring.

    Args:
        coarse: Of the coarse stage; knows nothing yet.
        fine: Of the fine stage; likewise.
        run: Runs and times both.
        clock: Seconds.
        cache: Where costs are kept, unless the machine is busy; None to measure anyway.

    Raises:
        EngineError: a run failed.
    """
    with contextlib.nullcontext() if cache is None else cache.held():
        sizes = sorted({*coarse.sizes, *fine.sizes})
        found = None if cache is None else cache.load(sizes)
        costs = found or _measure(sizes, max(coarse.parts, fine.parts), run, clock)
        if cache is not None and found is None and not _is_busy():
            cache.save(costs)
    for buckets, of_stage in zip((coarse, fine), costs, strict=True):
        buckets.learn({size: seconds for size, seconds in of_stage.items() if size in buckets.sizes})


def _is_busy() -> bool:
    """Whether other processes had a part of the processor: costs measured beside them are for this run alone."""
    if sys.platform != "win32":  # which doesn't count them
        with contextlib.suppress(OSError):  # not known
            return os.getloadavg()[0] > (os.cpu_count() or 1)
    return False


Costs = tuple[dict[int, float], dict[int, float]]
"""Seconds by batch size, of the coarse and of the fine stage."""


def _measure(sizes: list[int], parts: int, run: RunBoth, clock: Callable[[], float]) -> Costs:
    """Powers of two, also times `parts`, the smallest and the largest size, ascending, while there is time."""
    powers = {1 << exponent for exponent in range(sizes[-1].bit_length())}
    wanted = {*powers, *(power * parts for power in powers), sizes[0], sizes[-1]}
    few = [size for size in sizes if size in wanted]
    coarse: dict[int, float] = {}
    fine: dict[int, float] = {}
    began = clock()
    last = 0.0  # seconds of both stages at the size before
    for place, size in enumerate(few):
        expected = last * size / few[max(place - 1, 0)]
        if coarse and clock() - began + 2 * expected > _MEASURING_SECONDS:
            break
        run(size)  # a size may cost more when it is met for the first time
        runs = [run(size)]
        while len(runs) < _REPEATS and clock() - began + sum(runs[-1]) <= _MEASURING_SECONDS:
            runs.append(run(size))
        coarse[size], fine[size] = (max(min(one), 1e-9) for one in zip(*runs, strict=True))  # a clock may stand still
        last = coarse[size] + fine[size]
    return coarse, fine


class BatchCache:
    """A file of measured costs, for whatever they depend on.

    Args:
        key: What they depend on: graphs, engine, device, threads, machine. JSON.
        say: Called with a line where the file is damaged or can't be written; costs are then measured.
        folder: Where files are kept; `batches` in the cache folder if None.
    """

    def __init__(self, key: Mapping[str, object], say: Callable[[str], None], folder: Path | None = None) -> None:
        self._key, self._say = dict(key), say
        digest = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()[:24]
        self.path = (folder or cache_folder() / "batches") / f"{digest}.json"

    @classmethod
    def of_stages(
        cls,
        bundle: Bundle,
        precision: str,
        *,
        device: str,
        engine: str,
        threads: int | None,
        say: Callable[[str], None],
    ) -> BatchCache:
        """That of a bundle's stages.

        Args:
            bundle: The bundle. Costs go by its graphs, not by their weights.
            precision: What the stages compute in.
            device: Where they run.
            engine: What runs them, with its version.
            threads: CPU threads inside an operator; None for the engine's own choice.
            say: Called with a line where the file is damaged or can't be written.
        """
        manifest = bundle.manifest
        graphs = {name: sha256 for name, sha256 in manifest.files.items() if name != manifest.weights}
        return cls(
            {
                "graphs": graphs,
                "max_batch": manifest.max_batch,
                "selected": bundle.model.num_selected,
                "precision": precision,
                "device": device,
                "engine": engine,
                "threads": threads,
                "machine": this_processor(),
            },
            say,
        )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While other processes that would measure the same wait: they would disturb each other."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError, EngineError):  # `save` says what is wrong
                self.path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(file_lock(self.path.with_suffix(".lock")))
            yield

    def load(self, sizes: Sequence[int]) -> Costs | None:
        """What the file says; None where there is none, or, with a line, where it is damaged.

        It must hold no other sizes of batches than `sizes`, which ascend, and the smallest of them.
        """
        if found_at(self.path) == "nothing":
            return None
        try:
            document = read_json(self.path, EngineError)
            if not isinstance(document, dict) or document.get("key") != self._key:
                raise EngineError("not the key that its name stands for")
            return _read(document, "coarse", sizes), _read(document, "fine", sizes)
        except EngineError as error:
            self._say(f"costs of batches in {self.path}: {error}; they are measured again")
            return None

    def save(self, costs: Costs) -> None:
        """Keep costs; where they can't be, that is said."""
        coarse, fine = ([[size, seconds] for size, seconds in one.items()] for one in costs)
        document = {"key": self._key, "coarse": coarse, "fine": fine}
        try:
            with replacing(self.path, sync=False) as temporary:
                temporary.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        except OSError as error:
            self._say(
                f"costs of batches: {self.path} can't be written ({error.strerror}), so every run measures them for a "
                "second; set XDG_CACHE_HOME to a writable folder"
            )


def _read(document: Mapping[str, object], stage: str, sizes: Sequence[int]) -> dict[int, float]:
    entries = document.get(stage)
    found: dict[int, float] = {}
    for entry in entries if isinstance(entries, list) else ():
        size, seconds = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        if type(size) is not int or type(seconds) is not float or size < 1 or not 0 < seconds < math.inf:
            raise EngineError(f"{stage}: expected [people, seconds], got {entry!r:.80}")
        if size not in sizes:
            raise EngineError(f"{stage}: expected {sizes[0]} to {sizes[-1]} people, got {size}")
        found[size] = seconds
    if not found:
        raise EngineError(f"{stage}: expected a list of [people, seconds]")
    if sizes[0] not in found:
        raise EngineError(f"{stage}: a batch of {sizes[0]} is missing")
    return found


def this_processor() -> str:
    """The processor's name, and how many cores of it this process may use."""
    return f"{processor_name()}, {usable_cores()} cores"

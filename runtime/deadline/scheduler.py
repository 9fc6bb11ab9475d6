"""Refinement within deadlines: what lasts from call to call."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from sharpose.bundle import GainCurve
from sharpose.engines.two_stage import BatchBuckets, TwoStage
from sharpose.errors import InputError
from sharpose.runtime.batch import Crowd
from sharpose.runtime.deadline.costs import BatchCost
from sharpose.runtime.deadline.history import StreamMemory
from sharpose.runtime.deadline.plan import Ledger, Prioritise, RefinementPlan, Rules, StageCosts, priority
from sharpose.runtime.result import StageTimings
from sharpose.skeleton import Skeleton

__all__ = ["DeadlineScheduler"]

_REPEATS = 3
_CALIBRATION_SECONDS = 3.0  # sizes that weren't reached by then are taken to cost in proportion
_SPARSE = 1.4  # of sizes closer to each other than this, only the smaller one is measured
_MOST_PEOPLE = 64  # whose finishing is told apart by their number


class DeadlineScheduler:
    """Decides who is refined where there isn't time for everybody: give one to a `PoseEstimator`.

    The coarse stage always runs for everybody. Of those that the gate wants refined, the ones that gain most go first,
    in batches whose cost is known from those before, as long as the earliest deadline of the pictures allows. People
    who haven't moved keep what an earlier refinement found, so that others get their turn. Where time is ample,
    everybody is refined who would be without a deadline, in the same batches.

    One belongs to one estimator: it learns what that one's batches cost, first in `PoseEstimator.warm_up`.

    Args:
        clock: Seconds; `Picture.deadline` is in its terms.
        prioritise: Who goes first.
        carry: Whether people who haven't moved keep what an earlier refinement found.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.perf_counter,
        prioritise: Prioritise = priority,
        carry: bool = True,
    ) -> None:
        self.clock = clock
        self._prioritise, self._carry = prioritise, carry
        self._streams: dict[int, StreamMemory] = {}
        self._ledger = Ledger()
        self._costs: StageCosts | None = None

    def attach(self, stages: TwoStage) -> None:
        """Schedule the batches of these stages. Raises `InputError` where it already schedules others'."""
        if self._costs is not None:
            raise InputError("scheduler: expected one of its own for each estimator, got one that another has")
        finish = BatchBuckets(1, _MOST_PEOPLE, exact=True)
        self._costs = StageCosts(BatchCost(stages.coarse_buckets), BatchCost(stages.fine_buckets), BatchCost(finish))

    @property
    def costs(self) -> StageCosts:
        """What batches are believed to cost. Raises `InputError` before it belongs to an estimator."""
        if self._costs is None:
            raise InputError("scheduler: expected to be given to an estimator first")
        return self._costs

    def plan(self, crowd: Crowd, skeleton: Skeleton, threshold: float, gain: GainCurve | None = None) -> RefinementPlan:
        """Begin a call.

        Args:
            crowd: The call's people.
            skeleton: Their keypoints.
            threshold: The gate's.
            gain: What refining gains by predicted quality, where the bundle knows.

        Raises:
            InputError: two pictures belong to one stream.
        """
        for stream, times in Counter(picture.stream for picture in crowd.pictures).items():
            if times > 1:
                raise InputError(
                    f"pictures: expected one of a stream where deadlines are kept, got {times} of {stream}"
                )
        memories = {
            picture.stream: self._streams.setdefault(picture.stream, StreamMemory()) for picture in crowd.pictures
        }
        rules = Rules(threshold, gain, skeleton.sigmas, self._prioritise, self._carry, self.clock)
        return RefinementPlan(crowd, memories, self.costs, self._ledger, rules)

    def forget(self, stream: int) -> None:
        """Let go of what is remembered of a stream's people, as it has ended."""
        self._streams.pop(stream, None)

    def calibrate(self, stages: TwoStage, run: Callable[[int], StageTimings]) -> None:
        """Measure what batches cost.

        Args:
            stages: Whose.
            run: Runs both stages for so many people.
        """
        started = self.clock()
        for sizes, repeats in _sizes(stages):
            for size in sizes:
                if self.clock() - started > _CALIBRATION_SECONDS:
                    return
                run(size)  # a size may cost more when it is met for the first time
                timings = [run(size) for _ in range(repeats)]
                if repeats:
                    self._learn(size, timings)

    def _learn(self, size: int, timings: list[StageTimings]) -> None:
        coarse = [timing.crop + timing.coarse + timing.gate + timing.map_back for timing in timings]
        self.costs.coarse.calibrate(size, coarse)
        self.costs.fine.calibrate(size, [timing.gather + timing.fine for timing in timings])


def _sizes(stages: TwoStage) -> list[tuple[list[int], int]]:
    """Batch sizes and how often to measure each: a few of them well, then the others once for their first-time cost."""
    every = sorted({*stages.coarse_buckets.sizes, *stages.fine_buckets.sizes})
    padded = len(every) < every[-1] - every[0] + 1
    if padded:
        return [(every, _REPEATS)]
    few: list[int] = []
    for size in every:
        if not few or size >= _SPARSE * few[-1] or size == every[-1]:
            few.append(size)
    return [(few, _REPEATS), ([size for size in every if size not in few], 0)]

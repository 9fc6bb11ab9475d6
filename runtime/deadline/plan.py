"""The refinements of one call: who gains most from the fine stage, and in which batches they go through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sharpose.bundle import GainCurve
from sharpose.runtime.batch import Crowd
from sharpose.runtime.deadline.costs import BatchCost, next_batch, own_share, seconds_each
from sharpose.runtime.deadline.history import Remembered, StreamMemory, carry_over
from sharpose.similarity import body_area, box_iou, keypoint_similarity, pose_oks

__all__ = [
    "TURN",
    "Candidates",
    "Ledger",
    "Prioritise",
    "RefinementPlan",
    "Rules",
    "StageCosts",
    "expected_gain",
    "priority",
    "with_turns",
]

TURN = 8
"""Every so many refinements, one goes to whom waits longest."""

_LEAST_SHORTFALL = 0.1  # nobody's priority is zero
_LEAST_GAIN = 0.1  # likewise, of the most that anybody gains
_LEAST_DETAIL = 0.4
_CARRIED_SHARE = 0.1  # of the gain, for those who keep what an earlier look found
_LONGEST_CARRY = 10  # frames that a refinement is expected to last at most
_PATIENCE = 100.0  # frames after which having waited doubles a priority: among equals, they take turns


@dataclass(frozen=True)
class Candidates:
    """People whom the gate wants refined.

    Attributes:
        gain: float [n], see `expected_gain`.
        waited: int [n], in how many frames they were wanted refined since they last were.
        steady: int [n], for how many frames they haven't moved.
        carried: bool [n], who keeps what their last refinement found, as they haven't moved since.
    """

    gain: npt.NDArray[np.float64]
    waited: npt.NDArray[np.int64]
    steady: npt.NDArray[np.int64]
    carried: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.gain)


Prioritise: TypeAlias = Callable[[Candidates], npt.NDArray[np.float64]]
"""People to float [n]; see `priority`."""


def expected_gain(
    quality: npt.NDArray[np.float32],
    threshold: float,
    pixels: npt.NDArray[np.float32],
    measured: GainCurve | None = None,
) -> npt.NDArray[np.float64]:
    """How much better the pose is likely to become, relative to others.

    Where it was measured what refining gains, that is expected again. (It need not be most where the quality is lowest:
    who is hidden for the most part stays so in a closer look.) Otherwise what the coarse pose lacks in quality can be
    gained. Both as far as there is detail that the coarse stage did not see: it looks at the crop at half size, so a
    person whose picture pixels are larger than two crop pixels has nothing more to show.

    Args:
        quality: float32 [n], predicted quality (OKS-like).
        threshold: The gate's; above 1 it counts as 1.
        pixels: float32 [n], how many picture pixels a crop pixel's side spans.
        measured: What refining gains by predicted quality; None where the bundle doesn't know.

    Returns:
        float [n], above 0; NaN where the quality is.
    """
    detail = np.clip(2.0 * pixels.astype(np.float64) - 1.0, _LEAST_DETAIL, 1.0)
    gain: npt.NDArray[np.float64]
    most = 0.0 if measured is None else max(measured.gain)
    if measured is None or most <= 0:
        gain = np.clip(min(threshold, 1.0) - quality.astype(np.float64), _LEAST_SHORTFALL, 1.0)
    else:
        gain = np.maximum(np.interp(quality, measured.quality, measured.gain) / most, _LEAST_GAIN)
    return gain * detail


def priority(people: Candidates) -> npt.NDArray[np.float64]:
    """Those of the highest priority are refined first.

    What is gained is gained for as many frames as it can be kept, and who has been still is likely to be so for as long
    again.
    """
    lasting = 1.0 + np.minimum(people.steady, _LONGEST_CARRY)
    ranked: npt.NDArray[np.float64] = (
        people.gain * lasting * np.where(people.carried, _CARRIED_SHARE, 1.0) * (1.0 + people.waited / _PATIENCE)
    )
    return ranked


def with_turns(order: npt.NDArray[np.int64], waited: npt.NDArray[np.int64], first: int) -> npt.NDArray[np.int64]:
    """The order in which people are refined, now and then whoever waits longest before the others.

    Args:
        order: int [n], indices of people by priority.
        waited: int [any], by index, how long they have waited.
        first: How many go by priority before the first such turn; then it is every `TURN`th.
    """
    left = order.tolist()
    found: list[int] = []
    while left:
        place = 0
        if len(found) % TURN == first % TURN:
            place = max(range(len(left)), key=lambda index: int(waited[left[index]]))
        found.append(left.pop(place))
    return np.array(found, np.int64)


# How alike its coarse poses must be for a person to count as still: as much as the coarse pose of now is believed to be
# right, so that what is kept is likely to be better. Of 17 keypoints, a single one that goes far makes it 0.94.
_STILL_POSE = (0.8, 0.97)
_STILL_BOX = 0.8


@dataclass(frozen=True)
class StageCosts:
    """What batches cost.

    Attributes:
        coarse: Cropping people, the coarse stage and what is done with its poses.
        fine: Gathering patches, the fine stage and what is done with its poses.
        finish: What follows the last batch of a call, by people.
    """

    coarse: BatchCost
    fine: BatchCost
    finish: BatchCost

    def all_coarse(self, people: int, cost: Callable[[int], float]) -> float:
        """Seconds for the coarse stage of `people`, in batches as large as may be; `cost` is `coarse.typical` or so."""
        full, rest = divmod(people, self.coarse.largest)
        return full * cost(self.coarse.largest) + cost(rest)


@dataclass
class Ledger:
    """What is kept from call to call about all streams together.

    Attributes:
        usual: What priority people have on average: expected of those who were never seen before.
        until_turn: How many refinements go by priority before it is the turn of whom waits longest.
    """

    usual: float = 0.0
    until_turn: int = TURN - 1
    _seen: bool = field(default=False, repr=False)

    def learn(self, priorities: npt.NDArray[np.float64]) -> None:
        """Learn from some people; 0 for those whom nobody wants refined."""
        if len(priorities):
            mean = float(priorities.mean())
            self.usual = 0.9 * self.usual + 0.1 * mean if self._seen else mean
            self._seen = True


@dataclass(frozen=True)
class Rules:
    """What doesn't change from call to call.

    Attributes:
        threshold: The gate's.
        gain: What refining gains by predicted quality; None where it wasn't measured.
        sigmas: J, the skeleton's OKS constants.
        prioritise: Who goes first.
        carry: Whether people who haven't moved keep what an earlier refinement found.
        clock: Seconds.
    """

    threshold: float
    gain: GainCurve | None
    sigmas: Sequence[float]
    prioritise: Prioritise
    carry: bool
    clock: Callable[[], float]


class RefinementPlan:
    """One call of the estimator, from its start to its results; see `DeadlineScheduler`.

    Use: for every chunk `open` it once its coarse poses and qualities are in the crowd, then run what `next_rows` says
    until that is nobody; in the end, `finish`.

    Args:
        crowd: The people; `wanted`, `carried` and the poses of those who carry over are filled in.
        memories: Of every picture's stream.
        costs: Learned from as the call goes.
        ledger: Kept up as well.
        rules: What is constant.
    """

    def __init__(
        self,
        crowd: Crowd,
        memories: Mapping[int, StreamMemory],
        costs: StageCosts,
        ledger: Ledger,
        rules: Rules,
    ) -> None:
        self._mark = rules.clock()
        self._crowd, self._memories, self._costs, self._ledger, self._rules = crowd, memories, costs, ledger, rules
        people = len(crowd)
        self._wanted, self._carried = np.zeros(people, np.bool_), np.zeros(people, np.bool_)
        crowd.wanted, crowd.carried = self._wanted, self._carried
        self._coarse = np.zeros_like(crowd.keypoints)
        self._likeness = np.zeros(crowd.keypoints.shape[:2])
        self._met: list[Remembered | None] = []
        for picture in crowd.pictures:
            self._met += memories[picture.stream].match(picture.boxes.xyxy, picture.time)
        self._waited = np.array([0 if one is None else one.waited for one in self._met], np.int64)
        # Of those whose coarse stage hasn't run yet, what is expected.
        self._priority = np.array([ledger.usual if one is None else one.priority for one in self._met], np.float64)
        self._deadline, self._in_time = self._deadlines()
        self._part = slice(0, 0)
        self._waiting = np.zeros(0, np.int64)  # people of the open chunk, the first to go first
        self._running = 0  # how many are in the batch that was handed out last

    def open(self, part: slice, rows: npt.NDArray[np.int32]) -> None:
        """Take up a chunk whose coarse stage has run.

        Args:
            part: Which people.
            rows: Which of them, counted from the chunk's first, the gate wants refined.
        """
        now = self._rules.clock()
        self._costs.coarse.observe(part.stop - part.start, now - self._mark)
        self._mark, self._part = now, part
        self._coarse[part] = self._crowd.keypoints[part]
        wanted = part.start + rows.astype(np.int64)
        self._wanted[wanted] = True
        self._find_still(np.array([one for one in range(part.start, part.stop) if self._met[one]], np.int64))
        self._priority[part] = 0.0
        self._priority[wanted] = self._rank(wanted)
        self._ledger.learn(self._priority[part])
        for person in range(part.stop, len(self._crowd)):
            if self._met[person] is None:
                self._priority[person] = self._ledger.usual
        candidates = wanted[self._in_time[wanted]]
        order = candidates[np.argsort(-self._priority[candidates], kind="stable")]
        self._waiting = with_turns(order, self._waited, self._ledger.until_turn)

    def next_rows(self) -> npt.NDArray[np.int32]:
        """Who goes through the fine stage next: rows of the open chunk, ascending; nobody if there is no time."""
        now = self._rules.clock()
        if self._running:
            self._costs.fine.observe(self._running, now - self._mark)
        self._mark = now
        count = next_batch(*self._allowed(now), self._costs.fine.likely)
        people, self._waiting = self._waiting[:count], self._waiting[count:]
        self._running = len(people)
        self._ledger.until_turn = (self._ledger.until_turn - len(people)) % TURN
        rows: npt.NDArray[np.int32] = np.sort(people - self._part.start).astype(np.int32)
        return rows

    def finish(self) -> None:
        """Give those who carry over their poses, and remember everybody for the next call."""
        crowd = self._crowd
        self._carried &= self._wanted & ~crowd.refined
        for person in np.flatnonzero(self._carried):
            one = self._met[person]
            if one is not None and one.refined_pose is not None:
                crowd.keypoints[person] = carry_over(
                    one.still_pose, one.refined_pose, self._coarse[person], self._likeness[person]
                )
        first = 0
        for picture in crowd.pictures:
            seen = [self._remember(first + place, picture.time) for place in range(len(picture.boxes))]
            self._memories[picture.stream].keep(seen)
            first += len(seen)
        if len(crowd):
            finish = self._costs.finish
            finish.observe(min(len(crowd), finish.largest), self._rules.clock() - self._mark)

    def _deadlines(self) -> tuple[float, npt.NDArray[np.bool_]]:
        """The earliest deadline that can be met, and bool [n], whose picture's can.

        The pictures' results are handed out together, so the earliest deadline holds for all. One that can't be met
        even without any refinement binds nobody; its people aren't refined, so that they come out early.
        """
        costs = self._costs
        coarse_only = self._mark + costs.all_coarse(len(self._crowd), costs.coarse.typical)
        deadlines = np.array(
            [math.inf if picture.deadline is None else picture.deadline for picture in self._crowd.pictures]
        )
        met = deadlines > coarse_only
        return float(deadlines[met].min(initial=math.inf)), met[self._crowd.owners]

    def _allowed(self, now: float) -> tuple[int, float]:
        """How many of the open chunk may still be refined, and how many seconds there are for it."""
        costs = self._costs
        people = len(self._crowd)
        later = np.arange(self._part.stop, people)
        reserved = costs.all_coarse(len(later), costs.coarse.likely)
        reserved += costs.finish.likely(min(people, costs.finish.largest))
        seconds = self._deadline - now - reserved
        expected = self._priority[later[self._in_time[later]]]
        each = seconds_each(costs.fine)
        if not len(expected) or each == 0 or seconds <= 0:
            return len(self._waiting), seconds
        return own_share(self._priority[self._waiting], expected, seconds / each), seconds

    def _rank(self, people: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Priorities: float [m]."""
        frames = self._crowd.frames_of(people)
        pixels = frames.size[:, 1] / np.float32(frames.crop_size[0])
        gain = expected_gain(self._crowd.quality[people], self._rules.threshold, pixels, self._rules.gain)
        steady = np.zeros(len(people), np.int64)
        if self._rules.carry:
            steady[:] = [0 if (one := self._met[person]) is None else one.steady for person in people]
        return self._rules.prioritise(Candidates(gain, self._waited[people], steady, self._carried[people]))

    def _find_still(self, people: npt.NDArray[np.int64]) -> None:
        """Of people who were met before: note who hasn't moved, and forget what was found of the others."""
        met = [one for person in people if (one := self._met[person]) is not None]
        if not met:
            return
        boxes, then = np.stack([one.still_box for one in met]), np.stack([one.still_pose for one in met])
        now = self._coarse[people]
        area, sigmas = body_area(boxes), self._rules.sigmas
        overlap = box_iou(boxes, self._crowd.boxes_xyxy[people]).diagonal()
        # Keypoints count by their score; NaN, where none has one above 0, is never enough.
        alike = pose_oks(then, now, area, sigmas, np.maximum(np.maximum(then, now)[..., 2], 0))
        # A quality that isn't a number asks for the most.
        enough = np.clip(np.nan_to_num(self._crowd.quality[people], nan=1.0), *_STILL_POSE)
        still = (alike >= enough) & (overlap >= _STILL_BOX)
        self._likeness[people] = keypoint_similarity(then, now, area, sigmas)
        for person, one, stayed in zip(people, met, still, strict=True):
            if stayed:
                one.steady += 1
                self._carried[person] = self._rules.carry and one.refined_pose is not None
            else:
                box, pose = self._crowd.boxes_xyxy[person].copy(), self._coarse[person].copy()
                one.steady, one.still_box, one.still_pose, one.refined_pose = 0, box, pose, None

    def _remember(self, person: int, time: float) -> Remembered:
        crowd = self._crowd
        box, pose = crowd.boxes_xyxy[person].copy(), self._coarse[person].copy()
        one = self._met[person] or Remembered(box, time, box, pose)
        one.box, one.time, one.unseen = box, time, 0
        if crowd.refined[person]:
            one.waited = 0
            one.still_box, one.still_pose, one.refined_pose = box, pose, crowd.keypoints[person].copy()
        elif self._wanted[person]:
            one.waited += 1
        one.priority = float(self._priority[person])
        return one

"""Refinement within deadlines: the scheduler of an estimator, and its plan for one call."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sharpose.bundle import GainCurve
from sharpose.engines.two_stage import TwoStage
from sharpose.errors import InputError
from sharpose.runtime.refinement.costs import StageCosts, next_batch, own_share
from sharpose.runtime.refinement.history import PersonHistory, StreamHistory, carry_over
from sharpose.runtime.refinement.priority import TURN_EVERY, Candidates, Prioritise, expected_gain, priority, with_turns
from sharpose.similarity import body_area, box_iou, keypoint_similarity, pose_oks
from sharpose.skeleton import Skeleton

if TYPE_CHECKING:
    from sharpose.runtime.crowd import Crowd

# OKS of a still person's coarse poses: at least the predicted quality of the coarse pose now, within these bounds, so
# that what is kept is likely to be better. Of 17 keypoints, a single one that goes far makes it 0.94.
_STILL_POSE = (0.8, 0.97)
_STILL_BOX = 0.8  # IoU
_FORGET = 60.0  # seconds after which a stream without pictures has ended
_USUAL_RATE = 0.1  # how fast the usual priority follows a chunk's


class DeadlineScheduler:
    """Decides who is refined where there isn't time for everybody: give one to a `PoseEstimator`.

    The coarse stage always runs for everybody. Of those that the gate wants refined, the ones that gain most go first,
    in batches of known cost, as long as the earliest deadline of the pictures allows. People who haven't moved keep
    their earlier refinement, so that others get their turn. Where time is ample, everybody is refined who would be
    without a deadline, in the same batches.

    One belongs to one estimator: it learns what that one's batches cost, first in `PoseEstimator.warm_up`. Only calls
    of that estimator make it thread-safe: they wait for each other. A stream without a picture for a minute is
    forgotten.

    Args:
        clock: Seconds; `Picture.deadline` is in its terms.
        prioritise: Who goes first.
        carry: Whether people who haven't moved keep their earlier refinement.

    Attributes:
        usual_priority: Mean priority of people, expected of those who were never seen before; None at first.
        until_turn: Refinements by priority before it is the turn of the person who has waited longest.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.perf_counter, prioritise: Prioritise = priority, carry: bool = True
    ) -> None:
        self.clock, self.prioritise, self.carry = clock, prioritise, carry
        self.usual_priority: float | None = None
        self.until_turn = TURN_EVERY - 1
        self._streams: dict[int, StreamHistory] = {}
        self._called: dict[int, float] = {}  # when each stream had its last picture
        self._costs: StageCosts | None = None

    def attach(self, stages: TwoStage) -> None:
        """Schedule the batches of these stages. Raises `InputError` where it already schedules others'."""
        if self._costs is not None:
            raise InputError("scheduler: expected one of its own for each estimator, got one that another has")
        self._costs = StageCosts(stages.coarse_buckets, stages.fine_buckets)

    @property
    def costs(self) -> StageCosts:
        """Estimated costs of batches. Raises `InputError` before it belongs to an estimator."""
        if self._costs is None:
            raise InputError("scheduler: expected to be given to an estimator first")
        return self._costs

    def plan(
        self, crowd: Crowd, skeleton: Skeleton, threshold: float, measured_gain: GainCurve | None = None
    ) -> RefinementPlan:
        """Begin a call with the gate's threshold and the bundle's gain curve, where it has one.

        Raises:
            InputError: two pictures belong to one stream.
        """
        for stream, times in Counter(picture.stream for picture in crowd.pictures).items():
            if times > 1:
                raise InputError(
                    f"pictures: expected one of a stream where deadlines are kept, got {times} of {stream}"
                )
        now = self.clock()
        self._called |= {picture.stream: now for picture in crowd.pictures}
        for stream in [stream for stream, called in self._called.items() if now - called > _FORGET]:
            del self._streams[stream], self._called[stream]
        histories = [self._streams.setdefault(picture.stream, StreamHistory()) for picture in crowd.pictures]
        return RefinementPlan(self, crowd, histories, skeleton, threshold, measured_gain)


class RefinementPlan:
    """The refinements of one call of the estimator, made by `DeadlineScheduler.plan`.

    For every chunk, `open` it once its coarse poses and qualities are in the crowd, then run what `next_rows` returns
    until that is nobody; in the end, `finish`. It fills in the crowd's `wanted`, `carried` and the poses of those who
    carry over, and the scheduler learns from it.
    """

    def __init__(
        self,
        scheduler: DeadlineScheduler,
        crowd: Crowd,
        histories: list[StreamHistory],
        skeleton: Skeleton,
        threshold: float,
        measured_gain: GainCurve | None,
    ) -> None:
        self._mark = scheduler.clock()
        self._scheduler, self._costs, self._crowd, self._histories = scheduler, scheduler.costs, crowd, histories
        self._sigmas, self._threshold, self._measured_gain = skeleton.sigmas, threshold, measured_gain
        people = len(crowd)
        self._wanted, self._carried = np.zeros(people, np.bool_), np.zeros(people, np.bool_)
        crowd.wanted, crowd.carried = self._wanted, self._carried
        self._coarse = np.zeros_like(crowd.keypoints)
        self._similarity = np.zeros(crowd.keypoints.shape[:2])  # of keypoints now to those of when they were refined
        self._known: list[PersonHistory | None] = []
        for picture, history in zip(crowd.pictures, histories, strict=True):
            self._known += history.match(picture.boxes.xyxy, picture.time)
        self._waited = np.array([0 if one is None else one.waited for one in self._known], np.int64)
        # Expected, of those whose coarse stage hasn't run yet.
        usual = scheduler.usual_priority or 0.0
        self._priority = np.array([usual if one is None else one.priority for one in self._known], np.float64)
        self._deadline, self._in_time = self._deadlines()
        self._part = slice(0, 0)
        self._waiting = np.zeros(0, np.int64)  # people of the open chunk, in the order of refinement
        self._running = 0  # how many are in the batch that was handed out last

    def _deadlines(self) -> tuple[float, npt.NDArray[np.bool_]]:
        """The earliest deadline that can be met, and bool [n], whose picture's can.

        The pictures' results are handed out together, so the earliest deadline holds for all. One that can't be met
        even without any refinement binds nobody; its people aren't refined, so that they come out early.
        """
        coarse_only = self._mark + self._costs.all_coarse(len(self._crowd), self._costs.coarse.typical)
        deadlines = np.array([math.inf if one.deadline is None else one.deadline for one in self._crowd.pictures])
        met = deadlines > coarse_only
        return float(deadlines[met].min(initial=math.inf)), met[self._crowd.owners]

    def open(self, part: slice, rows: npt.NDArray[np.int32]) -> None:
        """Begin the chunk `part`, whose coarse stage has run; of it the gate wants `rows` (from 0) refined."""
        scheduler, now = self._scheduler, self._scheduler.clock()
        self._costs.coarse.observe(part.stop - part.start, now - self._mark)
        self._mark, self._part = now, part
        self._coarse[part] = self._crowd.keypoints[part]
        wanted = part.start + rows.astype(np.int64)
        self._wanted[wanted] = True
        self._find_still(part)
        self._priority[part] = 0.0
        self._priority[wanted] = self._rank(wanted)
        mean, usual = float(self._priority[part].mean()), scheduler.usual_priority
        usual = scheduler.usual_priority = mean if usual is None else (1 - _USUAL_RATE) * usual + _USUAL_RATE * mean
        for person in range(part.stop, len(self._crowd)):
            if self._known[person] is None:
                self._priority[person] = usual
        candidates = wanted[self._in_time[wanted]]
        order = candidates[np.argsort(-self._priority[candidates], kind="stable")]
        self._waiting = with_turns(order, self._waited, scheduler.until_turn)

    def _find_still(self, part: slice) -> None:
        """Of known people: note who hasn't moved, and forget the earlier refinement of the others."""
        known = [(person, one) for person in range(part.start, part.stop) if (one := self._known[person]) is not None]
        if not known:
            return
        people = np.array([person for person, _ in known])
        boxes, then = np.stack([one.still_box for _, one in known]), np.stack([one.still_pose for _, one in known])
        now, area = self._coarse[people], body_area(boxes)
        overlap = box_iou(boxes, self._crowd.boxes_xyxy[people]).diagonal()
        # Keypoints count by their score; NaN, where none has one above 0, is never enough.
        oks = pose_oks(then, now, area, self._sigmas, np.maximum(np.maximum(then, now)[..., 2], 0))
        # A quality that isn't a number asks for the most.
        enough = np.clip(np.nan_to_num(self._crowd.quality[people], nan=1.0), *_STILL_POSE)
        still = (oks >= enough) & (overlap >= _STILL_BOX)
        self._similarity[people] = keypoint_similarity(then, now, area, self._sigmas)
        for (person, one), stayed in zip(known, still, strict=True):
            if stayed:
                one.still += 1
                self._carried[person] = self._scheduler.carry and one.refined_pose is not None
            else:
                box, pose = self._crowd.boxes_xyxy[person].copy(), self._coarse[person].copy()
                one.still, one.still_box, one.still_pose, one.refined_pose = 0, box, pose, None

    def _rank(self, people: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Priorities: float64 [m]."""
        frames = self._crowd.frames_of(people)
        pixels = frames.size[:, 1] / np.float32(frames.crop_size[0])
        gain = expected_gain(self._crowd.quality[people], self._threshold, pixels, self._measured_gain)
        still = np.zeros(len(people), np.int64)
        if self._scheduler.carry:
            still[:] = [0 if (one := self._known[person]) is None else one.still for person in people]
        return self._scheduler.prioritise(Candidates(gain, self._waited[people], still, self._carried[people]))

    def next_rows(self) -> npt.NDArray[np.int32]:
        """Who goes through the fine stage next: rows of the open chunk, ascending; nobody if there is no time."""
        now = self._scheduler.clock()
        if self._running:
            self._costs.fine.observe(self._running, now - self._mark)
        self._mark = now
        count = next_batch(*self._allowed(now), self._costs.fine.likely)
        people, self._waiting = self._waiting[:count], self._waiting[count:]
        self._running = len(people)
        self._scheduler.until_turn = (self._scheduler.until_turn - len(people)) % TURN_EVERY
        return np.sort(people - self._part.start).astype(np.int32)

    def _allowed(self, now: float) -> tuple[int, float]:
        """How many of the open chunk may still be refined, and how many seconds there are for it."""
        costs, people = self._costs, len(self._crowd)
        later = np.arange(self._part.stop, people)
        reserved = costs.all_coarse(len(later), costs.coarse.likely)
        reserved += costs.finish.likely(min(people, costs.finish.largest))
        seconds = self._deadline - now - reserved
        expected = self._priority[later[self._in_time[later]]]
        each = costs.fine.least_per_person()
        if not len(expected) or each == 0 or seconds <= 0:
            return len(self._waiting), seconds
        return own_share(self._priority[self._waiting], expected, seconds / each), seconds

    def finish(self) -> None:
        """Carry over the refinements of those who keep them, and remember everybody for the next call."""
        crowd = self._crowd
        self._carried &= self._wanted & ~crowd.refined
        for person in np.flatnonzero(self._carried):
            one = self._known[person]
            if one is not None and one.refined_pose is not None:
                crowd.keypoints[person] = carry_over(
                    one.still_pose, one.refined_pose, self._coarse[person], self._similarity[person]
                )
                if crowd.confidence is not None:
                    crowd.confidence[person] = one.refined_confidence
        first = 0
        for picture, history in zip(crowd.pictures, self._histories, strict=True):
            history.update([self._remember(first + place, picture.time) for place in range(len(picture.boxes))])
            first += len(picture.boxes)
        if len(crowd):
            finish = self._costs.finish
            finish.observe(min(len(crowd), finish.largest), self._scheduler.clock() - self._mark)

    def _remember(self, person: int, time: float) -> PersonHistory:
        crowd = self._crowd
        box, pose = crowd.boxes_xyxy[person].copy(), self._coarse[person].copy()
        one = self._known[person] or PersonHistory(box, time, box, pose)
        one.box, one.time, one.unseen = box, time, 0
        if crowd.refined[person]:
            one.waited = 0
            one.still_box, one.still_pose, one.refined_pose = box, pose, crowd.keypoints[person].copy()
            if crowd.confidence is not None:
                one.refined_confidence = float(crowd.confidence[person])
        elif self._wanted[person]:
            one.waited += 1
        one.priority = float(self._priority[person])
        return one

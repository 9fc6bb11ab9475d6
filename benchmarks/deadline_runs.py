"""The scene under deadlines: every way to choose who is refined sees the same frames, one after another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scene_truth import Interval, bootstrap, boxes_of, keypoint_similarity  # beside this file

from sharpose.bundle import Bundle
from sharpose.engines.two_stage import TwoStage
from sharpose.runtime import Picture, PoseEstimator
from sharpose.runtime.gate import Refine
from sharpose.runtime.refinement import DeadlineScheduler
from sharpose.runtime.refinement.priority import Candidates, priority
from sharpose.scene import SceneFrame

__all__ = ["Case", "Policy", "Runner"]

_COARSE_ONLY = "nobody"  # whose frames are late says what the scheduler can do nothing about
_POLICIES = ("scheduled", "random", "scheduled, no carrying", "random, no carrying", _COARSE_ONLY)


@dataclass
class Policy:
    """What a way to choose did.

    Attributes:
        seconds: Of every frame.
        met: Share of the frames whose poses were there in time.
        wanted: People whom the gate wanted refined, all frames together; of them
        done: were refined,
        carried: kept what an earlier refinement found,
        deferred: were left as they were.
        oks: By person (the scene's number and the person's), in all frames.
    """

    seconds: list[float] = field(default_factory=list)
    met: float = 1.0
    wanted: int = 0
    done: int = 0
    carried: int = 0
    deferred: int = 0
    oks: dict[Hashable, list[float]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True)
class Case:
    """One number of people under one deadline; milliseconds.

    Attributes:
        people: In the scene.
        share: How much of the time that the gate's refinements take was there, in percent.
        deadline_ms: The deadline.
        frames: How many frames were run.
        policies: By name.
        scheduled_less_random: OKS of the scheduler's choice less that of a random choice, by person.
        chosen_less_random: Likewise, where nobody keeps anything.
    """

    people: int
    share: float
    deadline_ms: float
    frames: int
    policies: dict[str, Policy]
    scheduled_less_random: Interval
    chosen_less_random: Interval


class Runner:
    """Runs scenes through one pair of engines.

    Args:
        bundle: The bundle.
        stages: Its engines.
        clock: Seconds; deadlines are in its terms.
    """

    def __init__(self, bundle: Bundle, stages: TwoStage, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rng = np.random.default_rng(0)
        self._ends = [PoseEstimator(bundle, stages, refine="never"), PoseEstimator(bundle, stages, refine="auto")]
        self._streams = 0
        self._estimators: dict[str, PoseEstimator] = {}
        for name in _POLICIES:
            scheduler = DeadlineScheduler(
                clock=clock,
                prioritise=self._at_random if name.startswith("random") else priority,
                carry=not name.endswith("no carrying"),
            )
            refine: Refine = "never" if name == _COARSE_ONLY else "auto"
            self._estimators[name] = PoseEstimator(bundle, stages, refine=refine, scheduler=scheduler)
            self._estimators[name].warm_up()

    def _at_random(self, people: Candidates) -> npt.NDArray[np.float64]:
        return self._rng.random(len(people))

    def limits(self, scenes: list[list[SceneFrame]]) -> tuple[Policy, Policy]:
        """The coarse stage only, and all that the gate wants: the least and the most that there can be time for."""
        found = Policy(), Policy()
        for estimator in self._ends:
            estimator.estimate([Picture(scenes[0][0].image, boxes_of(scenes[0][0]))])  # may cost more the first time
        for seed, frames in enumerate(scenes):
            for frame in frames:
                for estimator, policy in zip(self._ends, found, strict=True):
                    self._run(estimator, policy, frame, (0, seed), None)
        return found

    def measure(self, scenes: list[list[SceneFrame]], people: int, deadline: float, share: float) -> Case:
        """Run all policies under a deadline of so many seconds a frame.

        They take turns on every frame, so that they meet the same state of the machine.
        """
        policies = {name: Policy() for name in _POLICIES}
        for seed, frames in enumerate(scenes):
            self._streams += 1
            for frame in frames:
                for name in self._rng.permutation(list(policies)):
                    self._run(self._estimators[name], policies[name], frame, (self._streams, seed), deadline)
        for policy in policies.values():
            policy.met = float(np.mean(np.array(policy.seconds) <= deadline))
        return Case(
            people,
            share,
            deadline * 1000,
            sum(map(len, scenes)),
            policies,
            _difference(policies["scheduled"], policies["random"]),
            _difference(policies["scheduled, no carrying"], policies["random, no carrying"]),
        )

    def _run(
        self,
        estimator: PoseEstimator,
        policy: Policy,
        frame: SceneFrame,
        stream_and_seed: tuple[int, int],
        deadline: float | None,
    ) -> None:
        stream, seed = stream_and_seed
        began = self._clock()
        until = None if deadline is None else began + deadline
        (poses,) = estimator.estimate([Picture(frame.image, boxes_of(frame), stream, frame.time, until)])
        policy.seconds.append(self._clock() - began)
        policy.done += int(poses.refined.sum())
        policy.wanted += int(poses.refined.sum() if poses.wanted is None else poses.wanted.sum())
        policy.carried += 0 if poses.carried is None else int(poses.carried.sum())
        policy.deferred += int(poses.deferred.sum())
        similarity = keypoint_similarity(poses.keypoints, frame, estimator.skeleton.sigmas)
        for who, value in zip(frame.ids, similarity, strict=True):
            policy.oks[seed, int(who)].append(float(value))


def _difference(first: Policy, second: Policy) -> Interval:
    return bootstrap({who: np.subtract(values, second.oks[who]).tolist() for who, values in first.oks.items()})

"""Whom the scheduler chooses, against choosing at random; true poses are known, and tests control the clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from stand_in_stages import PICTURE, Ticks, TimedStages

from sharpose.bundle import Bundle, open_bundle
from sharpose.engines.two_stage import CoarseOutput
from sharpose.geometry import crop_frames, keypoints_to_image
from sharpose.runtime import Boxes, Picture, PoseEstimator
from sharpose.runtime.deadline import DeadlineScheduler
from sharpose.runtime.deadline.priority import Candidates, Prioritise, priority
from sharpose.similarity import BODY_SHARE, keypoint_similarity

PEOPLE, FRAMES, BUDGET = 10, 40, 2
TRUE = np.concatenate(
    [np.random.default_rng(9).uniform([40, 40], [150, 215], (17, 2)), np.ones((17, 1))], axis=1
).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


class People:
    """Ten people whose coarse poses are wrong by more or less; some walk, some stand.

    A coarse pose's error changes quickly for those who walk and slowly for those who stand; the fine pose has a third
    of it, and both have noise. Quality is the coarse pose's OKS, told with an error of a tenth.
    """

    def __init__(self, seed: int, standing: float) -> None:
        self.rng = np.random.default_rng(seed)
        self.size = self.rng.uniform(2, 40, PEOPLE)[:, None, None]
        self.error = self.rng.normal(size=(PEOPLE, 17, 2))
        walks = self.rng.random(PEOPLE) >= standing
        self.speed = np.where(walks[:, None], self.rng.normal(0, 6, (PEOPLE, 2)), 0)
        self.keeps = np.where(walks, 0.85, 0.995)[:, None, None]

    def frame(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Boxes, coarse and fine poses in crop pixels."""
        self.error = self.keeps * self.error + np.sqrt(1 - self.keeps**2) * self.rng.normal(size=self.error.shape)
        coarse, fine = (np.tile(TRUE, (PEOPLE, 1, 1)) for _ in range(2))
        coarse[..., :2] += self.error * self.size + self.rng.normal(0, 2, self.error.shape)
        fine[..., :2] += 0.35 * self.error * self.size + self.rng.normal(0, 1, self.error.shape)
        left = np.arange(PEOPLE) * 400.0
        boxes = np.stack([left, np.zeros(PEOPLE), left + 153.75, np.full(PEOPLE, 205.0)], axis=1)
        boxes += np.tile(self.speed * index, 2) + self.rng.normal(0, 0.5, boxes.shape)
        return boxes.astype(np.float32), coarse, fine


class SeenStages(TimedStages):
    """Stages that find the poses they are told to."""

    coarse: npt.NDArray[np.float32]
    fine: npt.NDArray[np.float32]

    def run_coarse(self, people: int) -> CoarseOutput:
        found = super().run_coarse(people)
        found.keypoints[:] = self.coarse[:people]
        return found

    def run_fine(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        found = super().run_fine(rows)
        found[:] = self.fine[rows]
        return found


def oks(found: npt.NDArray[np.float32], true: npt.NDArray[np.float32], bundle: Bundle) -> npt.NDArray[np.float64]:
    area = np.full(len(found), BODY_SHARE * 154 * 205)
    return keypoint_similarity(found, true, area, bundle.model.skeleton.sigmas).mean(axis=1)


def mean_oks(bundle: Bundle, prioritise: Prioritise, *, standing: float, carry: bool, budget: float = BUDGET) -> float:
    """Over all people and frames of three crowds, where there is time for `budget` refinements a frame."""
    found: list[float] = []
    for seed in range(3):
        crowd, clock = People(seed, standing), Ticks()
        noise = np.random.default_rng(seed)
        stages = SeenStages(bundle, clock)
        stages.coarse = stages.fine = np.zeros((16, 17, 3), np.float32)
        scheduler = DeadlineScheduler(clock=clock, prioritise=prioritise, carry=carry)
        estimator = PoseEstimator(bundle, stages, scheduler=scheduler)
        for size in (1, 16):
            scheduler.costs.coarse.calibrate(size, [0.001 * size])
            scheduler.costs.fine.calibrate(size, [0.010 * size])
        for index in range(FRAMES):
            boxes, stages.coarse, stages.fine = crowd.frame(index)
            truth = np.tile(TRUE, (PEOPLE, 1, 1))
            quality = oks(stages.coarse, truth, bundle) + noise.normal(0, 0.1, PEOPLE)
            stages.qualities = np.clip(quality, 0, 0.98).tolist()  # all of them are wanted
            deadline = clock.now + 0.001 * PEOPLE + 0.010 * (budget + 0.5)
            picture = Picture(PICTURE, Boxes.from_xyxy(boxes), time=index / 25, deadline=deadline)
            (result,) = estimator.estimate([picture])
            assert clock.now <= deadline
            in_picture = keypoints_to_image(truth, crop_frames(boxes, bundle.model.crop_size))
            found += oks(result.keypoints, in_picture, bundle).tolist()
    return float(np.mean(found))


def at_random(seed: int) -> Prioritise:
    rng = np.random.default_rng(seed)
    return lambda people: rng.random(len(people))


def the_best_first(people: Candidates) -> npt.NDArray[np.float64]:
    return -priority(people)


def test_it_beats_a_random_choice_of_people_who_walk(bundle: Bundle) -> None:
    chosen = mean_oks(bundle, priority, standing=0, carry=False)
    random = [mean_oks(bundle, at_random(seed), standing=0, carry=False) for seed in range(2)]
    nobody = mean_oks(bundle, priority, standing=0, carry=False, budget=-0.3)
    assert chosen > max(random) + 0.004
    assert min(random) > nobody + 0.02
    assert mean_oks(bundle, the_best_first, standing=0, carry=False) < min(random)


@pytest.mark.parametrize("standing", [0.5, 1.0])
def test_it_beats_a_random_choice_of_people_who_stand(bundle: Bundle, standing: float) -> None:
    chosen = mean_oks(bundle, priority, standing=standing, carry=True)
    assert chosen > mean_oks(bundle, at_random(0), standing=standing, carry=True) + 0.01


def test_what_people_keep_is_worth_much_where_they_stand_and_harms_nobody_who_walks(bundle: Bundle) -> None:
    gained = {
        standing: mean_oks(bundle, priority, standing=standing, carry=True)
        - mean_oks(bundle, priority, standing=standing, carry=False)
        for standing in (0.0, 1.0)
    }
    assert gained[1.0] > 0.1
    assert gained[0.0] > -0.003

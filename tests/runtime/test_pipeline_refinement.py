"""Who is refined, with which patches, and what comes of it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from stand_in_stages import (
    PATCH,
    PICTURE,
    REGION,
    StubStages,
    Ticks,
    TimedStages,
    raw_scores,
    some_boxes,
    stub_estimator,
)

from sharpose.bundle import Bundle, Gate, open_bundle, shipped_bundle
from sharpose.engines.load import load_two_stage
from sharpose.engines.two_stage import CoarseOutput
from sharpose.errors import EngineError, InputError
from sharpose.geometry import crop_frames, keypoints_to_image
from sharpose.runtime import Boxes, Picture, PoseEstimator
from sharpose.runtime.crowd import EstimateStopped
from sharpose.runtime.refinement import DeadlineScheduler
from sharpose.runtime.refinement.gate import Refine
from sharpose.runtime.refinement.priority import Candidates, Prioritise, priority
from sharpose.similarity import BODY_SHARE, keypoint_similarity


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The shipped one, with the threshold that these tests speak of."""
    shipped = raw_scores(open_bundle(shipped_bundle()))
    gate = Gate(quality_threshold=0.99, chosen_by="the tests")
    return Bundle(shipped.path, shipped.manifest.model_copy(update={"gate": gate}))


def test_only_those_below_the_threshold_enter_the_fine_batch(bundle: Bundle) -> None:
    estimator, stages = stub_estimator(bundle, [0.98, 0.995, 0.99, -1.0])
    result = estimator(PICTURE, some_boxes(4))
    assert stages.coarse_batches == [4]
    assert stages.fine_rows == [[0, 3]]  # 0.99 is not below 0.99
    assert result.refined.tolist() == [True, False, False, True]
    np.testing.assert_allclose(result.quality, [0.98, 0.995, 0.99, -1.0])
    np.testing.assert_allclose(result.keypoints[:, 0, 2], [0.9, 0.5, 0.5, 0.9])


def test_the_fine_batch_gets_its_own_peoples_patches(bundle: Bundle) -> None:
    estimator, stages = stub_estimator(bundle, [1.0, 0.0, 1.0, 0.0])
    estimator(PICTURE, some_boxes(4))
    (patches,) = stages.fine_patches
    for index, row in enumerate((1, 3)):  # the stub's first region is the row's number
        first = stages.crops[row, :PATCH, row * REGION : row * REGION + PATCH]
        np.testing.assert_array_equal(patches[index, 0].reshape(PATCH, PATCH, 3), first)


def test_nobody_below_the_threshold_runs_no_fine_stage(bundle: Bundle) -> None:
    estimator, stages = stub_estimator(bundle, [1.0, 1.2])
    result = estimator(PICTURE, some_boxes(2))
    assert (stages.coarse_batches, stages.fine_rows) == ([2], [])
    assert not result.refined.any()
    assert result.timings.fine == result.timings.gather == 0
    assert result.timings.coarse > 0


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4)), Boxes.empty()])
def test_zero_people_run_nothing(bundle: Bundle, boxes: npt.ArrayLike | Boxes) -> None:
    estimator, stages = stub_estimator(bundle, refine="always")
    result = estimator(PICTURE, boxes)
    assert (stages.coarse_batches, stages.fine_rows) == ([], [])
    assert (stages.crops == 77).all()
    assert len(result) == 0
    assert result.keypoints.shape == (0, 17, 3)
    assert result.scores.shape == result.quality.shape == result.refined.shape == (0,)
    assert result.timings.total == 0
    assert len(estimator(PICTURE, boxes, rows=[])) == 0


def test_more_people_than_max_batch_run_in_chunks(bundle: Bundle) -> None:
    estimator, stages = stub_estimator(bundle, [1, 0, 1, 1, 1, 1, 1, 1, 0, 0])
    result = estimator(PICTURE, some_boxes(10))
    assert stages.coarse_batches == [4, 4, 2]
    assert stages.fine_rows == [[1], [0, 1]]  # the second chunk refines nobody
    assert np.flatnonzero(result.refined).tolist() == [1, 8, 9]
    frames = crop_frames(some_boxes(10), bundle.model.crop_size)
    extent = np.array([191, 255], np.float32)
    crop_points = np.where(result.refined[:, None], [[3, 4]], [[1, 2]])
    expected = frames.center - frames.size / 2 + crop_points * frames.size / extent
    np.testing.assert_allclose(result.keypoints[:, 5, :2], expected, atol=1e-3)


@pytest.mark.parametrize(("refine", "rows"), [("always", [[0, 1, 2]]), ("never", [])])
def test_refine_modes_overrule_the_threshold(bundle: Bundle, refine: Refine, rows: list[list[int]]) -> None:
    estimator, stages = stub_estimator(bundle, [0.0, 2.0, math.nan], refine=refine)
    result = estimator(PICTURE, some_boxes(3))
    assert stages.fine_rows == rows
    assert result.refined.all() == (refine == "always")


@pytest.mark.parametrize(
    ("threshold", "refined"), [(0.5, [True, False]), (0.2, [False, False]), (math.inf, [True, True])]
)
def test_a_threshold_of_ones_own(bundle: Bundle, threshold: float, refined: list[bool]) -> None:
    estimator, _ = stub_estimator(bundle, [0.3, 0.7], quality_threshold=threshold)
    assert estimator.quality_threshold == threshold
    assert estimator(PICTURE, some_boxes(2)).refined.tolist() == refined


def test_a_threshold_of_zero_is_not_the_bundles(bundle: Bundle) -> None:
    estimator, stages = stub_estimator(bundle, [0.3], quality_threshold=0.0)
    estimator(PICTURE, some_boxes(1))
    assert stages.fine_rows == []


@pytest.mark.parametrize(
    ("rows", "fine"),
    [
        ([0, 5], [[0], [1]]),
        ([5, 0, 5], [[0], [1]]),
        (np.array([3], np.uint8), [[3]]),
        (range(4, 6), [[0, 1]]),
        ([], []),
        (np.zeros(0), []),
    ],
)
def test_rows_instead_of_the_gate(bundle: Bundle, rows: npt.ArrayLike, fine: list[list[int]]) -> None:
    estimator, stages = stub_estimator(bundle, [0.0] * 6, refine="never")
    result = estimator(PICTURE, some_boxes(6), rows=rows)
    assert stages.fine_rows == fine
    assert set(np.flatnonzero(result.refined).tolist()) == set(np.asarray(rows).astype(int).tolist())


@pytest.mark.parametrize(
    "rows",
    [[2], [-1], [[0]], 1, [0.5], [0.0], [True, False], np.array([True, False]), ["0"], [None], [[0], [0, 1]], [2**40]],
)
def test_rows_that_are_no_indices_are_refused(bundle: Bundle, rows: npt.ArrayLike) -> None:
    estimator, stages = stub_estimator(bundle)
    with pytest.raises(InputError, match=r"^rows: expected "):
        estimator(PICTURE, some_boxes(2), rows=rows)
    assert stages.coarse_batches == []


class BlobStages(StubStages):
    """Keypoint c is the centre of what is bright in channel c; keypoints 3 and 4 are the crop's first and last pixel.

    The coarse stage looks at the crop, the fine stage only at the patches that were gathered for it.
    """

    def run_coarse(self, people: int) -> CoarseOutput:
        super().run_coarse(people)
        rows, columns = self.regions
        for row in range(people):
            crop = self.crops[row]
            self._coarse_keypoints[row] = self._find(crop, score=0.5)
            light = crop.reshape(rows, REGION, columns, REGION, 3).astype(np.int64).sum((1, 3, 4)).ravel()
            self._order[row] = np.argsort(-light, kind="stable")
        return CoarseOutput(self._coarse_keypoints[:people], self._quality[:people], self._order[:people])

    def run_fine(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        found = []
        for index, row in enumerate(rows):
            crop = np.zeros((*self.crop_size, 3), np.uint8)
            patches = self.patches[index].reshape(self.selected, 2, 2, PATCH, PATCH, 3)
            for region, of_region in zip(self._order[row], patches, strict=False):
                top, left = region // self.regions[1] * REGION, region % self.regions[1] * REGION
                for down in range(2):
                    for right in range(2):
                        y, x = top + down * PATCH, left + right * PATCH
                        crop[y : y + PATCH, x : x + PATCH] = of_region[down, right]
            found.append(self._find(crop, score=0.9))
        super().run_fine(rows)
        return np.stack(found)

    def _find(self, crop: npt.NDArray[np.uint8], score: float) -> npt.NDArray[np.float32]:
        height, width = self.crop_size
        y, x = np.mgrid[:height, :width]
        found = np.zeros((self.joints, 3), np.float32)
        for channel in range(3):
            light = crop[..., channel].astype(np.float64)
            total = light.sum()
            assert total > 0, "the blob isn't in the crop"
            found[channel] = (x * light).sum() / total, (y * light).sum() / total, score
        found[3], found[4] = (0, 0, score), (width - 1, height - 1, score)
        return found


# A picture's height and width, a box, the blobs' radius in pixels, and where the red, green and blue one are.
BLOBS: dict[str, tuple[tuple[int, int], tuple[int, int, int, int], int, list[tuple[float, float]]]] = {
    "inside": ((360, 480), (100, 60, 200, 260), 4, [(140.3, 90.8), (120, 170), (185.5, 240.25)]),
    "upscaled": ((120, 160), (60, 40, 84, 76), 2, [(66.5, 46), (74.25, 58.5), (80, 70)]),
    "downscaled": ((1000, 1500), (200, 50, 900, 950), 20, [(300, 200), (560.5, 480.5), (800, 880)]),
    "wide": ((360, 480), (60, 150, 420, 210), 5, [(90, 170), (240.5, 180.5), (400, 195)]),
    "out on the left": ((360, 480), (-120, 40, 90, 330), 4, [(20, 100), (50.75, 180), (80, 300.5)]),
    "out below right": ((360, 480), (400, 220, 560, 470), 4, [(420, 240), (440.25, 300), (462, 340)]),
    "larger than the picture": ((200, 150), (-100, -80, 250, 300), 6, [(20, 30), (75.5, 100.5), (130, 180)]),
}


def picture_of_blobs(size: tuple[int, int], radius: float, centers: list[tuple[float, float]]) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3], BGR, black but for a red, a green and a blue blob."""
    y, x = np.mgrid[: size[0], : size[1]]
    rgb = [250 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (radius / 2) ** 2)) for cx, cy in centers]
    return np.ascontiguousarray(np.stack(rgb[::-1], axis=2).round().astype(np.uint8))


@pytest.mark.parametrize("refine", ["never", "always"])
@pytest.mark.parametrize("name", BLOBS)
def test_keypoints_land_where_the_light_is(bundle: Bundle, name: str, refine: Refine) -> None:
    size, box, radius, centers = BLOBS[name]
    estimator = PoseEstimator.from_stages(bundle, BlobStages(bundle), refine=refine)
    result = estimator(picture_of_blobs(size, radius, centers), [box])
    assert result.refined.tolist() == [refine == "always"]
    np.testing.assert_allclose(result.keypoints[0, :3, :2], centers, atol=0.25)
    np.testing.assert_allclose(result.keypoints[0, :3, 2], 0.9 if refine == "always" else 0.5)


def test_a_batch_that_is_terminated_is_given_up_where_that_is_asked_for(bundle: Bundle) -> None:
    picture = Picture(np.zeros((64, 64, 3), np.uint8), Boxes.from_xyxy([[0, 0, 40, 60]]))
    with PoseEstimator.from_stages(bundle, load_two_stage(bundle, threads=1)) as estimator:
        assert len(estimator.estimate([picture], stop=lambda: True)[0]) == 1  # it was one batch
        estimator.terminate()
        with pytest.raises(EstimateStopped):
            estimator.estimate([picture], stop=lambda: True)
        with pytest.raises(EngineError, match="terminate"):
            estimator.estimate([picture])


def test_the_crops_corners_are_the_padded_boxs_corners(bundle: Bundle) -> None:
    size, box, radius, centers = BLOBS["inside"]  # 100 x 200: higher than the crop's 3:4, so 150 x 200
    result = PoseEstimator.from_stages(bundle, BlobStages(bundle), refine="never")(
        picture_of_blobs(size, radius, centers), [box]
    )
    half = 1.25 * np.array([150, 200]) / 2
    center = np.array([150, 160])
    np.testing.assert_allclose(result.keypoints[0, 3, :2], center - half, atol=1e-3)
    np.testing.assert_allclose(result.keypoints[0, 4, :2], center + half, atol=1e-3)


def test_people_of_a_batch_keep_their_own_light(bundle: Bundle) -> None:
    """Six people in chunks of four, some of them refined: nobody gets another's crop, patches or frame."""
    picture = np.zeros((400, 900, 3), np.uint8)
    boxes, centers = [], []
    for index in range(6):
        left, top = 20 + (index % 3) * 300, 20 + (index // 3) * 200
        own = [(10.0 + 3 * index, 20.0), (40.0, 60.0 + index), (60.0, 100.0 - 4 * index)]
        picture[top - 10 : top + 150, left - 10 : left + 120] = picture_of_blobs(
            (160, 130), 4, [(x + 10, y + 10) for x, y in own]
        )
        boxes.append([left, top, left + 80, top + 130])
        centers.append([(left + x, top + y) for x, y in own])
    estimator = PoseEstimator.from_stages(bundle, BlobStages(bundle))
    result = estimator(picture, boxes, rows=[1, 2, 5])
    np.testing.assert_allclose(result.keypoints[:, :3, :2], centers, atol=0.25)
    np.testing.assert_allclose(result.keypoints[:, 0, 2], [0.5, 0.9, 0.9, 0.5, 0.5, 0.9])


PEOPLE, FRAMES, BUDGET = 10, 40, 2
TRUE = np.concatenate(
    [np.random.default_rng(9).uniform([40, 40], [150, 215], (17, 2)), np.ones((17, 1))], axis=1
).astype(np.float32)


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


OKS: dict[object, float] = {}


def mean_oks(bundle: Bundle, prioritise: Prioritise, *, standing: float, carry: bool, budget: float = BUDGET) -> float:
    """Over all people and frames of three crowds, where there is time for `budget` refinements a frame.

    What several tests compare with is computed once.
    """
    setting = (prioritise, standing, carry, budget)
    if setting not in OKS:
        OKS[setting] = _mean_oks(bundle, prioritise, standing=standing, carry=carry, budget=budget)
    return OKS[setting]


def _mean_oks(bundle: Bundle, prioritise: Prioritise, *, standing: float, carry: bool, budget: float) -> float:
    found: list[float] = []
    for seed in range(3):
        crowd, clock = People(seed, standing), Ticks()
        noise = np.random.default_rng(seed)
        stages = SeenStages(bundle, clock)
        stages.coarse = stages.fine = np.zeros((16, 17, 3), np.float32)
        scheduler = DeadlineScheduler(clock=clock, prioritise=prioritise, carry=carry)
        estimator = PoseEstimator.from_stages(bundle, stages, scheduler=scheduler)
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

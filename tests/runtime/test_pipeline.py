"""Pictures with boxes in, poses out: crops, batches, pictures of several streams, results."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from reference_model import reference_crops
from stand_in_stages import MAX_BATCH, PICTURE, raw_scores, some_boxes, stub_estimator

from sharpose.bundle import Bundle, open_bundle, shipped_bundle
from sharpose.engines.load import load_two_stage
from sharpose.engines.two_stage import CoarseOutput
from sharpose.errors import InputError
from sharpose.geometry import crop_frames
from sharpose.runtime import Boxes, Picture, PoseEstimator, PoseResult
from sharpose.runtime.crowd import EstimateStopped
from sharpose.runtime.refinement.gate import Refine


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return raw_scores(open_bundle(shipped_bundle()))


@pytest.fixture(scope="module")
def photo() -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(np.concatenate(list(reference_crops(3, (256, 192))), axis=1))


def real_estimator(
    bundle: Bundle, max_batch: int, refine: Refine, threshold: float | None = None, *, keep_regions: bool = False
) -> PoseEstimator:
    """With the bundle's own engines and a smaller max batch, so that few people make several chunks."""
    small = Bundle(bundle.path, bundle.manifest.model_copy(update={"max_batch": max_batch}))
    stages = load_two_stage(small, threads=1)
    return PoseEstimator.from_stages(
        small, stages, refine=refine, quality_threshold=threshold, keep_regions=keep_regions
    )


SEVEN = np.array(
    [
        [10, 10, 100, 200],
        [200, 5, 320, 250],
        [-60, 40, 90, 300],
        [400, 60, 560, 220],
        [300, 100, 330, 170],
        [150, 150, 460, 240],
        [100, 0, 180, 256],
    ],
    np.float32,
)


def test_a_mixed_batch_equals_always_and_never_row_by_row(bundle: Bundle, photo: npt.NDArray[np.uint8]) -> None:
    with real_estimator(bundle, 7, "never") as never:
        coarse = never(photo, SEVEN)
    with real_estimator(bundle, 7, "always") as always:
        fine = always(photo, SEVEN)
    threshold = float(np.sort(coarse.quality)[3:5].mean())
    with real_estimator(bundle, 7, "auto", threshold) as auto:
        mixed = auto(photo, SEVEN)
    np.testing.assert_allclose(mixed.quality, coarse.quality, atol=1e-6)
    np.testing.assert_array_equal(coarse.refined, [False] * 7)
    np.testing.assert_array_equal(fine.refined, [True] * 7)
    np.testing.assert_array_equal(mixed.refined, coarse.quality < threshold)
    assert mixed.refined.sum() == 4
    assert np.abs(fine.keypoints - coarse.keypoints)[:, :, :2].max(axis=(1, 2)).min() > 1  # they do differ
    expected = np.where(mixed.refined[:, None, None], fine.keypoints, coarse.keypoints)
    np.testing.assert_allclose(mixed.keypoints, expected, rtol=1e-5, atol=1e-3)


def test_chunks_equal_people_one_by_one(bundle: Bundle, photo: npt.NDArray[np.uint8]) -> None:
    rows = [0, 2, 3, 6]
    with real_estimator(bundle, 3, "auto") as estimator:
        together = estimator(photo, SEVEN, rows=rows)
        alone = [estimator(photo, SEVEN[i : i + 1], rows=[0] if i in rows else []) for i in range(7)]
    np.testing.assert_array_equal(np.flatnonzero(together.refined), rows)
    np.testing.assert_allclose(together.quality, np.concatenate([one.quality for one in alone]), atol=1e-6)
    np.testing.assert_allclose(
        together.keypoints, np.concatenate([one.keypoints for one in alone]), rtol=1e-5, atol=1e-3
    )


def test_a_result_outlives_the_next_call(bundle: Bundle, photo: npt.NDArray[np.uint8]) -> None:
    with real_estimator(bundle, 4, "auto") as estimator:
        first = estimator(photo, SEVEN, rows=[1])
        before = [first.keypoints.copy(), first.quality.copy(), first.refined.copy()]
        second = estimator(photo[::-1], SEVEN[::-1].copy(), rows=[0, 3])
    assert np.abs(second.keypoints - before[0]).max() > 1
    for array, copy in zip((first.keypoints, first.quality, first.refined), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_views_of_a_picture_give_what_their_copies_give(bundle: Bundle, photo: npt.NDArray[np.uint8]) -> None:
    with real_estimator(bundle, 2, "always") as estimator:
        for view in (photo[::-1, ::-1], photo[10:200:2, 20:400:3], photo[..., ::-1]):
            of_view = estimator(view, SEVEN[:2])
            of_copy = estimator(np.ascontiguousarray(view), SEVEN[:2])
            np.testing.assert_array_equal(of_view.keypoints, of_copy.keypoints)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([40, 50, 41, 51], id="one pixel"),
        pytest.param([40, 50, 40, 50], id="no size"),
        pytest.param([40, 50, 40, 90], id="no width"),
        pytest.param([-500, -900, -100, -300], id="outside, before"),
        pytest.param([5000, 6000, 5100, 6300], id="outside, behind"),
        pytest.param([-1e6, -1e6, 1e6, 1e6], id="huge"),
        pytest.param([1e9, 1e9, 1e9 + 512, 1e9 + 512], id="far away"),
    ],
)
def test_odd_boxes_give_finite_poses_around_them(
    bundle: Bundle, photo: npt.NDArray[np.uint8], box: list[float]
) -> None:
    with real_estimator(bundle, 2, "always") as estimator:
        result = estimator(photo, np.array([box, [10, 10, 100, 200]]))
        alone = estimator(photo, [[10, 10, 100, 200]])
    assert np.isfinite(result.keypoints).all()
    assert np.isfinite(result.scores).all()
    frame = crop_frames(result.boxes_xyxy[:1], bundle.model.crop_size)
    reach = 5 * frame.size[0]  # with random weights, DARK's step from a flat peak may leave the crop
    assert (np.abs(result.keypoints[0, :, :2] - frame.center[0]) <= reach + 1e-6 * np.abs(frame.center[0])).all()
    np.testing.assert_allclose(result.keypoints[1], alone.keypoints[0], rtol=1e-5, atol=1e-3)


def some_pictures() -> list[Picture]:
    """Of several sizes, with three, no, one and two people."""
    photo = np.ascontiguousarray(np.concatenate(list(reference_crops(3, (256, 192))), axis=1))
    return [
        Picture(photo, Boxes.from_xyxy([[10, 10, 100, 200], [200, 5, 320, 250], [-60, 40, 90, 300]], [0.9, 0.8, 0.7])),
        Picture(photo[:100], Boxes.empty(), stream=1),
        Picture(photo[:, 100:400], Boxes.from_xyxy([[100, 0, 180, 256]]), stream=2),
        Picture(photo[::-1, ::2], Boxes.from_xyxy([[40, 20, 160, 250], [150, 150, 260, 240]]), stream=3),
    ]


def assert_same(found: PoseResult, expected: PoseResult, atol: float) -> None:
    np.testing.assert_array_equal(found.boxes.xyxy, expected.boxes.xyxy)
    np.testing.assert_array_equal(found.boxes.scores, expected.boxes.scores)
    np.testing.assert_allclose(found.keypoints, expected.keypoints, rtol=0, atol=atol)
    np.testing.assert_allclose(found.quality, expected.quality, rtol=0, atol=atol)
    np.testing.assert_array_equal(found.refined, expected.refined)
    np.testing.assert_array_equal(found.regions_xyxy, expected.regions_xyxy)


def test_an_estimate_can_be_given_up_between_batches(bundle: Bundle) -> None:
    answers = iter([False, True])
    picture = Picture(np.zeros((64, 64, 3), np.uint8), Boxes.from_xyxy([[0, 0, 40, 60]] * 7))
    with real_estimator(bundle, 2, "never") as estimator:
        with pytest.raises(EstimateStopped):
            estimator.estimate([picture], stop=lambda: next(answers))
        assert next(answers, None) is None  # two batches of four ran
        assert len(estimator.estimate([picture])[0]) == 7


@pytest.mark.parametrize("max_batch", [2, 4, 16])
def test_pictures_together_give_what_they_give_alone(bundle: Bundle, max_batch: int) -> None:
    pictures = some_pictures()
    with real_estimator(bundle, max_batch, "always", keep_regions=True) as estimator:
        together = estimator.estimate(pictures)
        alone = [estimator(picture.image, picture.boxes) for picture in pictures]
    assert [len(result) for result in together] == [3, 0, 1, 2]
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected, atol=1e-3)


def test_the_same_batch_sizes_give_exactly_the_same(bundle: Bundle) -> None:
    pictures = some_pictures()
    with real_estimator(bundle, 1, "always", keep_regions=True) as estimator:
        together = estimator.estimate(pictures)
        alone = [estimator(picture.image, picture.boxes) for picture in pictures]
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected, atol=0)


def test_people_of_all_pictures_share_batches(bundle: Bundle) -> None:
    qualities = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    estimator, stages = stub_estimator(bundle, qualities)
    results = estimator.estimate([Picture(PICTURE, Boxes.from_xyxy(some_boxes(people))) for people in (3, 0, 1, 2)])
    assert stages.coarse_batches == [4, 2]  # at most four a batch
    assert stages.fine_rows == [[1], [0, 1]]
    assert [result.refined.tolist() for result in results] == [[False, True, False], [], [False], [True, True]]
    np.testing.assert_array_equal(np.concatenate([result.quality for result in results]), qualities)


def test_crops_come_from_ones_own_picture(bundle: Bundle) -> None:
    estimator, stages = stub_estimator(bundle)
    shades = [np.full((90, 60, 3), shade, np.uint8) for shade in (10, 90, 200)]
    box = Boxes.from_xyxy([[0, 0, 60, 90]])
    estimator.estimate([Picture(shade, box) for shade in shades])
    assert [int(crop[128, 96, 0]) for crop in stages.crops[:3]] == [10, 90, 200]


def test_results_know_the_shape_of_their_pictures_pixels(bundle: Bundle) -> None:
    estimator, _ = stub_estimator(bundle)
    boxes = Boxes.from_xyxy(some_boxes(1))
    results = estimator.estimate([Picture(PICTURE, boxes, sample_aspect_ratio=ratio) for ratio in (1.0, 64 / 45)])
    assert [result.sample_aspect_ratio for result in results] == [1.0, 64 / 45]


def test_no_pictures_and_nobody_run_nothing(bundle: Bundle) -> None:
    estimator, stages = stub_estimator(bundle)
    assert estimator.estimate([]) == []
    (result,) = estimator.estimate([Picture(PICTURE, Boxes.empty())])
    assert len(result) == 0
    assert result.timings.total == 0
    assert stages.coarse_batches == []


def test_the_time_of_a_batch_is_shared_by_people(bundle: Bundle) -> None:
    estimator, _ = stub_estimator(bundle, [0.0, 1.0, 1.0, 1.0])
    first, second = estimator.estimate([Picture(PICTURE, Boxes.from_xyxy(some_boxes(count))) for count in (1, 3)])
    for stage in ("crop", "coarse", "gate"):
        assert getattr(second.timings, stage) == pytest.approx(3 * getattr(first.timings, stage))
        assert getattr(first.timings, stage) > 0
    assert first.timings.fine > 0
    assert second.timings.fine == second.timings.gather == 0  # nobody of its people was refined


def test_regions_are_kept_where_they_are_asked_for(bundle: Bundle) -> None:
    estimator, stages = stub_estimator(bundle, [0.0, 1.0])
    assert estimator(PICTURE, some_boxes(2)).regions_xyxy is None
    estimator.keep_regions = True
    stages.qualities = [0.0, 1.0]
    # The frame is 1.25 times a box of the crop's aspect, and its corner pixels' centres are the crop's.
    boxes = np.array([[0, 0, 96, 128], [0, 0, 60, 90]], np.float32)
    result = estimator(PICTURE, boxes)
    regions = result.regions_xyxy
    assert regions is not None
    assert regions.dtype == np.float32
    assert regions.shape == (2, bundle.model.num_selected, 4)
    assert np.isnan(regions[1]).all()
    step = np.array([120 / 191, 160 / 255] * 2)  # picture pixels a crop pixel
    corner = np.array([-12, -16] * 2)
    for place, (column, row) in {0: (0, 0), 1: (1, 0), 6: (0, 1), 7: (1, 1)}.items():  # six regions a row
        edges = 32 * np.array([column, row, column + 1, row + 1]) - 0.5
        np.testing.assert_allclose(regions[0, place], corner + edges * step, atol=1e-4)
    assert estimator(PICTURE, []).regions_xyxy is not None


def test_alpha_is_how_many_regions_are_looked_at(nano_bundle: Path) -> None:
    seen = {}
    for alpha in (None, 0.5, 0.25):
        with PoseEstimator.from_bundle(
            nano_bundle, alpha=alpha, refine="always", keep_regions=True, threads=1, batch=4
        ) as estimator:
            seen[alpha] = estimator(PICTURE, some_boxes(3))
            assert estimator.bundle.model.alpha == (alpha or 0.5)
    own, same, fewer = seen.values()
    np.testing.assert_array_equal(own.keypoints, same.keypoints)
    np.testing.assert_array_equal(own.regions_xyxy, same.regions_xyxy)
    assert (own.keypoints != fewer.keypoints).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(own.quality, fewer.quality)
    assert own.regions_xyxy is not None
    assert fewer.regions_xyxy is not None
    np.testing.assert_array_equal(own.regions_xyxy[:, :3], fewer.regions_xyxy)  # the most relevant 3 of 12
    with pytest.raises(InputError, match="alpha: expected a number above 0 and at most 1, got 0"):
        PoseEstimator(nano_bundle, alpha=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"time": math.nan}, "time: expected seconds, got nan"),
        ({"time": 10**400}, "time and deadline: expected seconds, got 1000"),
        ({"time": "now"}, "time and deadline: expected seconds, got 'now'"),
        ({"deadline": 10**400}, "time and deadline: expected seconds, got 0.0 and 1000"),
        ({"deadline": math.nan}, r"deadline: expected a time\.perf_counter\(\) value, got NaN"),
    ],
)
def test_times_that_are_no_numbers_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Picture(**({"image": PICTURE, "boxes": Boxes.empty()} | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((48, 64), np.uint8), r"got uint8 \[48, 64\]"),
        (np.zeros((48, 64, 1), np.uint8), r"got uint8 \[48, 64, 1\]"),
        (np.zeros((48, 64, 4), np.uint8), r"got uint8 \[48, 64, 4\]"),
        (np.zeros((48, 64, 3), np.float32), r"got float32 \[48, 64, 3\]"),
        (np.zeros((0, 64, 3), np.uint8), r"got uint8 \[0, 64, 3\]"),
        (np.zeros((48, 0, 3), np.uint8), r"got uint8 \[48, 0, 3\]"),
        (None, "got NoneType"),
        ("picture.jpg", "got str"),
    ],
)
def test_what_is_no_picture_is_refused(bundle: Bundle, image: npt.NDArray[np.uint8], words: str) -> None:
    estimator, stages = stub_estimator(bundle)
    with pytest.raises(InputError, match=r"^image_bgr: expected .*uint8 .*\[H, W, 3\], " + words):
        estimator(image, some_boxes(1))
    assert stages.coarse_batches == []


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([[0, 0, math.nan, 5]], "finite"),
        ([[0, 0, math.inf, 5]], "finite"),
        ([[0, 0, 10**400, 5]], "expected an array of numbers"),
        ([[0, 0, 9, 9], [10, 0, 5, 5]], "index 1 .*xywh"),
        ([[0, 10, 5, 5]], "index 0"),
        ([1, 2, 3, 4], r"expected shape \[n, 4\], got \[4\]"),
        ([[1, 2, 3]], r"got \[1, 3\]"),
        ([[1, 2, 3, 4, 5]], r"got \[1, 5\]"),
        ([["a", 1, 2, 3]], "expected an array of numbers"),
        ([[1, 2, 3, 4], [1, 2]], "expected an array of numbers"),
    ],
)
def test_what_are_no_boxes_is_refused(bundle: Bundle, boxes: npt.ArrayLike, words: str) -> None:
    estimator, stages = stub_estimator(bundle)
    with pytest.raises(InputError, match=r"^boxes_xyxy.*" + words):
        estimator(PICTURE, boxes)
    assert stages.coarse_batches == []


def test_results_share_no_memory_with_the_engines(bundle: Bundle) -> None:
    estimator, stages = stub_estimator(bundle, [0.0, 1.0])
    first = estimator(PICTURE, some_boxes(2))
    kept = first.keypoints.copy()
    for buffer in (stages._coarse_keypoints, stages._fine_keypoints, stages._quality):
        buffer[:] = -99
    np.testing.assert_array_equal(first.keypoints, kept)
    np.testing.assert_array_equal(first.quality, [0.0, 1.0])


def test_scores_are_the_boxes_times_the_mean_of_the_keypoints(bundle: Bundle) -> None:
    estimator, _ = stub_estimator(bundle, [1.0, 0.0])
    result = estimator(PICTURE, Boxes.from_xyxy(some_boxes(2), [0.5, 0.25]))
    np.testing.assert_allclose(result.scores, [0.5 * 0.5, 0.25 * 0.9])
    np.testing.assert_array_equal(result.boxes_xyxy, some_boxes(2))


def test_timings_of_all_chunks_are_added_up(bundle: Bundle) -> None:
    estimator, _ = stub_estimator(bundle, refine="always")
    timings = estimator(PICTURE, some_boxes(9)).timings
    stages = (timings.crop, timings.coarse, timings.gate, timings.gather, timings.fine, timings.map_back)
    assert min(stages) > 0
    assert timings.total == pytest.approx(sum(stages))


@pytest.mark.parametrize("people", [1, 6])
def test_warming_up_runs_both_stages(bundle: Bundle, people: int) -> None:
    estimator, stages = stub_estimator(bundle, [9.0] * 6, refine="never")
    seconds = estimator.warm_up(people)
    assert 0 < seconds < 60
    assert sum(stages.coarse_batches) == people
    assert sum(map(len, stages.fine_rows)) == people
    assert (stages.crops[: min(people, MAX_BATCH)] == 0).all()


def test_eight_threads_on_one_estimator_get_their_own_people(bundle: Bundle, photo: npt.NDArray[np.uint8]) -> None:
    with real_estimator(bundle, 4, "always", keep_regions=True) as estimator:
        # Each with other people, and other numbers of them; two with several pictures at once.
        boxes = [np.roll(SEVEN, -index, axis=0)[: 1 + index % 5] for index in range(8)]
        expected = [estimator(photo, of) for of in boxes]
        wrong: list[object] = []
        start = threading.Barrier(8)

        def work(index: int) -> None:
            try:
                start.wait(30)
                for _ in range(2):
                    many = index < 2
                    found = estimator.estimate([Picture(photo, Boxes.from_xyxy(boxes[index]))] * (2 if many else 1))
                    for one in found:
                        assert one.boxes.xyxy.tolist() == boxes[index].tolist()
                        np.testing.assert_allclose(one.quality, expected[index].quality, atol=1e-5)
                        np.testing.assert_allclose(one.keypoints, expected[index].keypoints, atol=1e-2)
                        assert one.regions_xyxy is not None
                        assert np.array_equal(one.regions_xyxy, expected[index].regions_xyxy)  # type: ignore[arg-type]
            except BaseException as error:
                wrong.append((index, error))

        threads = [threading.Thread(target=work, args=[index]) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert wrong == []


def test_closing_waits_for_the_call_of_another_thread(bundle: Bundle) -> None:
    estimator, stages = stub_estimator(bundle)
    entered, leave = threading.Event(), threading.Event()
    run_coarse = stages.run_coarse

    def slowly(people: int) -> CoarseOutput:
        entered.set()
        leave.wait(30)
        return run_coarse(people)

    stages.run_coarse = slowly  # type: ignore[method-assign]
    calling = threading.Thread(target=lambda: estimator(PICTURE, some_boxes(1)))
    closing = threading.Thread(target=estimator.close)
    calling.start()
    assert entered.wait(30)
    closing.start()
    closing.join(0.1)
    assert stages.closed == 0
    leave.set()
    calling.join(30)
    closing.join(30)
    assert stages.closed == 1


def test_an_estimator_made_before_a_fork_is_refused_after_it(bundle: Bundle, photo: npt.NDArray[np.uint8]) -> None:
    """ONNX Runtime's threads aren't in the child: its first run, or freeing it, would hang now and then."""
    with real_estimator(bundle, 2, "never") as estimator:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                estimator(photo, SEVEN)
            except BaseException as error:
                os.write(writing, f"{type(error).__name__}: {error}".encode())
            estimator.close()
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as said:
            line = said.read()
        assert os.waitpid(child, 0)[1] == 0
        assert line.startswith("EngineError: estimator: expected to be called in process")
        assert len(estimator(photo, SEVEN)) == 7  # the parent's is whole


def test_a_with_block_closes_the_engines(bundle: Bundle) -> None:
    estimator, stages = stub_estimator(bundle)
    with pytest.raises(InputError), estimator as inside:
        inside(PICTURE, [[1, 2, 3]])
    assert inside is estimator
    assert stages.closed == 1
    estimator.close()
    assert stages.closed == 2

"""People of several pictures in shared batches."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from reference_model import reference_crops
from stand_in_stages import PICTURE, some_boxes, stub_estimator

from sharpose.bundle import Bundle, open_bundle
from sharpose.engines.load import load_two_stage
from sharpose.errors import InputError
from sharpose.runtime import Boxes, Picture, PoseEstimator, PoseResult


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


def real_estimator(bundle: Bundle, max_batch: int) -> PoseEstimator:
    small = Bundle(bundle.path, bundle.manifest.model_copy(update={"max_batch": max_batch}))
    return PoseEstimator(small, load_two_stage(small, threads=1), refine="always", keep_regions=True)


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


@pytest.mark.parametrize("max_batch", [2, 4, 16])
def test_pictures_together_give_what_they_give_alone(bundle: Bundle, max_batch: int) -> None:
    pictures = some_pictures()
    with real_estimator(bundle, max_batch) as estimator:
        together = estimator.estimate(pictures)
        alone = [estimator(picture.image, picture.boxes) for picture in pictures]
    assert [len(result) for result in together] == [3, 0, 1, 2]
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected, atol=1e-3)


def test_the_same_batch_sizes_give_exactly_the_same(bundle: Bundle) -> None:
    pictures = some_pictures()
    with real_estimator(bundle, 1) as estimator:
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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image": np.zeros((9, 9), np.uint8)}, r"^image_bgr: expected uint8 \[H, W, 3\], got uint8 \[9, 9\]"),
        ({"image": "a.jpg"}, "got str"),
        ({"time": math.nan}, "time: expected seconds, got nan"),
        ({"deadline": math.nan}, r"deadline: expected a time\.perf_counter\(\) value, got NaN"),
    ],
)
def test_what_is_no_picture_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Picture(**({"image": PICTURE, "boxes": Boxes.empty()} | settings))  # type: ignore[arg-type]


def test_boxes_of_a_picture_are_the_results(bundle: Bundle) -> None:
    estimator, _ = stub_estimator(bundle)
    boxes: list[npt.NDArray[np.float32]] = [some_boxes(2), some_boxes(3)[1:]]
    results = estimator.estimate([Picture(PICTURE, Boxes.from_xyxy(xyxy)) for xyxy in boxes])
    for result, xyxy in zip(results, boxes, strict=True):
        np.testing.assert_array_equal(result.boxes_xyxy, xyxy)

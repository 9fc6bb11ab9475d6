"""What comes into the two-stage pipeline, and what goes out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from stand_in_stages import MAX_BATCH, PICTURE, some_boxes, stub_estimator

from sharpose.bundle import Bundle, open_bundle
from sharpose.errors import InputError
from sharpose.runtime import Boxes


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


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
        ([[0, 0, 9, 9], [10, 0, 5, 5]], "index 1 .*xywh"),
        ([[0, 10, 5, 5]], "index 0"),
        ([1, 2, 3, 4], r"expected shape \[n, 4\], got \[4\]"),
        ([[1, 2, 3]], r"got \[1, 3\]"),
        ([[1, 2, 3, 4, 5]], r"got \[1, 5\]"),
        (None, "expected shape"),
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


def test_a_with_block_closes_the_engines(bundle: Bundle) -> None:
    estimator, stages = stub_estimator(bundle)
    with pytest.raises(InputError), estimator as inside:
        inside(PICTURE, [[1, 2, 3]])
    assert inside is estimator
    assert stages.closed == 1
    estimator.close()
    assert stages.closed == 2

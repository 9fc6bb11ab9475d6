"""Who is run through the two stages, and who is refined."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from stand_in_stages import PATCH, PICTURE, REGION, some_boxes, stub_estimator

from sharpose.bundle import Bundle, open_bundle
from sharpose.errors import InputError
from sharpose.geometry import crop_frames
from sharpose.runtime import Boxes
from sharpose.runtime.gate import Refine


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


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

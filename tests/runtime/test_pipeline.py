"""The two-stage pipeline with a bundle's own engines."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from reference_model import reference_crops

from sharpose.bundle import Bundle, open_bundle
from sharpose.engines.load import load_two_stage
from sharpose.errors import BundleError, EngineError, InputError
from sharpose.geometry import crop_frames
from sharpose.runtime import PoseEstimator
from sharpose.runtime.gate import Refine


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def photo() -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(np.concatenate(list(reference_crops(3, (256, 192))), axis=1))


def real_estimator(bundle: Bundle, max_batch: int, refine: Refine, threshold: float | None = None) -> PoseEstimator:
    """With the bundle's own engines and a smaller max batch, so that few people make several chunks."""
    small = Bundle(bundle.path, bundle.manifest.model_copy(update={"max_batch": max_batch}))
    return PoseEstimator(small, load_two_stage(small, threads=1), refine=refine, quality_threshold=threshold)


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


def test_from_bundle_uses_the_bundles_threshold(tiny_bundle: Path, photo: npt.NDArray[np.uint8]) -> None:
    with PoseEstimator.from_bundle(tiny_bundle, threads=1) as estimator:
        assert estimator.quality_threshold == 0.99
        assert (estimator.refine, estimator.device) == ("auto", "cpu")
        assert estimator.skeleton.num_keypoints == 17
        result = estimator(photo, SEVEN[:2])
    np.testing.assert_array_equal(result.refined, result.quality < 0.99)
    with pytest.raises(EngineError, match="closed"):
        estimator(photo, SEVEN[:2])


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"refine": "sometimes"}, InputError, "refine: expected one of auto, always, never, got 'sometimes'"),
        ({"quality_threshold": math.nan}, InputError, "quality_threshold: expected a number, got NaN"),
        ({"device": "gpu"}, EngineError, "device: expected cpu"),
    ],
)
def test_from_bundle_refuses_bad_settings(
    tiny_bundle: Path, settings: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        PoseEstimator.from_bundle(tiny_bundle, **settings)  # type: ignore[arg-type]


def test_from_bundle_refuses_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle\.json"):
        PoseEstimator.from_bundle(tmp_path)

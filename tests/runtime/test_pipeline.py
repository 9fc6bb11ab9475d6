"""The two-stage pipeline: with a bundle's own engines, and with stand-ins that record what they are given."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from reference_model import reference_crops

from sharpose.bundle import Bundle, open_bundle
from sharpose.engines.load import load_two_stage
from sharpose.engines.two_stage import CoarseHost
from sharpose.errors import BundleError, EngineError, InputError
from sharpose.geometry import crop_frames
from sharpose.runtime import Boxes, PoseEstimator
from sharpose.runtime.gate import Refine

REGION, PATCH = 32, 16
MAX_BATCH = 4


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


class StubStages:
    """Stands in for the engines: says the quality it is told to, and records what it is asked.

    Its outputs are views of buffers that the next run overwrites, as an engine's pinned memory is.
    """

    def __init__(self, bundle: Bundle, qualities: list[float] | None = None) -> None:
        height, width = self.crop_size = bundle.model.crop_size
        self.device = "stub"
        self.max_batch = MAX_BATCH
        self.regions = (height // REGION, width // REGION)
        self.selected = bundle.model.num_selected
        self.crops = np.full((MAX_BATCH, height, width, 3), 77, np.uint8)
        self.patches = np.full((MAX_BATCH, 4 * self.selected, PATCH * PATCH * 3), 77, np.uint8)
        self.joints = bundle.model.skeleton.num_keypoints
        self.qualities = list(qualities or [])
        self.coarse_batches: list[int] = []
        self.fine_rows: list[list[int]] = []
        self.fine_patches: list[npt.NDArray[np.uint8]] = []
        self.closed = 0
        self._coarse_keypoints = np.zeros((MAX_BATCH, self.joints, 3), np.float32)
        self._fine_keypoints = np.zeros((MAX_BATCH, self.joints, 3), np.float32)
        self._quality = np.zeros(MAX_BATCH, np.float32)
        self._order = np.zeros((MAX_BATCH, math.prod(self.regions)), np.int32)

    def run_coarse(self, people: int) -> CoarseHost:
        self.coarse_batches.append(people)
        self._coarse_keypoints[:people] = [[1, 2, 0.5]] * self.joints
        for row in range(people):
            self._quality[row] = self.qualities.pop(0) if self.qualities else 0.5
            self._order[row] = np.roll(np.arange(self._order.shape[1]), -row)
        return CoarseHost(self._coarse_keypoints[:people], self._quality[:people], self._order[:people])

    def run_fine(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        assert rows.dtype == np.int32
        self.fine_rows.append(rows.tolist())
        self.fine_patches.append(self.patches[: len(rows)].copy())
        self._fine_keypoints[: len(rows)] = [[3, 4, 0.9]] * self.joints
        return self._fine_keypoints[: len(rows)]

    def close(self) -> None:
        self.closed += 1


class BlobStages(StubStages):
    """Keypoint c is the centre of what is bright in channel c; keypoints 3 and 4 are the crop's first and last pixel.

    The coarse stage looks at the crop, the fine stage only at the patches that were gathered for it.
    """

    def run_coarse(self, people: int) -> CoarseHost:
        super().run_coarse(people)
        rows, columns = self.regions
        for row in range(people):
            crop = self.crops[row]
            self._coarse_keypoints[row] = self._find(crop, score=0.5)
            light = crop.reshape(rows, REGION, columns, REGION, 3).astype(np.int64).sum((1, 3, 4)).ravel()
            self._order[row] = np.argsort(-light, kind="stable")
        return CoarseHost(self._coarse_keypoints[:people], self._quality[:people], self._order[:people])

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


def stub_estimator(
    bundle: Bundle,
    qualities: list[float] | None = None,
    *,
    refine: Refine = "auto",
    quality_threshold: float | None = None,
) -> tuple[PoseEstimator, StubStages]:
    stages = StubStages(bundle, qualities)
    return PoseEstimator(bundle, stages, refine=refine, quality_threshold=quality_threshold), stages


def some_boxes(people: int) -> npt.NDArray[np.float32]:
    left = np.arange(people, dtype=np.float32) * 9
    return np.stack([left, left / 2, left + 60, left / 2 + 90], axis=1)


PICTURE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


# -- With the engines of a bundle --------------------------------------------------------------------------------------


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


# -- Known answers: blobs of light -------------------------------------------------------------------------------------

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
    estimator = PoseEstimator(bundle, BlobStages(bundle), refine=refine)
    result = estimator(picture_of_blobs(size, radius, centers), [box])
    assert result.refined.tolist() == [refine == "always"]
    np.testing.assert_allclose(result.keypoints[0, :3, :2], centers, atol=0.25)
    np.testing.assert_allclose(result.keypoints[0, :3, 2], 0.9 if refine == "always" else 0.5)


def test_the_crops_corners_are_the_padded_boxs_corners(bundle: Bundle) -> None:
    size, box, radius, centers = BLOBS["inside"]  # 100 x 200: higher than the crop's 3:4, so 150 x 200
    result = PoseEstimator(bundle, BlobStages(bundle), refine="never")(picture_of_blobs(size, radius, centers), [box])
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
    estimator = PoseEstimator(bundle, BlobStages(bundle))
    result = estimator(picture, boxes, rows=[1, 2, 5])
    np.testing.assert_allclose(result.keypoints[:, :3, :2], centers, atol=0.25)
    np.testing.assert_allclose(result.keypoints[:, 0, 2], [0.5, 0.9, 0.9, 0.5, 0.5, 0.9])


# -- Who is run, and who is refined ------------------------------------------------------------------------------------


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


# -- What comes in and goes out ----------------------------------------------------------------------------------------


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

"""Estimators from a bundle: its folder, their settings, and the detector that finds people."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from reference_model import reference_crops
from served_detector import PERSON, default_detector_served
from stand_in_stages import stub_estimator

from sharpose.bundle import Bundle, open_bundle, shipped_bundle
from sharpose.engines.load import load_two_stage
from sharpose.errors import BundleError, DetectorError, EngineError, InputError
from sharpose.runtime import PoseEstimator
from sharpose.runtime.detectors.onnx import Detector

BOXES = np.array([[10, 10, 100, 200], [200, 5, 320, 250]], np.float32)


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path) -> Bundle:
    return open_bundle(nano_bundle)


@pytest.fixture(scope="module")
def photo() -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(np.concatenate(list(reference_crops(3, (256, 192))), axis=1))


def test_from_bundle_uses_the_bundles_threshold(nano_bundle: Path, photo: npt.NDArray[np.uint8]) -> None:
    with PoseEstimator.from_bundle(nano_bundle, threads=1) as estimator:
        assert estimator.quality_threshold == 0.99
        assert (estimator.refine, estimator.device, estimator.precision) == ("auto", "cpu", "fp32")
        assert estimator.skeleton.num_keypoints == 17
        result = estimator(photo, BOXES)
    np.testing.assert_array_equal(result.refined, result.quality < 0.99)
    with pytest.raises(EngineError, match="closed"):
        estimator(photo, BOXES)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"refine": "sometimes"}, InputError, "refine: expected one of auto, always, never, got 'sometimes'"),
        ({"quality_threshold": math.nan}, InputError, "quality_threshold: expected a number, got NaN"),
        ({"device": "gpu"}, EngineError, "device: expected cpu"),
        ({"precision": "half"}, InputError, "precision: expected auto, fp32, fp16, bf16 or int8, got 'half'"),
        ({"precision": None}, InputError, "precision: expected auto, fp32, fp16, bf16 or int8, got None"),
        ({"precision": "int8"}, BundleError, "holds fp32 graphs, not int8; export it with --precision fp32,int8"),
        ({"precision": "bf16"}, EngineError, "precision bf16: device cpu has none; expected device openvino, or"),
        ({"quality_threshold": 10**400}, InputError, "quality_threshold: expected a number, got 1000"),
        ({"quality_threshold": "high"}, InputError, "quality_threshold: expected a number, got 'high'"),
        ({"threads": "a"}, InputError, "threads: expected 1 to [0-9]+ on this machine, or None, got 'a'"),
        ({"threads": 0}, InputError, "threads: expected 1 to [0-9]+ on this machine, or None, got 0"),
        ({"threads": 10**6}, InputError, "threads: expected 1 to [0-9]+ on this machine, or None, got 1000000"),
        ({"device": None}, InputError, "device: expected a name such as 'cpu' or 'cuda:0', got None"),
    ],
)
def test_from_bundle_refuses_bad_settings(
    nano_bundle: Path, settings: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        PoseEstimator.from_bundle(nano_bundle, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("bundle", [5, b"models", ["models"]])
def test_from_bundle_refuses_what_is_no_path(bundle: object) -> None:
    with pytest.raises(InputError, match=r"^bundle: expected a folder's path, or None .*, got "):
        PoseEstimator.from_bundle(bundle)  # type: ignore[arg-type]


def test_from_bundle_refuses_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle\.json"):
        PoseEstimator.from_bundle(tmp_path)


@pytest.fixture
def detector_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which the default detector's file may be had, and `served/tiny.onnx` taken away."""
    with default_detector_served(tmp_path) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield tmp_path


def test_without_boxes_people_are_found_first(bundle: Bundle, detector_served: Path) -> None:
    estimator, _ = stub_estimator(bundle)
    picture = np.zeros((96, 128, 3), np.uint8)
    found = estimator(picture)
    assert found.boxes_xyxy.tolist() == [PERSON]
    assert found.boxes.scores.tolist() == [0.5]
    (detector_served / "served" / "tiny.onnx").unlink()
    assert estimator(picture).boxes_xyxy.tolist() == [PERSON]  # the detector is kept
    assert estimator(picture, [[1, 2, 30, 40]]).boxes_xyxy.tolist() == [[1, 2, 30, 40]]
    assert len(estimator(picture, [])) == 0
    with pytest.raises(InputError, match="rows: expected boxes_xyxy as well"):
        estimator(picture, rows=[0])
    with pytest.raises(InputError, match="image_bgr: expected uint8 "):
        estimator(picture.astype(np.float32))
    with pytest.raises(InputError, match=r"got NoneType \(cv2.imread returns None"):
        estimator(None)  # type: ignore[arg-type]


def test_a_detector_that_is_given_finds_the_people(bundle: Bundle, detector_served: Path) -> None:
    detector = Detector.from_name("yolox-tiny", conf=0.6)  # above the score of the one that is found
    with PoseEstimator(bundle.path, threads=1, detector=detector) as estimator:
        assert len(estimator(np.zeros((96, 128, 3), np.uint8))) == 0
    assert len(detector(np.zeros((96, 128, 3), np.uint8))) == 0  # not closed with the estimator


def test_a_default_detector_that_does_not_come(bundle: Bundle, detector_served: Path) -> None:
    (detector_served / "served" / "tiny.onnx").unlink()
    estimator, _ = stub_estimator(bundle)
    with pytest.raises(DetectorError, match=r"yolox-tiny can't be downloaded: .* 404 .* --detector motion"):
        estimator(np.zeros((96, 128, 3), np.uint8))


def test_a_bundle_is_given_by_its_folder(bundle: Bundle, photo: npt.NDArray[np.uint8]) -> None:
    with (
        PoseEstimator(bundle.path, threads=1, refine="never") as estimator,
        PoseEstimator.from_bundle(bundle.path, threads=1, refine="never") as named,
        PoseEstimator.from_stages(bundle, load_two_stage(bundle, threads=1), refine="never") as expected,
    ):
        poses = expected(photo, BOXES).keypoints
        assert np.array_equal(estimator(photo, BOXES).keypoints, poses)
        assert np.array_equal(named(photo, BOXES).keypoints, poses)


def test_without_a_bundle_it_is_the_shipped_one() -> None:
    with PoseEstimator(threads=1) as estimator:
        assert estimator.bundle.path == shipped_bundle()


@pytest.mark.parametrize("exists", [True, False])
def test_a_checkpoint_is_no_bundle(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "sharpose_small.pth"
    if exists:
        path.write_bytes(b"weights")
    with pytest.raises(BundleError) as caught:
        PoseEstimator(path)
    found = "a file" if exists else "nothing"
    assert str(caught.value) == (
        f"bundle {path}: expected a folder written by sharpose-export, found {found} there; "
        f"export the checkpoint: sharpose-export --checkpoint {path} --output bundle"
    )

"""IoU and OKS against values worked out by hand; suppression by either."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from sharpose import similarity
from sharpose.similarity import body_area, box_iou, box_nms, keypoint_similarity, oks_nms, pose_oks
from sharpose.skeleton import COCO17


def test_overlap_of_boxes() -> None:
    first = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    second = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    np.testing.assert_allclose(box_iou(first, second), np.array([[1, 1 / 3, 0], [0, 0, 0]]))
    assert box_iou(first[:0], second).shape == (0, 3)


def test_box_nms_agrees_with_opencv() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 50, 300):
        xyxy = rng.uniform(0, 100, (count, 2)).repeat(2, axis=0).reshape(count, 4)
        xyxy[:, 2:] += rng.uniform(1, 60, (count, 2))
        scores = rng.permutation(count).astype(np.float32) + 1
        xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)
        for iou in (0.3, 0.65):
            ours = box_nms(xyxy.astype(np.float32), scores, iou)
            assert ours.tolist() == list(cv2.dnn.NMSBoxes(xywh.tolist(), scores.tolist(), 0.0, iou))
    assert box_nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.5).tolist() == []


def test_thousands_of_boxes_are_compared_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector with a low --conf has that many candidates; a step for each takes seconds a frame."""
    steps: list[int] = []

    def counted(boxes: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        steps.append(len(others))
        return box_iou(boxes, others)

    monkeypatch.setattr(similarity, "box_iou", counted)
    corners = np.arange(1000, dtype=np.float32)[:, None] * 10 + (0, 0, 8, 8)
    twice = np.vstack([corners, corners + 0.5]).astype(np.float32)
    scores = np.full(2000, 0.5, np.float32)
    assert box_nms(twice, scores, 0.65).tolist() == list(range(1000))
    assert len(steps) <= 100
    assert box_nms(twice, scores, 0.65, np.arange(2000) // 1000).tolist() == list(range(2000))
    assert box_nms(twice, scores, 0.8).tolist() == list(range(2000))  # their overlap is 0.78


def test_oks_by_hand() -> None:
    labels = np.array([[[0, 0, 2], [10, 0, 1], [99, 99, 0]]], np.float32)
    poses = np.array([[[3, 4, 0.9], [10, 0, 0.9], [0, 0, 0.9]]], np.float32)
    oks = pose_oks(poses, labels, np.array([100.0]), (0.1, 0.2, 0.3), labels[..., 2] > 0)
    # Distance 5 at sigma 0.1: 25 / (2 * 100 * (2 * 0.1)^2) = 3.125; the second is exact, the third isn't labelled.
    assert oks[0] == pytest.approx((math.exp(-3.125) + 1) / 2)


def test_nobody_labelled_is_nan_and_perfect_is_one() -> None:
    points = np.random.default_rng(0).uniform(0, 50, (2, 17, 2)).astype(np.float32)
    labelled = np.array([[True], [False]]).repeat(17, 1)
    oks = pose_oks(points, points, np.array([50.0, 50.0]), (0.05,) * 17, labelled)
    assert oks[0] == 1.0
    assert math.isnan(oks[1])


POSE = np.dstack([*np.random.default_rng(0).uniform(0, 200, (2, 1, 17)), np.full((1, 17), 0.8)]).astype(np.float32)
AREA = np.array([100.0 * 200])


def moved(x: float, joints: slice = slice(None)) -> npt.NDArray[np.float32]:
    pose = POSE.copy()
    pose[:, joints, 0] += np.float32(x)
    return pose


def weighted(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    """OKS with keypoints weighted by the higher of their scores."""
    return float(pose_oks(first, second, AREA, COCO17.sigmas, np.maximum(first, second)[..., 2])[0])


def test_the_further_the_less_alike() -> None:
    found = [weighted(POSE, moved(x)) for x in (0, 1, 3, 10, 1000)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 1.0
    assert found[1] > 0.98
    assert found[4] == pytest.approx(0, abs=1e-9)
    expected = np.exp(-(5.0**2) / (2 * AREA[0] * np.square(2 * np.array(COCO17.sigmas)))).mean()
    assert weighted(POSE, moved(5)) == pytest.approx(expected, rel=1e-5)


def test_keypoints_count_by_their_weights() -> None:
    assert weighted(POSE, moved(80, slice(9, 10))) == pytest.approx(16 / 17, abs=1e-4)
    unsure, gone, before = moved(80, slice(9, 10)), moved(80, slice(9, 10)), POSE.copy()
    unsure[:, 9, 2] = before[:, 9, 2] = 0.0
    assert weighted(before, unsure) == pytest.approx(1.0)  # never there
    assert weighted(before, gone) < 0.95  # has come up


def test_no_people_and_no_area() -> None:
    assert keypoint_similarity(POSE[:0], POSE[:0], AREA[:0], COCO17.sigmas).shape == (0, 17)
    assert pose_oks(POSE[:0], POSE[:0], AREA[:0], COCO17.sigmas, np.zeros((0, 17))).shape == (0,)
    assert np.isfinite(keypoint_similarity(POSE, moved(3), np.zeros(1), COCO17.sigmas)).all()
    assert body_area(np.array([[5, 5, 5, 9], [0, 0, 10, 20]], np.float32)).tolist() == [1.0, 106.0]


def test_oks_nms_takes_the_mean_area_and_all_keypoints() -> None:
    poses = np.array([[[0, 0], [0, 0]], [[3, 4], [0, 0]]], np.float32)
    scores, areas = np.array([0.9, 0.8], np.float32), np.array([50.0, 150.0])
    oks = (math.exp(-3.125) + 1) / 2
    assert oks_nms(poses, scores, areas, (0.1, 0.1), oks - 1e-9).tolist() == [0]
    assert oks_nms(poses, scores, areas, (0.1, 0.1), oks + 1e-9).tolist() == [0, 1]


def test_oks_nms_drops_near_copies_and_keeps_the_best() -> None:
    rng = np.random.default_rng(0)
    person = rng.uniform(0, 100, (17, 3)).astype(np.float32)
    poses = np.stack([person, person + np.float32(0.3), person + np.float32(30), person])
    scores = np.array([0.5, 0.9, 0.4, 0.2], np.float32)
    areas = np.full(4, 10_000.0)
    assert oks_nms(poses, scores, areas, COCO17.sigmas).tolist() == [1, 2]
    assert oks_nms(poses, scores, areas, COCO17.sigmas, threshold=1.0).tolist() == [1, 0, 2, 3]
    assert oks_nms(poses[:0], scores[:0], areas[:0], COCO17.sigmas).tolist() == []

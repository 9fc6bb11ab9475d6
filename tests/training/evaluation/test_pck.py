"""PCK and PCKh by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sharpose.errors import InputError
from sharpose.skeleton import MPII16
from sharpose.training.evaluation.data import People
from sharpose.training.evaluation.metrics import pck, pck_units, pckh_by_joint


def people(labels: list[list[list[float]]], head_sizes: list[float]) -> People:
    count = len(labels)
    return People(
        image_ids=np.arange(count),
        boxes_xyxy=np.tile(np.array([[0, 0, 30, 40]], np.float32), (count, 1)),
        box_scores=np.ones(count, np.float32),
        keypoints=np.array(labels, np.float32),
        areas=np.ones(count),
        head_sizes=np.array(head_sizes),
        labelled=True,
    )


def test_units_and_shares() -> None:
    table = people([[[0, 0, 2], [6, 8, 1], [90, 90, 0]], [[5, 5, 2], [0, 0, 0], [0, 0, 0]]], [2.0, math.nan])
    assert pck_units(table, "keypoint_diagonal").tolist() == pytest.approx([10, math.nan], nan_ok=True)
    assert pck_units(table, "box_diagonal").tolist() == [50, 50]
    assert pck_units(table, "box_side").tolist() == [40, 40]
    poses = table.keypoints.copy()
    poses[0, 0, 0] += 1  # exactly a tenth of the diagonal: counts
    poses[0, 1, 1] += 1.5
    poses[1, 0, 0] += 100
    assert pck(poses, table, "keypoint_diagonal", 0.1) == 0.5  # the person of one keypoint has no diagonal
    assert pck(poses, table, "box_side", 0.1) == pytest.approx(2 / 3)
    assert pck(poses, table, "head", 0.5) == 0.5
    with pytest.raises(InputError, match="PCK unit"):
        pck_units(table, "arm")  # type: ignore[arg-type]


def test_nothing_labelled_is_nan() -> None:
    table = people([[[0, 0, 0], [0, 0, 0]]], [1.0])
    assert math.isnan(pck(table.keypoints, table, "box_side", 0.1))
    assert math.isnan(pck(table.keypoints, table, "keypoint_diagonal", 0.1))


def test_pckh_leaves_pelvis_and_thorax_out_of_its_mean_and_weighs_by_count() -> None:
    labels = np.zeros((2, 16, 3), np.float32)
    labels[..., 2] = 2
    labels[1, 10, 2] = 0  # the second person's right wrist isn't labelled
    table = people(labels.tolist(), [10.0, 10.0])
    poses = labels.copy()
    poses[:, 6:8, 0] = 99  # pelvis and thorax
    poses[0, 10, 0] = 99  # the only right wrist
    poses[0, 15, 0] = 5.0  # half of the head size: correct
    table_of_parts = pckh_by_joint(poses, table, MPII16)
    assert table_of_parts["wrist"] == 0.5
    assert table_of_parts["elbow"] == 1.0
    assert list(table_of_parts) == ["ankle", "knee", "hip", "head_top", "wrist", "elbow", "shoulder", "mean"]
    assert table_of_parts["mean"] == pytest.approx(26 / 27)

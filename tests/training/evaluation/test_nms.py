"""OKS-NMS."""

from __future__ import annotations

import numpy as np

from sharpose.similarity import oks_nms
from sharpose.skeleton import COCO17


def test_near_copies_go_and_the_best_stays() -> None:
    rng = np.random.default_rng(0)
    person = rng.uniform(0, 100, (17, 3)).astype(np.float32)
    poses = np.stack([person, person + np.float32(0.3), person + np.float32(30), person])
    scores = np.array([0.5, 0.9, 0.4, 0.2], np.float32)
    areas = np.full(4, 10_000.0)
    assert oks_nms(poses, scores, areas, COCO17.sigmas).tolist() == [1, 2]
    assert oks_nms(poses, scores, areas, COCO17.sigmas, threshold=1.0).tolist() == [1, 0, 2, 3]
    assert oks_nms(poses[:0], scores[:0], areas[:0], COCO17.sigmas).tolist() == []

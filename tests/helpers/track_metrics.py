"""How well ids hold: switches, IDF1, track lengths; and people made of boxes for the tests of tracking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sharpose.runtime.result import Boxes, PoseResult
from sharpose.runtime.tracking.assignment import best_pairs
from sharpose.similarity import box_iou


def people(xyxy: npt.ArrayLike, keypoints: np.ndarray | None = None, scores: npt.ArrayLike | None = None) -> PoseResult:
    """Poses in boxes [n, 4]; without keypoints given, ones that say nothing (score 0)."""
    boxes = Boxes.from_xyxy(np.asarray(xyxy, np.float32).reshape(-1, 4), scores)
    count = len(boxes)
    if keypoints is None:
        keypoints = np.zeros((count, 17, 3), np.float32)
    return PoseResult(boxes, keypoints.astype(np.float32), np.ones(count, np.float32), np.zeros(count, np.bool_))


def scores_of(
    true_boxes: Sequence[np.ndarray],
    true_ids: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    ids: Sequence[np.ndarray],
) -> tuple[float, int]:
    """IDF1 and the number of id switches, over frames; a box is a person where they overlap by at least a half."""
    together: Counter[tuple[int, int]] = Counter()
    last: dict[int, int] = {}
    switches = 0
    for their_boxes, their_ids, our_boxes, our_ids in zip(true_boxes, true_ids, boxes, ids, strict=True):
        public = np.flatnonzero(our_ids > 0)
        overlap = box_iou(their_boxes.astype(np.float32), our_boxes[public].astype(np.float32))
        for row, column in best_pairs(overlap, 0.5):
            who, track = int(their_ids[row]), int(our_ids[public[column]])
            together[who, track] += 1
            switches += last.get(who, track) != track
            last[who] = track
    true_count = sum(len(one) for one in true_ids)
    our_count = sum(int((one > 0).sum()) for one in ids)
    names, tracks = sorted({who for who, _ in together}), sorted({track for _, track in together})
    table = np.array([[together[who, track] for track in tracks] for who in names], np.float64)
    right = sum(table[pair] for pair in best_pairs(table, 1.0)) if names else 0.0
    return 2 * float(right) / max(true_count + our_count, 1), switches


def track_lengths(ids: Sequence[np.ndarray]) -> np.ndarray:
    """In how many frames each public id was seen."""
    counts = Counter(int(one) for frame in ids for one in frame if one > 0)
    return np.array(sorted(counts.values()), np.int64)

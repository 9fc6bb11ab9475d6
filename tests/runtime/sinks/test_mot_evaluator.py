"""MOT text, read by TrackEval, the challenge's own evaluator.

The Makefile installs it without what it asks for: opencv-python, which overwrites opencv-python-headless.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.runtime.sinks.tables import MotSink

FRAMES = 30
WALKERS = {4: (10.0, 2.0), 9: (200.0, -1.5), 15: (400.0, 0.0)}  # id: where its box begins, pixels a frame


def boxes_at(index: int) -> np.ndarray:
    lefts = np.array([start + step * index for start, step in WALKERS.values()])
    return np.stack([lefts, np.full(3, 20.0), lefts + 40, np.full(3, 120.0)], axis=1)


def write_tracks(path: Path, record, ids_at) -> None:
    sink = MotSink(path, tracked=True)
    for index in range(FRAMES):
        made = record(index, people=3)
        poses = PoseResult(
            Boxes.from_xyxy(boxes_at(index)),
            made.poses.keypoints,
            made.poses.quality,
            made.poses.refined,
            track_ids=np.array(ids_at(index), np.int64),
        )
        sink.write(FrameRecord(made.frame, poses, made.draw))
    sink.close()


def evaluated(folder: Path) -> dict[str, dict[str, float]]:
    trackeval = pytest.importorskip("trackeval", reason="trackeval is not installed")
    truth = folder / "truth" / "walk" / "gt"
    truth.mkdir(parents=True)
    lines = []
    for index in range(FRAMES):
        for identity, (x1, y1, x2, y2) in zip(WALKERS, boxes_at(index), strict=True):
            # The challenge's ground truth: all numbers count from 1.
            lines.append(f"{index + 1},{identity},{x1 + 1},{y1 + 1},{x2 - x1},{y2 - y1},1,1,1\n")
    (truth / "gt.txt").write_text("".join(lines))
    dataset = trackeval.datasets.MotChallenge2DBox(
        {
            "GT_FOLDER": str(folder / "truth"),
            "TRACKERS_FOLDER": str(folder),
            "TRACKERS_TO_EVAL": ["tracks"],
            "TRACKER_SUB_FOLDER": "",
            "SKIP_SPLIT_FOL": True,
            "SEQ_INFO": {"walk": FRAMES},
            "BENCHMARK": "MOT15",
            "DO_PREPROC": False,
            "PRINT_CONFIG": False,
        }
    )
    evaluator = trackeval.Evaluator(
        {
            "USE_PARALLEL": False,
            "PRINT_RESULTS": False,
            "PRINT_CONFIG": False,
            "OUTPUT_SUMMARY": False,
            "OUTPUT_DETAILED": False,
            "PLOT_CURVES": False,
            "TIME_PROGRESS": False,
            "LOG_ON_ERROR": None,
            "BREAK_ON_ERROR": True,
        }
    )
    metrics = [trackeval.metrics.HOTA(), trackeval.metrics.CLEAR({"PRINT_CONFIG": False})]
    results, _ = evaluator.evaluate([dataset], metrics)
    found: dict[str, dict[str, float]] = results["MotChallenge2DBox"]["tracks"]["walk"]["pedestrian"]
    return found


def test_right_tracks_are_perfect(tmp_path, record):
    write_tracks(tmp_path / "tracks" / "walk.txt", record, lambda index: list(WALKERS))
    found = evaluated(tmp_path)
    np.testing.assert_allclose(found["HOTA"]["HOTA"], 1.0)
    assert found["CLEAR"]["IDSW"] == 0
    assert found["CLEAR"]["CLR_TP"] == 3 * FRAMES


def test_swapped_and_unsure_tracks_are_not(tmp_path, record):
    def ids_at(index: int) -> list[int]:
        return [0, 9, 15] if index < 5 else [4, 9, 15] if index < 20 else [9, 4, 15]

    write_tracks(tmp_path / "tracks" / "walk.txt", record, ids_at)
    found = evaluated(tmp_path)
    assert found["CLEAR"]["IDSW"] == 2
    assert found["CLEAR"]["CLR_FN"] == 5

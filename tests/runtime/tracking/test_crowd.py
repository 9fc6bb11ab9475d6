"""crowd.avi: about 30 people who walk, found by motion and tracked by their boxes alone; prints how long ids hold."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from track_metrics import people, track_lengths

from sharpose.runtime.detectors.motion import MotionBoxes
from sharpose.runtime.sources import open_source
from sharpose.runtime.tracking import Tracker


@pytest.mark.shared
@pytest.mark.parametrize(
    ("frames", "least_median", "tracks"),
    # People come and go: far fewer tracks would be people lost, far more ids lost.
    [(100, 70, (35, 60)), pytest.param(341, 100, (45, 95), marks=pytest.mark.soak)],
)
def test_ids_hold_on_the_crowd(shared_dir: Path, frames: int, least_median: int, tracks: tuple[int, int]) -> None:
    source = open_source(str(shared_dir / "media" / "crowd.avi"))
    said: list[str] = []
    detector, tracker, ids, boxes = MotionBoxes(said.append), Tracker(), [], []
    for frame in islice(source, frames):
        boxes.append(detector.boxes_for(frame))
        poses = people(boxes[-1].xyxy, scores=boxes[-1].scores)
        track_ids = tracker.update(poses, frame.time, (frame.height, frame.width)).track_ids
        assert track_ids is not None
        ids.append(track_ids)
    source.close()
    lengths = track_lengths(ids)
    long = lengths[lengths > 10]
    people_a_frame = float(np.mean([len(one) for one in boxes[25:]]))
    print(f"crowd.avi: {len(long)} tracks longer than 10 frames, median {np.median(long)}; {people_a_frame:.1f} boxes")
    assert len(ids) == frames
    assert said == []
    assert np.median(long) >= least_median
    assert tracks[0] <= len(long) <= tracks[1]
    assert 25 <= people_a_frame <= 40

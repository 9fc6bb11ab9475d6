"""Knee angles of a video as CSV, and how far each person bent their knees.

python examples/knee_angles.py squats.mp4 --output knees.csv

A straight leg has 180 degrees. The camera should look at people from the side: angles are those in the picture. The
person detector is downloaded once (20 MB). All joint angles, without Python:
sharpose-run squats.mp4 --track --smooth --angles all.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sharpose import PoseEstimator
from sharpose.errors import SharposeError

KNEES = ("left_knee", "right_knee")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Knee angles of a video as CSV.")
    parser.add_argument("video", help="video file, or any other source of sharpose-run")
    parser.add_argument("--output", type=Path, default=Path("knees.csv"), help="CSV file; default: knees.csv")
    given = parser.parse_args(arguments)
    if not given.output.parent.is_dir():
        parser.error(f"--output {given.output}: expected a folder that is there, found none at {given.output.parent}")

    deepest: dict[int, float] = {}
    with given.output.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["frame", "id", *KNEES])
        for index, (_, result) in enumerate(PoseEstimator().stream(given.video, track=True, smooth=True)):
            assert result.track_ids is not None
            angles = result.angles()  # float32 [people] in degrees by name; NaN where keypoints score too low
            for person, track_id in enumerate(result.track_ids.tolist()):
                both = [float(angles[name][person]) for name in KNEES]
                table.writerow([index, track_id or "", *("" if np.isnan(angle) else round(angle, 1) for angle in both)])
                if track_id and not np.isnan(both).all():
                    deepest[track_id] = min(deepest.get(track_id, 180.0), float(np.nanmin(both)))
    for track_id, angle in sorted(deepest.items()):
        print(f"person {track_id}: knees down to {angle:.0f} degrees")


if __name__ == "__main__":
    try:
        main()
    except (SharposeError, OSError) as error:  # one line: what was expected, what was found, what to do
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

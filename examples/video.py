"""A video with tracks: every person keeps an id and draws a line of where their hips have been.

python examples/video.py walk.mp4 --output tracks.mp4

The person detector is downloaded once (20 MB). Without the lines, one command does the same:
sharpose-run walk.mp4 --track --smooth --output tracks.mp4
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np

from sharpose import PoseEstimator
from sharpose.errors import SharposeError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="A video with tracks.")
    parser.add_argument("video", help="video file")
    parser.add_argument("--output", default="tracks.mp4", help="annotated video; default: tracks.mp4")
    given = parser.parse_args(arguments)
    if not given.output.endswith(".mp4"):
        parser.error(f"--output {given.output}: expected a name that ends in .mp4")
    rate = cv2.VideoCapture(given.video).get(cv2.CAP_PROP_FPS) or 25  # where the file doesn't say

    estimator = PoseEstimator()
    hips = [estimator.skeleton.keypoints.index(name) for name in ("left_hip", "right_hip")]
    trails: dict[int, list[tuple[float, float]]] = defaultdict(list)
    writer = None
    for frame, result in estimator.stream(given.video, track=True, smooth=True):
        picture = result.plot(frame)
        assert result.track_ids is not None
        for track_id, keypoints in zip(result.track_ids.tolist(), result.keypoints, strict=True):
            if track_id:  # 0: seen too shortly to have an id
                x, y, _ = keypoints[hips].mean(axis=0).tolist()
                trails[track_id].append((x, y))
                line = np.array(trails[track_id][-50:]).round().astype(np.int32)
                cv2.polylines(picture, [line], False, (255, 255, 255), 2, cv2.LINE_AA)
        if result.sample_aspect_ratio != 1:  # OpenCV's writer knows square pixels only
            picture = np.asarray(cv2.resize(picture, None, fx=result.sample_aspect_ratio, fy=1), np.uint8)
        if writer is None:
            height, width = picture.shape[:2]
            writer = cv2.VideoWriter(given.output, cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
            if not writer.isOpened():
                parser.error(f"--output {given.output}: can't be written")
        writer.write(picture)
    if writer is not None:
        writer.release()
    for track_id, trail in trails.items():
        print(f"person {track_id}: {len(trail)} frames")


if __name__ == "__main__":
    try:
        main()
    except SharposeError as error:  # one line: what was expected, what was found, what to do
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

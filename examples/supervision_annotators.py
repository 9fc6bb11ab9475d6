"""Our poses with the annotators of supervision, from one video to another.

python examples/supervision_annotators.py walk.mp4 --output supervision.mp4

Needs supervision: in the checkout, pip install ".[cpu,supervision]". The person detector is downloaded once (20 MB).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sharpose import PoseEstimator
from sharpose.errors import InputError, SharposeError, require_packages


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Poses with the annotators of supervision.")
    parser.add_argument("video", help="video file")
    parser.add_argument("--output", default="supervision.mp4", help="annotated video; default: supervision.mp4")
    given = parser.parse_args(arguments)
    if not Path(given.video).is_file():
        parser.error(f"{given.video}: expected a video file, found none")
    if Path(given.output).suffix != ".mp4":
        parser.error(f"--output {given.output}: expected a name that ends in .mp4")
    if not Path(given.output).parent.is_dir():
        parser.error(f"--output {given.output}: expected a folder that is there")

    require_packages("this example", ["supervision"], "cpu,supervision", InputError)
    import supervision as sv

    estimator = PoseEstimator()
    limbs = [(first + 1, second + 1) for first, second in estimator.skeleton.limbs]  # supervision counts from 1
    edges = sv.EdgeAnnotator(color=sv.Color.GREEN, thickness=3, edges=limbs)
    vertices = sv.VertexAnnotator(color=sv.Color.RED, radius=4)
    names = sv.LabelAnnotator()
    with sv.VideoSink(given.output, sv.VideoInfo.from_video_path(given.video)) as sink:
        for frame, result in estimator.stream(given.video, track=True, smooth=True):
            people = result.to_supervision()
            picture = edges.annotate(frame.copy(), people)
            picture = vertices.annotate(picture, people)
            detections = people.as_detections()  # boxes around the visible keypoints
            labels = [f"person {track_id}" for track_id in detections.data.get("tracker_id", [])]
            sink.write_frame(names.annotate(picture, detections, labels=labels))


if __name__ == "__main__":
    try:
        main()
    except SharposeError as error:  # one line: what was expected, what was found, what to do
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

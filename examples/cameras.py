"""Many cameras with one model: a thread for each, which share the estimator and its detector.

python examples/cameras.py rtsp://user:password@camera1/stream rtsp://user:password@camera2/stream

Ctrl-C ends it. Each camera's newest frame is taken, older ones are dropped, and a lost camera is reconnected. One
command does the same, with people of all cameras in shared batches:
sharpose-run CAMERA CAMERA --track --json 'out/{source}.jsonl'
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence

from sharpose import PoseEstimator
from sharpose.errors import SharposeError
from sharpose.runtime.options import SourceOptions


def watch(estimator: PoseEstimator, number: int, camera: str, reading: SourceOptions, stop: threading.Event) -> None:
    """Print who is there whenever that changes, until `stop` is set or the camera ends."""
    seen: list[int] = []
    try:
        for _, result in estimator.stream(camera, track=True, reading=reading):
            assert result.track_ids is not None
            ids = sorted(set(result.track_ids.tolist()) - {0})
            if ids != seen:
                print(f"camera {number}: people {ids}", flush=True)
                seen = ids
            if stop.is_set():
                break
        print(f"camera {number}: ended", flush=True)
    except SharposeError as error:  # the other cameras go on
        print(f"camera {number}: {error}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Many cameras with one model.")
    parser.add_argument("cameras", nargs="+", help="addresses: rtsp://…, /dev/video0, or a video file")
    parser.add_argument("--seconds", type=float, help="how long to watch; default: until Ctrl-C")
    given = parser.parse_args(arguments)

    estimator, stop = PoseEstimator(), threading.Event()
    reading = SourceOptions(duration=given.seconds)
    threads = [
        threading.Thread(target=watch, args=(estimator, number, camera, reading, stop), daemon=True)
        for number, camera in enumerate(given.cameras, 1)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        stop.set()
        for thread in threads:
            thread.join(timeout=2)  # for the frames at hand


if __name__ == "__main__":
    try:
        main()
    except SharposeError as error:  # one line: what was expected, what was found, what to do
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

"""TensorRT on a Jetson, from a camera or a video: prints people and frames per second.

python examples/jetson.py csi://0 --bundle bundle

Engines are built on the first start (minutes) and kept. The bundle should have half precision:
sharpose-export --checkpoint FILE --precision fp32,fp16 --output bundle
README says how to install TensorRT on a Jetson, and sharpose-doctor --device tensorrt whether it can run. The same
works on a desktop with an NVIDIA GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sharpose import PoseEstimator
from sharpose.engines.tensorrt.load import TensorRtSettings
from sharpose.errors import SharposeError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="TensorRT on a Jetson.")
    parser.add_argument("source", help="csi://0, /dev/video0, rtsp://… or a video file")
    parser.add_argument("--bundle", type=Path, help="bundle's folder; default: the one in the package")
    parser.add_argument("--engine-cache", type=Path, help="folder of engines; default: ~/.cache/sharpose")
    parser.add_argument("--frames", type=int, help="frames to process; default: all")
    given = parser.parse_args(arguments)

    settings = TensorRtSettings(engine_cache=given.engine_cache, say=print)
    with PoseEstimator(given.bundle, device="tensorrt", tensorrt=settings) as estimator:
        print(f"running on {estimator.device}")
        started = time.perf_counter()
        for count, (_, result) in enumerate(estimator.stream(given.source, track=True), 1):
            print(f"{result}; {count / (time.perf_counter() - started):.1f} frames per second")
            if count == given.frames:
                break


if __name__ == "__main__":
    try:
        main()
    except SharposeError as error:  # one line: what was expected, what was found, what to do
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

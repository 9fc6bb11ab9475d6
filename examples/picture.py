"""Poses in a picture: finds the people, prints their keypoints, and draws them.

python examples/picture.py photo.jpg --output poses.jpg

The person detector is downloaded once (20 MB). In the checkout, pip install ".[cpu]" is all that is needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from sharpose import PoseEstimator
from sharpose.errors import SharposeError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Poses in a picture.")
    parser.add_argument("picture", help="picture file")
    parser.add_argument("--output", default="poses.jpg", help="annotated picture; default: poses.jpg")
    given = parser.parse_args(arguments)
    if not cv2.haveImageWriter(given.output):
        parser.error(f"--output {given.output}: expected a picture's name, such as poses.jpg or poses.png")
    loaded = cv2.imread(given.picture) if Path(given.picture).is_file() else None
    if loaded is None:
        parser.error(f"{given.picture}: expected a picture, found none that can be read")
    image = np.asarray(loaded, np.uint8)  # [H, W, 3], BGR

    estimator = PoseEstimator()
    result = estimator(image)
    print(result)
    for number, person in enumerate(result.keypoints):
        for name, (x, y, score) in zip(estimator.skeleton.keypoints, person, strict=True):
            if score >= 0.3:
                print(f"person {number}: {name} at {x:.0f}, {y:.0f} (score {score:.2f})")

    if not cv2.imwrite(given.output, result.plot(image)):
        parser.error(f"--output {given.output}: can't be written")


if __name__ == "__main__":
    try:
        main()
    except SharposeError as error:  # one line: what was expected, what was found, what to do
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

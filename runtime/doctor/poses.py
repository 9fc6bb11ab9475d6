"""Poses of a picture of the built-in scene, which the doctor compares with those of this machine's CPU."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import numpy.typing as npt

from sharpose import __version__
from sharpose.bundle import Bundle
from sharpose.engines.precision import PrecisionChoice
from sharpose.errors import EngineError, SharposeError
from sharpose.files import cache_folder, read_json, replacing
from sharpose.runtime.estimator import Estimator
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.runtime.result import PoseResult
from sharpose.scene import SceneConfig, SceneFrame
from sharpose.serving.contract import bundle_sha256
from sharpose.similarity import body_area, keypoint_similarity

PICTURE = SceneConfig(seed=2, people=2, frames=1, height=360, width=480)
LEAST_OKS = 0.9
"""Other precisions and engines round otherwise; wrong poses have less than half."""


def both_poses(estimator: Estimator, frame: SceneFrame) -> PoseResult:
    """Everybody twice: first not refined, then refined."""
    people = len(frame.boxes_xyxy)
    return estimator(frame.image, np.concatenate([frame.boxes_xyxy] * 2), rows=range(people, 2 * people))


def least_oks(keypoints: npt.NDArray[np.float32], bundle: Bundle, frame: SceneFrame) -> float:
    """The least similarity of a person's keypoints to those of the same bundle on this machine's CPU, 0 to 1.

    Args:
        keypoints: float32 [2 * people, J, 3] in pixels, of `both_poses`.
        bundle: What they come from.
        frame: The picture.

    Raises:
        SharposeError: the CPU can't run the bundle.
    """
    expected = _expected_keypoints(bundle, frame)
    areas = np.tile(body_area(frame.boxes_xyxy), 2)
    return float(keypoint_similarity(keypoints, expected, areas, bundle.model.skeleton.sigmas).mean(axis=1).min())


def _expected_keypoints(bundle: Bundle, frame: SceneFrame) -> npt.NDArray[np.float32]:
    """float32 [n, J, 3], as the CPU computes them: once for each bundle, picture and version of this package, as a
    probe asks again and again, and a cache outlives an update.
    """
    shape = (2 * len(frame.boxes_xyxy), bundle.model.skeleton.num_keypoints, 3)
    picture = hashlib.sha256(frame.image.tobytes()).hexdigest()
    path = cache_folder() / "doctor" / f"{bundle_sha256(bundle)[:32]}-{picture[:32]}-{__version__}.json"
    try:
        kept = np.array(read_json(path, EngineError), np.float32)
        if kept.shape == shape:
            return kept
    except (SharposeError, OSError, TypeError, ValueError):  # not there yet, or damaged
        pass
    precision: PrecisionChoice = "fp32" if "fp32" in bundle.manifest.graphs else "auto"
    with PoseEstimator(bundle.path, precision=precision, threads=1, batch=1) as estimator:
        keypoints = both_poses(estimator, frame).keypoints
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, sync=False) as temporary:
            temporary.write_text(json.dumps(keypoints.tolist()), "utf-8")
    except OSError:  # computed again the next time
        pass
    return keypoints

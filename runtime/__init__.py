"""The two-stage pipeline and all that feeds and drains it. Torch-free.

from sharpose.runtime import PoseEstimator

estimator = PoseEstimator.from_bundle("bundle")
result = estimator(image_bgr, boxes_xyxy)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sharpose.runtime.batch import Picture
    from sharpose.runtime.pipeline import PoseEstimator
    from sharpose.runtime.result import Boxes, PoseResult, StageTimings

__all__ = ["Boxes", "Picture", "PoseEstimator", "PoseResult", "StageTimings"]

_HOMES = {
    "Boxes": "sharpose.runtime.result",
    "Picture": "sharpose.runtime.batch",
    "PoseEstimator": "sharpose.runtime.pipeline",
    "PoseResult": "sharpose.runtime.result",
    "StageTimings": "sharpose.runtime.result",
}


def __getattr__(name: str) -> object:
    """Import on first use: `sharpose-run --help` needs neither OpenCV nor an engine."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

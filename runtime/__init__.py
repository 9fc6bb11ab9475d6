"""The two-stage pipeline and all that feeds and drains it. Torch-free.

from sharpose.runtime import PoseEstimator

estimator = PoseEstimator("bundle")
result = estimator(image_bgr, boxes_xyxy)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sharpose.runtime.pipeline import PoseEstimator
    from sharpose.runtime.remote.estimator import RemotePoseEstimator
    from sharpose.runtime.result import Boxes, Picture, PoseResult, StageTimings

__all__ = ["Boxes", "Picture", "PoseEstimator", "PoseResult", "RemotePoseEstimator", "StageTimings"]


def __getattr__(name: str) -> object:
    """Import on first use: `sharpose-run --help` needs neither OpenCV nor an engine."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = {"PoseEstimator": "pipeline", "RemotePoseEstimator": "remote.estimator"}
    return getattr(import_module(f"sharpose.runtime.{homes.get(name, 'result')}"), name)

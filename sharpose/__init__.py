"""SHaRPose deployment toolkit: two-stage human pose estimation, exported and run without PyTorch.

from sharpose import Detector, PoseEstimator, RemotePoseEstimator, Tracker
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as type checkers take it; importing typing and pathlib takes long, and signals may come early
if TYPE_CHECKING:
    from sharpose.runtime.detectors.onnx import Detector
    from sharpose.runtime.pipeline import PoseEstimator
    from sharpose.runtime.remote.estimator import RemotePoseEstimator
    from sharpose.runtime.tracking import Tracker

__all__ = ["Detector", "PoseEstimator", "RemotePoseEstimator", "Tracker", "__version__"]

__version__ = "0.1.0"

# ONNX Runtime writes a device id and an event for its makers into the user's cache, unless told before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# In a checkout `runtime/`, `engines/` and the others lie beside this package's folder, not in it.
_FOLDER = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120
if not os.path.isdir(os.path.join(_FOLDER, "runtime")):  # noqa: PTH112, PTH118
    __path__.append(os.path.dirname(_FOLDER))  # noqa: PTH120


def __getattr__(name: str) -> object:
    """Import on first use: `import sharpose` needs neither OpenCV nor an engine."""
    homes = {
        "Detector": "detectors.onnx",
        "PoseEstimator": "pipeline",
        "RemotePoseEstimator": "remote.estimator",
        "Tracker": "tracking",
    }
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sharpose.runtime.{homes[name]}"), name)

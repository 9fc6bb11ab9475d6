"""SHaRPose deployment toolkit: two-stage human pose estimation, exported and run without PyTorch.

from sharpose import PoseEstimator
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sharpose.runtime.pipeline import PoseEstimator

__all__ = ["PoseEstimator", "__version__"]

__version__ = "0.1.0"

# In a checkout `runtime/`, `engines/` and the others lie beside this package's folder, not in it.
_FOLDER = Path(__file__).resolve().parent
if not (_FOLDER / "runtime").is_dir():
    __path__.append(str(_FOLDER.parent))


def __getattr__(name: str) -> object:
    """Import on first use: `import sharpose` needs neither OpenCV nor an engine."""
    if name != "PoseEstimator":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sharpose.runtime.pipeline import PoseEstimator

    return PoseEstimator

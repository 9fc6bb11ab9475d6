"""People found by their motion before a background that is learned: for cameras that stand still, without weights."""

from __future__ import annotations

from sharpose.runtime.detectors.motion.motion_boxes import MotionBoxes

__all__ = ["MotionBoxes"]

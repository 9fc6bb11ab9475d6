"""People from frame to frame: who is who, steady keypoints, and boxes that follow poses between detections."""

from __future__ import annotations

from sharpose.runtime.tracking.follow_poses import FollowPoses
from sharpose.runtime.tracking.smoother import Smoother
from sharpose.runtime.tracking.tracker import Tracker, TrackerSettings

__all__ = ["FollowPoses", "Smoother", "Tracker", "TrackerSettings"]

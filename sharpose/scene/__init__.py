"""The built-in scene: procedurally drawn people with exact keypoints and boxes. Torch-free."""

from __future__ import annotations

from sharpose.scene.config import SceneConfig, parse_scene
from sharpose.scene.scenes import Scene, draw_person_sample
from sharpose.scene.stage import SceneFrame

__all__ = ["Scene", "SceneConfig", "SceneFrame", "draw_person_sample", "parse_scene"]

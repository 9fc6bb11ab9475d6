"""The built-in scene: procedurally drawn people with exact keypoints and boxes. Torch-free."""

from __future__ import annotations

from sharpose.scene.scenes import Scene, SceneConfig, draw_person_sample, parse_scene
from sharpose.scene.stage import SceneFrame

__all__ = ["Scene", "SceneConfig", "SceneFrame", "draw_person_sample", "parse_scene"]

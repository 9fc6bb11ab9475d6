"""Frames of the built-in scene, which brings its own boxes."""

from __future__ import annotations

from collections.abc import Iterator

from sharpose.runtime.frames import Frame, SourceInfo
from sharpose.runtime.result import Boxes

__all__ = ["SceneSource", "is_scene"]


def is_scene(spec: str) -> bool:
    """Whether `spec` names the built-in scene (`./scene` is a file or folder of that name)."""
    return spec == "scene" or spec.startswith("scene:")


class SceneSource:
    """The drawn scene: frames with the true boxes of the people in them.

    Args:
        spec: `scene`, or `scene:seed=0,people=5,frames=150,size=720x1280`.

    Raises:
        SharposeError: what follows `scene:` is not understood.
    """

    def __init__(self, spec: str) -> None:
        from sharpose.scene import Scene, parse_scene  # drawing code, needed by nobody who brings a video

        config = parse_scene(spec)
        self._scene = Scene(config)
        self.info = SourceInfo(spec, config.frames, float(config.fps), frozenset(range(config.frames)))

    def __iter__(self) -> Iterator[Frame]:
        """The frames, `boxes` set."""
        for drawn in self._scene:
            boxes = Boxes.from_xyxy(drawn.boxes_xyxy)
            yield Frame(drawn.image, drawn.index, drawn.time, drawn.index, boxes)

    def close(self) -> None:
        """Nothing is open."""

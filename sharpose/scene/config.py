"""What a built-in scene is made of, and the `scene:seed=0,people=5` text that a user says it with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sharpose.errors import ConfigError

__all__ = ["SceneConfig", "parse_scene"]

MAX_PEOPLE = 64
MIN_SIZE = 64
MAX_SIZE = 8192


@dataclass(frozen=True)
class SceneConfig:
    """A seeded scene; equal configurations give equal pixels.

    Attributes:
        seed: 0 or more; chooses place, camera, people, clothes and what they do.
        people: How many people live in the scene, 0 to 64 (those who walk out of the picture come back).
        frames: How many frames it has, 1 or more.
        height: Picture height in pixels, 64 to 8192.
        width: Picture width in pixels, 64 to 8192.
        fps: Frames a second, above 0.

    Raises:
        ConfigError: a value has the wrong type or lies outside its range.
    """

    seed: int = 0
    people: int = 5
    frames: int = 150
    height: int = 720
    width: int = 1280
    fps: float = 25.0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[int, int | None]] = {
            "seed": (0, None),
            "people": (0, MAX_PEOPLE),
            "frames": (1, None),
            "height": (MIN_SIZE, MAX_SIZE),
            "width": (MIN_SIZE, MAX_SIZE),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            wanted = f"expected a whole number of {low} or more" + ("" if high is None else f" and at most {high}")
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"scene {name}: {wanted}, got {value!r}")
            if value < low or (high is not None and value > high):
                raise ConfigError(f"scene {name}: {wanted}, got {value}")
        fps = self.fps
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not math.isfinite(fps) or fps <= 0:
            raise ConfigError(f"scene fps: expected a number above 0, got {fps!r}")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("expected a whole number such as 3")
    return int(text)


def _positive(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("expected a number such as 25") from None


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isascii() and height.isdigit() and width.isascii() and width.isdigit()):
        raise ValueError("expected HEIGHTxWIDTH such as 720x1280")
    return int(height), int(width)


_READERS: dict[str, Callable[[str], int | float | tuple[int, int]]] = {
    "seed": _whole,
    "people": _whole,
    "frames": _whole,
    "size": _size,
    "fps": _positive,
}
_EXAMPLE = "scene:seed=0,people=5,frames=150,size=720x1280"


def parse_scene(spec: str) -> SceneConfig:
    """The configuration that `spec` names: `"scene"`, or `"scene:seed=3,people=5,frames=150,size=720x1280"`.

    Keys: `seed`, `people`, `frames`, `size` (height x width, pixels) and `fps`; each at most once, any order.

    Raises:
        ConfigError: not a scene, an unknown or repeated key, or a value that is malformed or out of range.
    """
    name, colon, settings = spec.partition(":")
    if name != "scene" or (colon and not settings.strip()):
        raise ConfigError(f"scene: expected 'scene' or settings such as {_EXAMPLE!r}, got {spec!r}")
    found: dict[str, int | float | tuple[int, int]] = {}
    known = ", ".join(_READERS)
    for setting in settings.split(",") if colon else []:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not key:
            raise ConfigError(f"scene: expected key=value with a key of {known}, got {setting!r} in {spec!r}")
        if key not in _READERS:
            raise ConfigError(f"scene: unknown key {key!r} in {spec!r}: expected one of {known}")
        if key in found:
            raise ConfigError(f"scene: key {key!r} stands more than once in {spec!r}: say each of {known} once")
        try:
            found[key] = _READERS[key](text)
        except ValueError as error:
            raise ConfigError(f"scene: {key}: {error}, got {text!r} in {spec!r} (keys: {known})") from None
    size = found.pop("size", None)
    if isinstance(size, tuple):
        return SceneConfig(height=size[0], width=size[1], **found)  # type: ignore[arg-type]
    return SceneConfig(**found)  # type: ignore[arg-type]

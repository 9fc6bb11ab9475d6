"""Scenes over time, the `scene:seed=0,people=5` text that names them, and single people for training."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sharpose.errors import ConfigError, InputError
from sharpose.geometry import parse_size
from sharpose.scene.background import PLACES, paint
from sharpose.scene.canvas import Camera
from sharpose.scene.cast import Ground, cast_for_scene, cast_person
from sharpose.scene.keypoints import rows_of
from sharpose.scene.looks import Light
from sharpose.scene.motion import EXERCISES, shuttle
from sharpose.scene.props import PROPS, Sprite, make_prop
from sharpose.scene.stage import SceneFrame, Stage, effects
from sharpose.skeleton import Skeleton

MAX_PEOPLE = 64
MIN_SIZE = 64
MAX_SIZE = 8192
MAX_PIXELS = 4320 * 7680
MAX_FPS = 10_000
_LONG = 10**12
_NEAREST_PROP = 1.12  # how far away props are at least; 1 is where people are seen whole


@dataclass(frozen=True)
class SceneConfig:
    """A seeded scene; equal configurations give equal pixels.

    Attributes:
        seed: 0 or more; chooses place, camera, people, clothes and what they do.
        people: How many people are in the scene, 0 to 64. They walk in and out of the picture and hide each other, so a
            frame may show fewer.
        frames: How many frames it has, 1 or more.
        height: Picture height in pixels, 64 to 8192; times the width at most those of 8K, 4320x7680.
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
        size = (MIN_SIZE, MAX_SIZE)
        limits = {"seed": (0, _LONG), "people": (0, MAX_PEOPLE), "frames": (1, _LONG), "height": size, "width": size}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            wanted = f"expected a whole number of {low} or more and at most {high}"
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"scene {name}: {wanted}, got {value!r}")
            if not low <= value <= high:
                raise ConfigError(f"scene {name}: {wanted}, got {reprlib.repr(value)}")
        if self.height * self.width > MAX_PIXELS:
            raise ConfigError(
                f"scene size: expected at most {MAX_PIXELS} pixels, as of 4320x7680, got {self.height}x{self.width}"
            )
        fps = self.fps
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= MAX_FPS:
            raise ConfigError(f"scene fps: expected a number above 0 and at most {MAX_FPS}, got {reprlib.repr(fps)}")


_KEYS = {
    "seed": "a whole number such as 3",
    "people": "a whole number such as 3",
    "frames": "a whole number such as 3",
    "size": "HEIGHTxWIDTH such as 720x1280",
    "fps": "a number such as 25",
}


def _read(key: str, text: str) -> dict[str, int | float]:
    """The fields that a setting gives; raises `ValueError` for a malformed value."""
    if key == "size":
        return dict(zip(("height", "width"), parse_size(text), strict=True))
    if not text.isascii() or "_" in text or (key != "fps" and not text.isdigit()):
        raise ValueError
    return {key: float(text) if key == "fps" else int(text)}


_EXAMPLE = "scene:seed=0,people=5,frames=150,size=720x1280,fps=25"


def parse_scene(spec: str) -> SceneConfig:
    """The configuration that `spec` names: `"scene"`, or `"scene:seed=3,people=5,frames=150,size=720x1280,fps=25"`.

    Keys: `seed`, `people`, `frames`, `size` (height x width, pixels) and `fps`; each at most once, any order.

    Raises:
        ConfigError: not a scene, an unknown or repeated key, or a value that is malformed or out of range.
    """
    name, colon, settings = spec.partition(":")
    if name != "scene" or (colon and not settings.strip()):
        raise ConfigError(f"scene: expected 'scene' or settings such as {_EXAMPLE!r}, got {spec!r}")
    found: dict[str, int | float] = {}
    seen: set[str] = set()
    known = ", ".join(_KEYS)
    for setting in settings.split(",") if colon else []:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not key:
            raise ConfigError(f"scene: expected key=value with a key of {known}, got {setting!r} in {spec!r}")
        if key not in _KEYS:
            raise ConfigError(f"scene: unknown key {key!r} in {spec!r}: expected one of {known}")
        if key in seen:
            raise ConfigError(f"scene: key {key!r} is given more than once in {spec!r}: give each of {known} once")
        seen.add(key)
        try:
            found |= _read(key, text)
        except ValueError:
            raise ConfigError(
                f"scene: {key}: expected {_KEYS[key]}, got {text!r} in {spec!r} (keys: {known})"
            ) from None
    return SceneConfig(**found)  # type: ignore[arg-type]


_PLACE_PROPS = {
    "studio": ("crates", "plant", "cone"),
    "room": ("table", "plant", "crates"),
    "street": ("bollard", "bench", "car", "plant", "cone"),
    "court": ("cone", "fence", "bench"),
    "park": ("bench", "fence", "plant", "bollard"),
    "clutter": PROPS,
}


def _light(rng: np.random.Generator) -> Light:
    right = float(rng.uniform(-0.75, 0.75))
    down = float(rng.uniform(-0.65, -0.3))
    near = float(np.sqrt(max(1 - right * right - down * down, 0.1)))
    return Light(right, down, near, float(rng.uniform(0.45, 0.7)))


class Scene:
    """A place with people who move through it; `frame` draws any moment of it.

    Args:
        config: What the scene is made of; the same configuration gives the same bytes in any order and process.
        skeleton: Of the labels, whose keypoints must be among `sharpose.scene.keypoints.KEYPOINTS`; None for COCO's.

    Raises:
        InputError: the skeleton has other keypoints.
    """

    def __init__(self, config: SceneConfig, skeleton: Skeleton | None = None) -> None:
        self.config = config
        rng = np.random.default_rng([config.seed, 1])
        height, width = config.height, config.width
        place = list(PLACES)[int(rng.integers(len(PLACES) - 1))]
        focal = float(rng.uniform(1.05, 1.35)) * max(height, 0.62 * width)
        horizon = float(rng.uniform(0.22, 0.36)) * height
        pitch = float(np.arctan((height / 2 - horizon) / focal))
        above = float(rng.uniform(1.25, 2.0))
        camera = Camera(focal, width / 2, height / 2, above, pitch)
        near = camera.ground_depth(0.93 * height)
        far = min(2.3 * near, 13.0)
        if 0.9 * far < _NEAREST_PROP * near:  # a picture many times as wide as it is high shows no ground that close
            far = 2.3 * near
        ground = Ground(near, far, camera, width)
        self._place = place
        self._stage = Stage(
            background=paint(rng, place, camera, height, width),
            camera=camera,
            light=_light(rng),
            people=tuple(cast_for_scene(config.seed, config.people, ground)),
            props=self._props(place, ground),
            effects=effects((config.seed, 40), height, width),
            rows=rows_of(skeleton),
        )

    def _props(self, place: str, ground: Ground) -> tuple[Sprite, ...]:
        rng = np.random.default_rng([self.config.seed, 30])
        names = _PLACE_PROPS[place]
        props = []
        for _ in range(int(rng.integers(1, 4))):
            name = names[int(rng.integers(len(names)))]
            away = float(rng.uniform(_NEAREST_PROP, 0.9 * ground.far / ground.near)) * ground.near
            spot = np.array([float(rng.uniform(-0.9, 0.9)) * ground.reach(away), -away])
            props.append(make_prop(rng, name, ground.camera, spot))
        return tuple(props)

    def __len__(self) -> int:
        return self.config.frames

    def __iter__(self) -> Iterator[SceneFrame]:
        for index in range(len(self)):
            yield self.frame(index)

    def frame(self, index: int) -> SceneFrame:
        """Draw frame `index`, 0 to `frames - 1`, in any order.

        Raises:
            InputError: there is no such frame.
        """
        return self._render(self._stage, index)

    def without_people(self, index: int) -> SceneFrame:
        """Frame `index` as it would be without anybody: the same place, props, camera noise.

        Raises:
            InputError: there is no such frame.
        """
        return self._render(replace(self._stage, people=()), index)

    def _render(self, stage: Stage, index: int) -> SceneFrame:
        if not 0 <= index < len(self):
            raise InputError(f"scene frame index: expected 0 to {len(self) - 1}, got {index}")
        return stage.render(index, index / self.config.fps)


_SAMPLE_KINDS = {"walk": 0.24, "run": 0.1, "stand": 0.28, "exercise": 0.14, "freeze": 0.17, "sit": 0.07}


def draw_person_sample(
    seed: int, size: tuple[int, int] = (256, 192), *, companions: int = 0, skeleton: Skeleton | None = None
) -> SceneFrame:
    """One picture of one person, as training data: any view, pose, framing, place and camera angle.

    Args:
        seed: 0 or more; the same seed gives the same picture.
        size: Picture height and width in pixels, 64 or more each.
        companions: How many others may stand close by; they are labelled too, and the person asked for comes first.
        skeleton: Of the labels, as `Scene` takes it.

    Returns:
        A frame of index 0 and time 0. Parts of the person may lie outside the picture.

    Raises:
        InputError: `seed`, `size` or `companions` is out of range, or the skeleton has keypoints that scenes lack.
    """
    height, width = size
    if seed < 0 or companions < 0 or companions > 8:
        raise InputError(f"expected seed >= 0 and companions 0 to 8, got seed={seed} and companions={companions}")
    if min(height, width) < MIN_SIZE:
        raise InputError(f"size: expected a height and width of at least {MIN_SIZE} pixels, got {height}x{width}")
    rng = np.random.default_rng([seed, 2])
    share = float(rng.uniform(1.0, 1.7) if rng.random() < 0.18 else rng.uniform(0.55, 0.98))
    away = float(rng.uniform(2.6, 8.0))
    focal = share * min(height, 2.2 * width) * away / 1.75
    pitch = float(np.clip(rng.normal(0.10, 0.12), -0.12, 0.6))
    above = max(0.85 + away * float(np.tan(pitch)), 0.25)
    shift = rng.normal(0, 0.06, 2) * (width, height)
    camera = Camera(focal, width / 2 + float(shift[0]), height / 2 + float(shift[1]), above, pitch)
    place = list(PLACES)[int(rng.integers(len(PLACES)))]
    background = paint(rng, place, camera, height, width)
    people = []
    for index in range(1 + companions):
        kind = list(_SAMPLE_KINDS)[int(rng.choice(len(_SAMPLE_KINDS), p=list(_SAMPLE_KINDS.values())))]
        if kind == "exercise":
            kind = list(EXERCISES)[int(rng.integers(len(EXERCISES)))]
        yaw = float(rng.uniform(-np.pi, np.pi))
        spot = np.array([0.0, -away])
        if index:
            spot = spot + rng.normal(0, (0.7, 0.6)) + (0.35 * rng.choice([-1, 1]), 0.0)
        path = None
        if kind in ("walk", "run"):
            ahead = 40.0 * np.array([np.sin(yaw), np.cos(yaw)])
            path = shuttle(spot - 0.125 * ahead, spot + ahead, 0.01)
        people.append(cast_person((seed, 21, index), kind, camera, spot, yaw, path=path, offset=5.0 if path else None))
    props = []
    if rng.random() < 0.28:
        near = away - float(rng.uniform(0.5, 0.9))
        reach = 0.3 * width * near / focal
        name = PROPS[int(rng.integers(len(PROPS) - 1))]
        props.append(make_prop(rng, name, camera, np.array([float(rng.uniform(-reach, reach)), -near])))
    shown = background, camera, _light(rng), tuple(people), tuple(props)
    return Stage(*shown, effects((seed, 41), height, width), rows_of(skeleton)).render(0, 0.0)

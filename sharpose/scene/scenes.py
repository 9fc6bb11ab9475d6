"""Scenes over time, and single pictures of one person for training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sharpose.errors import InputError
from sharpose.scene.background import PLACES, paint
from sharpose.scene.camera import Camera
from sharpose.scene.cast import Ground, cast_for_scene, cast_person
from sharpose.scene.cloth import Light
from sharpose.scene.config import MIN_SIZE, SceneConfig
from sharpose.scene.exercises import EXERCISES
from sharpose.scene.motion import shuttle
from sharpose.scene.props import PROPS, Sprite, make_prop
from sharpose.scene.stage import SceneFrame, Stage, effects

__all__ = ["Scene", "draw_person_sample"]

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
    """

    def __init__(self, config: SceneConfig) -> None:
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
        ground = Ground(near, min(2.3 * near, 13.0), camera, width)
        self._place = place
        self._stage = Stage(
            background=paint(rng, place, camera, height, width),
            camera=camera,
            light=_light(rng),
            people=tuple(cast_for_scene(config.seed, config.people, ground)),
            props=self._props(place, ground),
            effects=effects((config.seed, 40), height, width),
        )

    def _props(self, place: str, ground: Ground) -> tuple[Sprite, ...]:
        rng = np.random.default_rng([self.config.seed, 30])
        names = _PLACE_PROPS[place]
        props = []
        for _ in range(int(rng.integers(1, 4))):
            name = names[int(rng.integers(len(names)))]
            away = float(rng.uniform(1.12, 0.9 * ground.far / ground.near)) * ground.near
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
        if not 0 <= index < len(self):
            raise InputError(f"scene frame index: expected 0 to {len(self) - 1}, got {index}")
        return self._stage.render(index, index / self.config.fps)

    def without_people(self, index: int) -> SceneFrame:
        """Frame `index` as it would be without anybody: the same place, props, camera noise.

        Raises:
            InputError: there is no such frame.
        """
        if not 0 <= index < len(self):
            raise InputError(f"scene frame index: expected 0 to {len(self) - 1}, got {index}")
        stage = self._stage
        empty = Stage(stage.background, stage.camera, stage.light, (), stage.props, stage.effects)
        return empty.render(index, index / self.config.fps)


_SAMPLE_KINDS = {"walk": 0.24, "run": 0.1, "stand": 0.28, "exercise": 0.14, "freeze": 0.17, "sit": 0.07}


def draw_person_sample(seed: int, size: tuple[int, int] = (256, 192), *, companions: int = 0) -> SceneFrame:
    """One picture of one person, as training data: any view, pose, framing, place and camera angle.

    Args:
        seed: 0 or more; the same seed gives the same picture.
        size: Picture height and width in pixels, 64 or more each.
        companions: How many others may stand close by; they are labelled too, and the person asked for comes first.

    Returns:
        A frame of index 0 and time 0. Parts of the person may lie outside the picture.

    Raises:
        InputError: `seed`, `size` or `companions` is out of range.
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
    stage = Stage(background, camera, _light(rng), tuple(people), tuple(props), effects((seed, 41), height, width))
    return stage.render(0, 0.0)

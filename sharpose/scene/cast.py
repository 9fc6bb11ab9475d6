"""Who is in a scene, where, and what they do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharpose.scene.body import Body, Pose, sample_body
from sharpose.scene.canvas import Array, Camera
from sharpose.scene.looks import Looks, Material, plain, sample_looks
from sharpose.scene.motion import EXERCISES, Actor, Path, oval, shuttle
from sharpose.scene.props import Sprite, crate


@dataclass(frozen=True)
class Person:
    """One of the cast."""

    body: Body  # their build
    looks: Looks  # skin, hair, clothes
    hair: Material  # what the hair behind the head is covered with
    actor: Actor  # what they do
    seat: Sprite | None  # what they sit on, or None


@dataclass(frozen=True)
class Ground:
    """The part of the ground on which people are seen whole: from `near` to `far` metres away."""

    near: float
    far: float
    camera: Camera
    width: int

    def reach(self, away: float) -> float:
        """Half the width, in metres, that the picture shows `away` metres off."""
        return 0.5 * self.width * away / self.camera.focal


def cast_person(
    seed: tuple[int, ...],
    kind: str,
    camera: Camera,
    spot: Array,
    yaw: float,
    *,
    path: Path | None = None,
    offset: float | None = None,
) -> Person:
    """A person who does `kind` at world x, z `spot`, facing `yaw` radians, or along `path`."""
    rng = np.random.default_rng([*seed, 1])
    body = sample_body(rng)
    looks = sample_looks(rng, body)
    vigour = float(np.clip(rng.normal(1.0, 0.1), 0.75, 1.2))
    pace = {"walk": 0.78, "run": 1.6}.get(kind, 0.0)
    habit = np.zeros(Pose.SIZE)
    habit[:9] = rng.normal(0, 1.5, 9)
    if kind in ("walk", "run", "stand"):
        habit[9:17] = rng.normal(0, 3.0, 8)
    actor = Actor(
        seed=seed,
        kind=kind,
        body=body,
        spot=spot,
        yaw=yaw,
        turning=float(rng.normal(0, 0.06)) if kind == "stand" and rng.random() < 0.75 else 0.0,
        path=path,
        speed=pace * (body.thigh + body.shank) * 2 * vigour,
        offset=float(rng.uniform(0, 60)) if offset is None else offset,
        vigour=vigour,
        style=rng.random(8),
        habit=habit,
    )
    seat = None
    if kind == "sit":
        pelvis = actor.joints(0.0).pelvis
        height = max(float(pelvis[1]) - 0.052 * body.stature * body.girth, 0.15)
        side = float(rng.uniform(0.38, 0.5)) * body.stature / 1.7
        seat = crate(rng, camera, np.array([pelvis[0], pelvis[2]]), height, side, yaw)
    return Person(body, looks, plain(rng, looks.hair, 0.06), actor, seat)


def _facing(rng: np.random.Generator) -> float:
    """A direction: the camera more often than not, but any may come."""
    return float(rng.normal(0, 0.5) if rng.random() < 0.45 else rng.uniform(-np.pi, np.pi))


def cast_for_scene(seed: int, people: int, ground: Ground) -> list[Person]:
    """The cast of a scene: walkers who cross the picture, runners, and people who stay, each at their own depth."""
    rng = np.random.default_rng([seed, 10])
    exercises = list(EXERCISES)
    kinds = ["walk", "stand", "walk", "exercise", "stand", "walk", "sit", "run"]
    shift = int(rng.integers(len(kinds))) if people < 4 else 0
    # Everyone has a lane of their own, so that nobody walks through anybody.
    shares = (np.arange(people) + rng.uniform(0.3, 0.7, people)) / max(people, 1)
    lanes = rng.permutation(ground.near * (ground.far / ground.near) ** shares)
    gap = float(np.min(np.diff(np.sort(lanes)))) if people > 1 else 1.5
    columns = rng.permutation(people)
    cast = []
    for index in range(people):
        kind = kinds[(index + shift) % len(kinds)]
        if kind == "exercise":
            kind = exercises[int(rng.integers(len(exercises)))]
        away, reach = float(lanes[index]), ground.reach(float(lanes[index]))
        column = (columns[index] + rng.uniform(0.25, 0.75)) / people * 2 - 1
        spot = np.array([0.86 * reach * column, -away])
        path, offset = None, None
        if kind in ("walk", "run"):
            turn = float(np.clip(0.42 * gap, 0.18, 0.6))
            style = rng.random()
            beyond = reach + 0.9 if style < 0.45 else 0.8 * reach
            if style > 0.8:
                wide = float(rng.uniform(0.5, 0.85)) * reach
                path = oval(spot * (0.3, 1.0), wide, max(turn, 0.3), bool(rng.random() < 0.5))
            else:
                ends = np.array([[-beyond, -away], [beyond, -away]])
                # Not quite across: a little towards or away from the camera.
                ends[:, 1] += np.array([-1, 1]) * rng.uniform(-0.3, 0.3) * min(gap, 1.0)
                path = shuttle(ends[0], ends[1], turn)
            # Start where the column is, so that the first picture has everyone in it.
            nearest = int(np.argmin(np.abs(path.points[:, 0] - spot[0]) + (0.0 if rng.random() < 0.5 else 1e-3)))
            if rng.random() < 0.5:
                nearest = len(path.points) - 1 - nearest
            offset = float(path.lengths[nearest])
        cast.append(cast_person((seed, 20, index), kind, ground.camera, spot, _facing(rng), path=path, offset=offset))
    return cast

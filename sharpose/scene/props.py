"""Things that stand about and hide people: crates, benches, plants, bollards, fences, cars, tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.scene.canvas import Array, Camera, Color, Texture, rot_y
from sharpose.scene.looks import random_color, smooth_noise

_FACES = ((0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5))
_FACE_LIGHT = (0.78, 0.92, 0.55, 1.12, 0.72, 1.0)
_WOOD: tuple[Color, ...] = ((70, 110, 150), (50, 80, 120), (96, 140, 180))
_METAL: tuple[Color, ...] = ((60, 60, 62), (120, 120, 120), (70, 90, 60))


@dataclass(frozen=True)
class Sprite:
    """A prop as it looks in the picture."""

    x: int  # left edge in picture pixels
    y: int  # top edge
    colors: Texture  # uint8 [h, w, 3], BGR
    mask: npt.NDArray[np.uint8]  # uint8 [h, w], opacity
    depth: float  # metres from the camera
    spot: Array  # world x, z [2] of its middle
    radius: float  # metres from there to its rim, for its shadow


class _Builder:
    """Collects coloured polygons in the world around a spot, and paints them in the order they came."""

    def __init__(self, camera: Camera, spot: Array, yaw: float) -> None:
        self._camera, self._turn = camera, rot_y(yaw)
        self._origin = np.array([spot[0], 0.0, spot[1]])
        self._shapes: list[tuple[Array, Color]] = []

    def shape(self, points: Array, color: Color) -> None:
        """A polygon [k, 3] in metres, in the prop's own axes."""
        self._shapes.append((self._camera.project(self._origin + points @ self._turn.T)[0], color))

    def screen(self, points: Array, color: Color) -> None:
        """A polygon [k, 2] in picture pixels."""
        self._shapes.append((points, color))

    def at(self, point: tuple[float, float, float]) -> tuple[Array, float]:
        """Picture x, y [2] of a point in the prop's own axes, and pixels a metre there."""
        xy, depth = self._camera.project(self._origin + self._turn @ np.array(point))
        return xy, self._camera.focal / float(depth)

    def box(self, center: tuple[float, float, float], size: tuple[float, float, float], color: Color) -> None:
        """A cuboid; only the faces that face the camera are painted."""
        signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
        corners = self._origin + (signs * np.array(size) / 2 + np.array(center)) @ self._turn.T
        middle = corners.mean(axis=0)
        eye = np.array([0.0, self._camera.height, 0.0])
        for face, light in zip(_FACES, _FACE_LIGHT, strict=True):
            points = corners[list(face)]
            normal = points.mean(axis=0) - middle
            if normal @ (eye - points.mean(axis=0)) > 0:
                b, g, r = (min(value * light, 255.0) for value in color)
                self._shapes.append((self._camera.project(points)[0], (b, g, r)))

    def sprite(self, rng: np.random.Generator, spot: Array, radius: float) -> Sprite:
        """What was collected."""
        points = np.concatenate([points for points, _ in self._shapes])
        low = np.floor(points.min(axis=0)).clip(-4096, 12288).astype(int) - 2
        high = np.ceil(points.max(axis=0)).clip(-4096, 12288).astype(int) + 3
        width, height = max(int(high[0] - low[0]), 4), max(int(high[1] - low[1]), 4)
        colors = np.empty((height, width, 3), np.uint8)
        colors[:] = self._shapes[0][1]
        mask = np.zeros((height, width), np.uint8)
        for outline, color in self._shapes:
            fixed = np.rint((outline - low).clip(-30000, 30000) * 16).astype(np.int32)
            # Colours reach a pixel further than the opacity, so that no foreign colour bleeds in at the rim.
            cv2.polylines(colors, [fixed], True, color, 2, cv2.LINE_8, 4)
            cv2.fillPoly(colors, [fixed], color, cv2.LINE_AA, 4)
            cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, 4)
        grain = 1 + 0.05 * smooth_noise(rng, height, width, 7)[:, :, None]
        colors = np.clip(colors * grain, 0, 255).astype(np.uint8)
        _, depth = self._camera.project(np.array([spot[0], 0.5, spot[1]]))
        return Sprite(int(low[0]), int(low[1]), colors, mask, float(depth), spot, radius)


def crate(rng: np.random.Generator, camera: Camera, spot: Array, height: float, side: float, yaw: float) -> Sprite:
    """A box of `height` and `side` metres, such as people sit on."""
    builder = _Builder(camera, spot, yaw)
    color = _WOOD[int(rng.integers(len(_WOOD)))] if rng.random() < 0.6 else random_color(rng)
    builder.box((0, height / 2, 0), (side, height, side), color)
    return builder.sprite(rng, spot, 0.75 * side)


def _crates(rng: np.random.Generator, builder: _Builder) -> float:
    color = _WOOD[int(rng.integers(len(_WOOD)))]
    height = float(rng.uniform(0.5, 1.0))
    builder.box((0, height / 2, 0), (0.7, height, 0.7), color)
    if rng.random() < 0.4:
        builder.box((0.05, height + 0.2, 0), (0.5, 0.4, 0.5), random_color(rng))
    return 0.55


def _bollard(rng: np.random.Generator, builder: _Builder) -> float:
    color = _METAL[int(rng.integers(len(_METAL)))]
    for x in (-0.9, 0.0, 0.9):
        builder.box((x, 0.48, 0), (0.15, 0.96, 0.15), color)
        builder.box((x, 0.82, 0), (0.16, 0.09, 0.16), (220, 220, 225))
    return 0.4


def _bench(rng: np.random.Generator, builder: _Builder) -> float:
    wood, metal = _WOOD[int(rng.integers(len(_WOOD)))], _METAL[0]
    for x in (-0.7, 0.7):
        builder.box((x, 0.22, 0), (0.07, 0.44, 0.4), metal)
    for z in (-0.15, 0.0, 0.15):
        builder.box((0, 0.45, z), (1.7, 0.05, 0.12), wood)
    for y in (0.62, 0.78):
        builder.box((0, y, 0.22), (1.7, 0.11, 0.04), wood)
    return 0.9


def _table(rng: np.random.Generator, builder: _Builder) -> float:
    wood = random_color(rng, 0.3)
    for x in (-0.6, 0.6):
        for z in (-0.3, 0.3):
            builder.box((x, 0.36, z), (0.06, 0.72, 0.06), wood)
    builder.box((0, 0.74, 0), (1.4, 0.05, 0.8), wood)
    builder.box((0.2, 0.86, 0.1), (0.28, 0.2, 0.03), (40, 40, 44))
    return 0.8


def _plant(rng: np.random.Generator, builder: _Builder) -> float:
    leaf = (40 + 30 * rng.random(), 95 + 50 * rng.random(), 45 + 30 * rng.random())
    builder.box((0, 0.2, 0), (0.4, 0.4, 0.4), (60, 80, 140))
    root, scale = builder.at((0, 0.42, 0))
    for _ in range(34):
        angle, length = rng.normal(0, 0.75), scale * rng.uniform(0.3, 0.75)
        tip = root + length * np.array([np.sin(angle), -np.cos(angle)])
        bow = 0.5 * (root + tip) + scale * 0.06 * np.array([np.cos(angle), np.sin(angle)])
        bow2 = 0.5 * (root + tip) - scale * 0.06 * np.array([np.cos(angle), np.sin(angle)])
        light = 0.6 + 0.6 * rng.random()
        builder.screen(np.stack([root, bow, tip, bow2]), (leaf[0] * light, leaf[1] * light, leaf[2] * light))
    return 0.4


def _fence(rng: np.random.Generator, builder: _Builder) -> float:
    color = (200, 205, 210) if rng.random() < 0.5 else _WOOD[int(rng.integers(len(_WOOD)))]
    half, height = 1.3, float(rng.uniform(0.6, 1.05))
    for y in (0.3 * height, 0.85 * height):
        builder.box((0, y, 0), (2 * half, 0.07, 0.03), color)
    for x in np.arange(-half, half + 0.01, 0.26):
        builder.box((float(x), height / 2, 0.02), (0.07, height, 0.03), color)
    return 0.5


def _cone(rng: np.random.Generator, builder: _Builder) -> float:
    builder.box((0, 0.02, 0), (0.4, 0.04, 0.4), (40, 70, 220))
    top, scale = builder.at((0, 0.62, 0))
    foot, _ = builder.at((0, 0.04, 0))
    for low, high, color in ((0, 0.35, (40, 90, 240)), (0.35, 0.6, (235, 235, 235)), (0.6, 1.0, (40, 90, 240))):
        a, b = foot + (top - foot) * low, foot + (top - foot) * high
        wide, narrow = scale * (0.15 - 0.12 * low), scale * (0.15 - 0.12 * high)
        sides = np.array([(-wide, 0.0), (-narrow, 0.0), (narrow, 0.0), (wide, 0.0)])
        builder.screen(np.stack([a, b, b, a]) + sides, color)
    return 0.3


def _car(rng: np.random.Generator, builder: _Builder) -> float:
    color = random_color(rng)
    dark, glass = (30.0, 30.0, 32.0), (120.0, 105.0, 92.0)
    builder.box((0, 0.58, 0), (4.1, 0.55, 1.7), color)
    side = 0.86
    body = (-2.05, 0.45), (-2.0, 0.85), (-1.2, 0.92), (-0.6, 1.38), (0.7, 1.42), (1.35, 0.95), (2.0, 0.84), (2.06, 0.45)
    builder.shape(np.array([(x, y, side) for x, y in body]), color)
    builder.shape(np.array([(x, y, side) for x, y in ((-1.05, 0.92), (-0.56, 1.3), (0.02, 1.32), (0.02, 0.92))]), glass)
    builder.shape(np.array([(x, y, side) for x, y in ((0.1, 0.92), (0.1, 1.32), (0.66, 1.34), (1.15, 0.92))]), glass)
    circle = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    for x in (-1.25, 1.25):
        for radius, shade in ((0.33, dark), (0.19, (150.0, 150.0, 152.0))):
            wheel = np.stack([x + radius * np.cos(circle), 0.33 + radius * np.sin(circle), np.full(18, side)], axis=1)
            builder.shape(wheel, shade)
    return 1.9


_MAKERS: dict[str, tuple[Callable[[np.random.Generator, _Builder], float], bool]] = {
    "crates": (_crates, True),
    "bollard": (_bollard, False),
    "bench": (_bench, False),
    "table": (_table, False),
    "plant": (_plant, True),
    "fence": (_fence, False),
    "cone": (_cone, True),
    "car": (_car, False),
}
PROPS = tuple(_MAKERS)
"""Names of the props."""


def make_prop(rng: np.random.Generator, name: str, camera: Camera, spot: Array) -> Sprite:
    """The prop `name` of `PROPS` on the ground at world x, z `spot`; wide ones stand across the view."""
    maker, turns = _MAKERS[name]
    builder = _Builder(camera, spot, float(rng.uniform(-0.8, 0.8)) if turns else float(rng.normal(0, 0.08)))
    radius = maker(rng, builder)
    return builder.sprite(rng, spot, radius)

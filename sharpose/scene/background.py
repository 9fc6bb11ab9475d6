"""What lies behind the people: studio, room, street, court, park, and clutter that looks like nothing."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.scene.canvas import Array, Camera, Canvas, Color
from sharpose.scene.looks import mixed, random_color, smooth_noise

Image = npt.NDArray[np.uint8]


_ROWS = 256  # worked on at once in floating point, so that memory is for the picture


def _fade(height: int, width: int, top: Color, bottom: Color) -> Image:
    share = np.linspace(0, 1, max(height, 1), dtype=np.float32)[:, None, None]
    line = np.asarray(top, np.float32) * (1 - share) + np.asarray(bottom, np.float32) * share
    return np.array(np.broadcast_to(line.astype(np.uint8), (height, width, 3)), order="C")


def _split(height: int, width: int, row: float, above: tuple[Color, Color], below: tuple[Color, Color]) -> Canvas:
    """A canvas with one colour fade above `row` and one below."""
    cut = int(np.clip(round(row), 0, height))
    return Canvas(np.concatenate([_fade(cut, width, *above), _fade(height - cut, width, *below)]))


def _ground(camera: Camera, *corners: tuple[float, float]) -> Array:
    """Picture points of (x, metres away) on the ground."""
    return camera.project(np.array([(x, 0.0, -max(away, 0.6)) for x, away in corners]))[0]


def _wall(camera: Camera, away: float, left: float, right: float, low: float, high: float) -> Array:
    """Picture corners of an upright rectangle `away` metres off."""
    corners = [(left, low, -away), (right, low, -away), (right, high, -away), (left, high, -away)]
    return camera.project(np.array(corners))[0]


def _studio(rng: np.random.Generator, camera: Camera, height: int, width: int) -> Canvas:
    color = random_color(rng, 0.3)
    light, dark = mixed(color, (255, 255, 255), 0.35), mixed(color, (0, 0, 0), 0.3)
    canvas = _split(height, width, camera.horizon + 0.06 * height, (dark, light), (mixed(light, dark, 0.4), light))
    # The edge between wall and floor is a soft curve.
    canvas.image[:] = cv2.GaussianBlur(canvas.image, (0, 0), height / 30)
    return canvas


def _room(rng: np.random.Generator, camera: Camera, height: int, width: int) -> Canvas:
    wall = mixed(random_color(rng, 0.2), (220, 225, 230), 0.5)
    floor = mixed(random_color(rng, 0.3), (70, 100, 140), 0.5)
    away = float(rng.uniform(8, 11))
    edge = float(_ground(camera, (0.0, away))[0, 1])
    shade, dark = mixed(wall, (0, 0, 0), 0.25), mixed(floor, (0, 0, 0), 0.25)
    canvas = _split(height, width, edge, (shade, wall), (dark, floor))
    plank = float(rng.uniform(0.3, 0.9))
    for step in range(-24, 25):
        canvas.line(_ground(camera, (step * plank, 0.6), (step * plank, away)), dark, height / 500)
    canvas.polygon(_wall(camera, away, -20, 20, 0, 0.12), mixed(wall, (255, 255, 255), 0.5))
    reach = away * width / camera.focal / 2
    x = -reach
    while x < reach:
        wide, kind = float(rng.uniform(0.7, 1.8)), int(rng.integers(4))
        if kind == 0:
            canvas.polygon(_wall(camera, away, x, x + 0.95, 0, 2.05), mixed(wall, (60, 80, 110), 0.7))
            canvas.polygon(_wall(camera, away, x + 0.8, x + 0.86, 0.95, 1.0), (60, 170, 200))
        elif kind == 1:
            canvas.polygon(_wall(camera, away, x, x + wide, 0.9, 2.2), (235, 235, 235))
            for pane in range(2):
                left = x + 0.05 + pane * wide / 2
                canvas.polygon(_wall(camera, away, left, left + wide / 2 - 0.1, 0.97, 2.13), (230, 200, 170))
        elif kind == 2:
            canvas.polygon(_wall(camera, away, x, x + 0.8 * wide, 1.3, 2.0), (40, 50, 60))
            canvas.polygon(_wall(camera, away, x + 0.06, x + 0.8 * wide - 0.06, 1.36, 1.94), random_color(rng))
            canvas.polygon(_wall(camera, away, x + 0.15, x + 0.4 * wide, 1.45, 1.7), random_color(rng))
        else:
            canvas.polygon(_wall(camera, away, x, x + wide, 0, 1.9), (60, 90, 120))
            for shelf in range(4):
                at = x + 0.05
                while at < x + wide - 0.12:
                    thick, tall = float(rng.uniform(0.04, 0.1)), float(rng.uniform(0.24, 0.38))
                    book = _wall(camera, away, at, at + thick, 0.1 + 0.45 * shelf, 0.1 + 0.45 * shelf + tall)
                    canvas.polygon(book, random_color(rng))
                    at += thick
        x += wide + float(rng.uniform(0.3, 1.2))
    return canvas


def _sky(rng: np.random.Generator) -> tuple[Color, Color]:
    if rng.random() < 0.3:
        return (190, 185, 180), (225, 222, 220)
    return (215, 160, 95), (238, 222, 200)


def _clouds(rng: np.random.Generator, canvas: Canvas, horizon: float) -> None:
    rows = int(np.clip(horizon, 1, canvas.height))
    veil = smooth_noise(rng, rows, canvas.width, max(canvas.width // 9, 4))
    veil += 0.5 * smooth_noise(rng, rows, canvas.width, max(canvas.width // 25, 3))
    for start in range(0, rows, _ROWS):
        sky = canvas.image[start : min(start + _ROWS, rows)]
        cover = 0.6 * np.clip(veil[start : start + len(sky)] - 0.3, 0, 1)[:, :, None]
        sky[:] = (sky * (1 - cover) + 250 * cover).astype(np.uint8)


def _tree(rng: np.random.Generator, canvas: Canvas, camera: Camera, x: float, away: float) -> None:
    tall = float(rng.uniform(3.5, 7.0))
    canvas.polygon(_wall(camera, away, x - 0.14, x + 0.14, 0, 0.6 * tall), (50, 70, 90))
    green = np.array([40, 100, 60]) * rng.uniform(0.6, 1.3) + rng.uniform(0, 25, 3)
    (center, scale) = _wall(camera, away, x, x + 1, 0.72 * tall, tall)[0], camera.focal / away
    for _ in range(26):
        spot = center + scale * tall * 0.16 * rng.normal(size=2)
        b, g, r = np.clip(green * rng.uniform(0.7, 1.25), 0, 255)
        radius = scale * tall * rng.uniform(0.06, 0.13)
        angle = np.linspace(0, 2 * np.pi, 11, endpoint=False)
        wobble = radius * rng.uniform(0.8, 1.2, 11)
        leaves = spot + np.stack([wobble * np.cos(angle), wobble * np.sin(angle)], axis=1)
        canvas.polygon(leaves, (float(b), float(g), float(r)))


def _street(rng: np.random.Generator, camera: Camera, height: int, width: int) -> Canvas:
    road = mixed((110, 108, 106), random_color(rng, 0.2), 0.15)
    canvas = _split(height, width, camera.horizon, _sky(rng), (mixed(road, (200, 200, 200), 0.2), road))
    _clouds(rng, canvas, camera.horizon)
    away = float(rng.uniform(16, 24))
    reach = away * width / camera.focal / 2 + 6
    x = -reach
    while x < reach:
        wide, tall = float(rng.uniform(4, 9)), float(rng.uniform(5, 15))
        color = mixed(random_color(rng, 0.35), (150, 160, 170), 0.45)
        canvas.polygon(_wall(camera, away, x, x + wide, 0, tall), color)
        pane = mixed((90, 80, 70), (210, 190, 160), float(rng.random()))
        for floor in range(int(tall // 2.6)):
            for window in np.arange(x + 0.6, x + wide - 1.0, 1.7):
                low = 2.6 * floor + (0.9 if floor else 0.3)
                canvas.polygon(_wall(camera, away, window, window + 0.95, low, 2.6 * floor + 2.2), pane)
        x += wide + float(rng.choice([0.0, 0.0, 1.5]))
    pavement = _ground(camera, (-60, away), (60, away), (60, away - 3), (-60, away - 3))
    canvas.polygon(pavement, mixed(road, (220, 220, 220), 0.45))
    for _ in range(int(rng.integers(1, 5))):
        _tree(rng, canvas, camera, float(rng.uniform(-reach, reach)), away - 1.5)
    if rng.random() < 0.7:
        lane = float(rng.uniform(4, 9))
        for x in np.arange(-30, 30, 3.0):
            stripe = _ground(camera, (x, lane), (x + 1.6, lane), (x + 1.6, lane + 0.18), (x, lane + 0.18))
            canvas.polygon(stripe, (225, 228, 230))
    return canvas


def _court(rng: np.random.Generator, camera: Camera, height: int, width: int) -> Canvas:
    surface: Color = ((60, 120, 70), (60, 90, 170), (140, 100, 60), (90, 150, 200))[int(rng.integers(4))]
    ground = mixed(surface, random_color(rng), 0.1)
    indoor = rng.random() < 0.4
    above: tuple[Color, Color] = ((70, 70, 74), (130, 130, 136)) if indoor else _sky(rng)
    canvas = _split(height, width, camera.horizon, above, (mixed(ground, (0, 0, 0), 0.25), ground))
    if not indoor:
        _clouds(rng, canvas, camera.horizon)
    away = float(rng.uniform(16, 22))
    canvas.polygon(_wall(camera, away, -60, 60, 0, 1.1), random_color(rng))
    # Rows of spectators, mere dabs of colour.
    for row in range(5):
        for x in np.arange(-20, 20, 0.75):
            if rng.random() < 0.7:
                seat = _wall(camera, away + 1 + row, x, x + 0.45, 1.1 + 0.62 * row, 1.65 + 0.62 * row)
                canvas.polygon(seat, mixed(random_color(rng), (90, 90, 90), 0.4))
    white = (235.0, 238.0, 240.0)
    for x in (-7.0, 0.0, 7.0):
        canvas.polygon(_ground(camera, (x - 0.05, 1), (x + 0.05, 1), (x + 0.05, away - 2), (x - 0.05, away - 2)), white)
    for z in (3.2, 7.5, 13.0):
        canvas.polygon(_ground(camera, (-30, z), (30, z), (30, z + 0.12), (-30, z + 0.12)), white)
    angle = np.linspace(0, 2 * np.pi, 40)
    ring = _ground(camera, *[(float(2.2 * np.cos(a)), float(7.5 + 2.2 * np.sin(a))) for a in angle])
    canvas.line(ring, white, height / 240)
    return canvas


def _park(rng: np.random.Generator, camera: Camera, height: int, width: int) -> Canvas:
    grass = mixed((60, 140, 90), (70, 110, 120), float(rng.random()))
    canvas = _split(height, width, camera.horizon, _sky(rng), (mixed(grass, (90, 130, 110), 0.5), grass))
    _clouds(rng, canvas, camera.horizon)
    crest = camera.horizon - height * (0.02 + 0.03 * rng.random(30))
    hill = np.stack([np.linspace(-20, width + 20, 30), crest], axis=1)
    base = np.array([(width + 20.0, camera.horizon + 2), (-20.0, camera.horizon + 2)])
    canvas.polygon(np.concatenate([hill, base]), (90, 120, 85))
    bend = rng.uniform(-3, 3)
    path = [(-1.2 + bend * 0.2, 1.0), (1.2 + bend * 0.2, 1.0), (0.8 + bend, 12.0), (3 * bend + 0.6, 40.0)]
    path += [(3 * bend - 0.6, 40.0), (bend - 0.8, 12.0)]
    canvas.polygon(_ground(camera, *path), (140, 175, 195))
    for away in sorted(rng.uniform(12, 30, int(rng.integers(5, 12))), reverse=True):
        reach = away * width / camera.focal / 2 + 2
        _tree(rng, canvas, camera, float(rng.uniform(-reach, reach)), float(away))
    return canvas


def _clutter(rng: np.random.Generator, camera: Camera, height: int, width: int) -> Canvas:
    canvas = Canvas(_fade(height, width, random_color(rng), random_color(rng)))
    for _ in range(int(rng.integers(25, 60))):
        middle = rng.random(2) * (width, height)
        size = height * rng.uniform(0.03, 0.22) * rng.uniform(0.3, 1.2, 2)
        sides = int(rng.integers(3, 12))
        angle = np.sort(rng.uniform(0, 2 * np.pi, sides))
        canvas.polygon(middle + size * np.stack([np.cos(angle), np.sin(angle)], axis=1), random_color(rng))
    for _ in range(12):
        start = rng.random(2) * (width, height)
        end = start + height * 0.4 * rng.normal(size=2)
        canvas.line(np.stack([start, end]), random_color(rng), float(rng.uniform(0.002, 0.02)) * height)
    return canvas


PLACES: dict[str, Callable[[np.random.Generator, Camera, int, int], Canvas]] = {
    place.__name__[1:]: place for place in (_studio, _room, _street, _court, _park, _clutter)
}
"""The kinds of background."""


def paint(rng: np.random.Generator, place: str, camera: Camera, height: int, width: int) -> Image:
    """The background uint8 [height, width, 3] BGR of `place` (a key of `PLACES`)."""
    image = PLACES[place](rng, camera, height, width).image
    strength = 0.015 if place in ("studio", "room") else 0.04
    coarse = smooth_noise(rng, height, width, max(height // 14, 3))
    fine = smooth_noise(rng, height, width, max(height // 160, 2))
    for start in range(0, height, _ROWS):
        rows = slice(start, start + _ROWS)
        grain = np.asarray(1 + strength * coarse[rows] + 0.7 * strength * fine[rows], np.float32)
        image[rows] = np.clip(image[rows] * grain[:, :, None], 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 2.0)) * height / 720 + 0.2), np.uint8)
    return image

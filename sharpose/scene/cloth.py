"""Cloth and skin: small textures with patterns and folds, and the light that falls on rounded parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.scene.canvas import Color, Texture

__all__ = ["PATTERNS", "Light", "Material", "ball", "cloth", "mixed", "plain", "smooth_noise"]

Float32 = npt.NDArray[np.float32]

_ROWS, _COLUMNS = 64, 48
_DIRECTIONS = 32
_AROUND = 192
PATTERNS = (
    "plain",
    "plain",
    "stripes",
    "pinstripes",
    "checks",
    "logo",
    "number",
    "blocks",
    "dots",
    "buttons",
    "jacket",
)


@dataclass(frozen=True)
class Light:
    """Where light comes from, in camera axes (right, down, towards the viewer), and how much is ambient."""

    right: float
    down: float
    near: float
    ambient: float

    def across(self, direction: tuple[float, float], columns: int) -> Float32:
        """Brightness [columns] across a cylinder whose screen normal `direction` (x, y) points to the last column."""
        side = direction[0] * self.right + direction[1] * self.down
        across, near = _profile(columns)
        lit = np.maximum(across * np.float32(side) + near * np.float32(self.near), 0)
        return np.asarray(self.ambient + (1.05 - self.ambient) * lit, np.float32)


@lru_cache(maxsize=16)
def _profile(columns: int) -> tuple[Float32, Float32]:
    # A little short of the rim, so that the last column isn't black.
    across = (np.linspace(-0.97, 0.97, columns)).astype(np.float32)
    return across, np.sqrt(1 - across * across)


@dataclass(frozen=True)
class Material:
    """What a rounded part is covered with.

    Attributes:
        texture: float32 [rows, columns, 3], BGR, unlit. Rows run along the part.
        around: Whether columns go once around the body, from the back over the right to the left and back.
    """

    texture: Float32
    around: bool = False
    _lit: dict[tuple[Light, int], Texture] = field(default_factory=dict, repr=False, compare=False)

    def lit(self, light: Light, direction: tuple[float, float], facing: float = 0.0) -> Texture:
        """The texture as seen and lit; `facing` is the angle (radians, to the body's left) that faces the viewer."""
        texture = self.texture
        step = 2 * np.pi / _DIRECTIONS
        turn = round(np.arctan2(direction[1], direction[0]) / step) % _DIRECTIONS
        if not self.around and (light, turn) in self._lit:
            return self._lit[light, turn]
        direction = (float(np.cos(turn * step)), float(np.sin(turn * step)))
        if self.around:
            columns = 64
            angles = facing + np.arcsin(_profile(columns)[0])
            index = np.floor((angles / (2 * np.pi) + 0.5) * texture.shape[1]).astype(np.intp) % texture.shape[1]
            texture = texture[:, index]
        shade = light.across(direction, texture.shape[1])
        result = np.asarray(np.minimum(texture * shade[None, :, None], 255), np.uint8)
        if not self.around:
            self._lit[light, turn] = result
        return result


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: int) -> Float32:
    """float32 [height, width] around 0, about 1 in size, varying over `cell` pixels."""
    coarse = rng.normal(size=(max(height // cell, 1) + 2, max(width // cell, 1) + 2)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def mixed(color: Color, other: Color, share: float) -> Color:
    """`color` moved by `share` towards `other`."""
    b, g, r = (a + (o - a) * share for a, o in zip(color, other, strict=True))
    return b, g, r


def plain(rng: np.random.Generator, color: Color, roughness: float = 0.03) -> Material:
    """One colour with faint unevenness, for limbs and skin."""
    folds = 1 + roughness * smooth_noise(rng, _ROWS, _COLUMNS, 10)
    return Material(np.asarray(folds[:, :, None] * np.asarray(color, np.float32), np.float32))


def cloth(rng: np.random.Generator, pattern: str, color: Color, accent: Color, *, around: bool = True) -> Material:
    """Cloth with a pattern of `PATTERNS`: `around` the trunk, or along a sleeve or leg."""
    rows, columns = _ROWS, _AROUND if around else _COLUMNS
    image = np.empty((rows, columns, 3), np.float32)
    image[:] = color
    period = int(rng.integers(6, 15))
    y, x = np.mgrid[0:rows, 0:columns]
    if pattern == "stripes":
        image[(y % period) < period * 0.45] = accent
    elif pattern == "pinstripes":
        image[(x % period) < max(period // 5, 1)] = accent
    elif pattern == "checks":
        band = ((y % period) < period * 0.5).astype(np.float32) + ((x % period) < period * 0.5)
        image += (0.5 * band)[:, :, None] * (np.asarray(accent, np.float32) - np.asarray(color, np.float32))
    elif pattern == "dots":
        image[((y % period) - period / 2) ** 2 + ((x % period) - period / 2) ** 2 < (period * 0.24) ** 2] = accent
    elif pattern == "blocks":
        image[y < rows * 0.42] = accent
    elif around:
        _front(rng, image, pattern, color, accent)
    folds = 1 + 0.035 * smooth_noise(rng, rows, columns, 10) + 0.015 * smooth_noise(rng, rows, columns, 4)
    return Material(np.asarray(np.clip(image * folds[:, :, None], 0, 255), np.float32), around=around)


def _front(rng: np.random.Generator, image: Float32, pattern: str, color: Color, accent: Color) -> None:
    """Patterns that show where the front is; column 96 of 192 is the middle of the chest."""
    middle, rows = _AROUND // 2, _ROWS
    # Texture columns are narrower than rows are high on the body: shapes are stretched to look right.
    if pattern == "logo":
        if rng.random() < 0.5:
            cv2.ellipse(image, (middle, 22), (13, 9), 0, 0, 360, accent, -1)
            cv2.ellipse(image, (middle, 22), (6, 4), 0, 0, 360, color, -1)
        else:
            cv2.rectangle(image, (middle - 18, 18), (middle + 18, 27), accent, -1)
            for letter in range(-14, 15, 7):
                cv2.line(image, (middle + letter, 20), (middle + letter, 25), color, 2)
    elif pattern == "number":
        digits = str(int(rng.integers(2, 99)))
        for center, size in ((middle, 0.6), (0, 1.0), (_AROUND, 1.0)):
            (wide, high), _ = cv2.getTextSize(digits, cv2.FONT_HERSHEY_SIMPLEX, size, 3)
            corner = (center - wide // 2, 24 + high // 2)
            ink = np.zeros(image.shape[:2], np.uint8)
            cv2.putText(ink, digits, corner, cv2.FONT_HERSHEY_SIMPLEX, size, 255, 3)
            image[ink > 127] = accent
    elif pattern == "buttons":
        image[:, middle - 1 : middle + 1] *= 0.75
        for row in range(8, rows, 10):
            cv2.circle(image, (middle + 2, row), 1, accent, -1)
    elif pattern == "jacket":
        half = int(rng.integers(5, 14))
        for row in range(rows):
            reach = max(half - row // 8, 1)
            image[row, middle - reach : middle + reach] = accent
            image[row, [middle - reach - 1, middle + reach]] = np.asarray(color, np.float32) * 0.6
        image[rows - 5 :] *= 0.85


@lru_cache(maxsize=1024)
def ball(light: Light, color: Color) -> Texture:
    """A ball of one colour under `light`, uint8 [48, 48, 3]; its rim fills the square."""
    line = np.linspace(-1, 1, 48, dtype=np.float32)
    x, y = line[None, :], line[:, None]
    full = np.maximum(np.sqrt(x * x + y * y), 1e-6)
    radius = np.minimum(full, 0.97)
    scale = radius / full
    lit = np.maximum(x * scale * light.right + y * scale * light.down + np.sqrt(1 - radius**2) * light.near, 0)
    shade = light.ambient + (1.05 - light.ambient) * lit
    return np.asarray(np.minimum(shade[:, :, None] * np.asarray(color, np.float32), 255), np.uint8)

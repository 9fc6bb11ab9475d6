"""Looks: skin, hair and clothes of a person, their textures, and the light that falls on them."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.scene.body import Body
from sharpose.scene.canvas import Color, Texture

Float32 = npt.NDArray[np.float32]

_ROWS, _COLUMNS = 64, 48
_DIRECTIONS = 32
_AROUND = 192
PATTERNS = (
    "plain", "plain", "stripes", "pinstripes", "checks", "logo", "number", "blocks", "dots", "buttons", "jacket"
)  # fmt: skip


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
    """What a rounded part is covered with."""

    texture: Float32  # [rows, columns, 3], BGR, unlit; rows run along the part
    around: bool = False  # whether columns go once around the body, from the back over the right to the left and back
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
            ink, corner = np.zeros(image.shape[:2], np.uint8), (center - wide // 2, 24 + high // 2)
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


_SKIN: tuple[Color, ...] = (
    (205, 220, 250), (180, 205, 242), (160, 190, 232), (132, 170, 216), (108, 146, 196),
    (84, 118, 168), (62, 90, 136), (48, 68, 104), (40, 54, 82),
)  # fmt: skip
_HAIR: tuple[Color, ...] = (
    (24, 24, 28), (30, 34, 44), (34, 48, 70), (44, 70, 104), (60, 104, 150), (104, 164, 206),
    (40, 62, 140), (150, 150, 152), (214, 214, 216),
)  # fmt: skip
_MUTED: tuple[Color, ...] = (
    (90, 60, 36), (120, 84, 56), (44, 40, 40), (70, 70, 74), (62, 84, 108), (110, 140, 164), (58, 70, 60),
    (150, 150, 150), (60, 44, 84), (84, 110, 96),
)  # fmt: skip


@dataclass(frozen=True)
class Looks:
    """How a person is dressed."""

    skin: Color
    hair: Color
    hair_style: str  # `bald`, `short`, `crop`, `curly`, `bob`, `long`, `bun` or `ponytail`
    hat: str  # `none`, `cap`, `beanie` or `sunhat`
    hat_color: Color
    glasses: str  # `none`, `clear` or `dark`
    beard: bool
    eyes: Color  # iris colour
    top: str  # `tank`, `tshirt`, `long`, `jacket` or `dress`
    bottom: str  # `trousers`, `leggings`, `shorts` or `skirt`
    loose: float  # how far clothes stand off the body, 0 to 1
    hem: float  # how far down the thighs a skirt or shorts reach, as a share of the thigh
    skin_cover: Material  # material of bare limbs
    trunk: Material  # material around the trunk
    sleeve: Material
    legs: Material  # material of trousers, shorts or skirt
    waist: Material  # material of the part below the waist (around the body)
    shoe: Material
    sole: Color
    sock: Material


def random_color(rng: np.random.Generator, vivid: float = 0.6) -> Color:
    """A colour as clothes have it: mostly muted, `vivid` says how saturated it may be."""
    if rng.random() < 0.3:
        grey = float(rng.choice([32, 60, 110, 170, 225, 240]))
        return grey, grey, grey
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), float(rng.uniform(0.25, 0.35 + vivid)), rng.uniform(0.3, 0.95))
    return blue * 255, green * 255, red * 255


def _pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    shares = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(shares), p=shares / shares.sum()))]


def _tone(rng: np.random.Generator, palette: tuple[Color, ...]) -> Color:
    first, second = rng.integers(0, len(palette), 2)
    near = palette[int(np.clip(second, first - 1, first + 1))]
    return mixed(palette[int(first)], near, float(rng.random()) * 0.6)


def sample_looks(rng: np.random.Generator, body: Body) -> Looks:
    """Looks for a person of this build."""
    womanly = body.shape > 1.0
    skin, hair = _tone(rng, _SKIN), _tone(rng, _HAIR)
    top = _pick(rng, {"tshirt": 4, "long": 3, "jacket": 2, "tank": 1, "dress": 1.2 if womanly else 0.0})
    bottom = _pick(rng, {"trousers": 4, "shorts": 2.2, "leggings": 1, "skirt": 1.0 if womanly else 0.02})
    if top == "dress":
        bottom = "skirt"
    color, accent = random_color(rng), random_color(rng)
    if sum(abs(a - b) for a, b in zip(color, accent, strict=True)) < 120:
        accent = mixed(accent, (255, 255, 255) if sum(color) < 380 else (20, 20, 20), 0.75)
    below = _MUTED[int(rng.integers(len(_MUTED)))] if rng.random() < 0.7 else random_color(rng)
    if top == "dress":
        below = color
    pattern = "jacket" if top == "jacket" else PATTERNS[int(rng.integers(len(PATTERNS) - 1))]
    sleeve_pattern = pattern if pattern in ("stripes", "checks", "dots", "pinstripes") else "plain"
    sleeve_color = accent if pattern == "blocks" else color
    styles = {"short": 4.0, "crop": 2.0, "curly": 1.2, "bald": 0.8}
    if womanly:
        styles = {"long": 3.0, "bob": 1.6, "ponytail": 2.0, "bun": 1.4, "curly": 1.0, "short": 1.0}
    below_pattern = str(rng.choice(["plain", "plain", "plain", "checks", "pinstripes"]))
    if top == "dress":
        below_pattern = "plain" if sleeve_pattern == "stripes" else sleeve_pattern
    return Looks(
        skin=skin,
        hair=hair,
        hair_style=_pick(rng, styles),
        hat=_pick(rng, {"none": 5, "cap": 1.1, "beanie": 0.5, "sunhat": 0.4}),
        hat_color=random_color(rng),
        glasses=_pick(rng, {"none": 5, "clear": 1.0, "dark": 0.4}),
        beard=not womanly and not body.child and bool(rng.random() < 0.35),
        eyes=mixed((40, 60, 90), (150, 120, 80), float(rng.random())),
        top=top,
        bottom=bottom,
        loose=float(rng.uniform(0.1, 1.0)) if bottom != "leggings" else 0.1,
        hem=float(rng.uniform(0.55, 1.05)) if bottom == "shorts" else float(rng.uniform(0.7, 1.3)),
        skin_cover=plain(rng, skin, 0.02),
        trunk=cloth(rng, pattern, color, accent),
        sleeve=cloth(rng, sleeve_pattern, sleeve_color, accent, around=False),
        legs=cloth(rng, below_pattern, below, mixed(below, (255, 255, 255), 0.3), around=False),
        waist=cloth(rng, below_pattern, below, mixed(below, (255, 255, 255), 0.3)),
        shoe=plain(rng, random_color(rng, 0.5), 0.04),
        sole=(225, 225, 225) if rng.random() < 0.6 else (50, 50, 50),
        sock=plain(rng, (225, 225, 225) if rng.random() < 0.6 else random_color(rng)),
    )

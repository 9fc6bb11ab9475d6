"""Looks: skin, hair and clothes of a person, chosen at random."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from sharpose.scene.body import Body
from sharpose.scene.canvas import Color
from sharpose.scene.cloth import PATTERNS, Material, cloth, mixed, plain

__all__ = ["Looks", "random_color", "sample_looks"]

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
    """How a person is dressed.

    Attributes:
        skin: Skin colour.
        hair: Hair colour.
        hair_style: `bald`, `short`, `crop`, `curly`, `bob`, `long`, `bun` or `ponytail`.
        hat: `none`, `cap`, `beanie` or `sunhat`.
        hat_color: Its colour.
        glasses: `none`, `clear` or `dark`.
        beard: Whether there is one.
        eyes: Iris colour.
        top: `tank`, `tshirt`, `long`, `jacket` or `dress`.
        bottom: `trousers`, `leggings`, `shorts` or `skirt`.
        loose: How far clothes stand off the body, 0 to 1.
        hem: How far down the thighs a skirt or shorts reach, as a share of the thigh.
        skin_cover: Material of bare limbs.
        trunk: Material around the trunk.
        sleeve: Material of the sleeves.
        legs: Material of trousers, shorts or skirt.
        waist: Material of the part below the waist (around the body).
        shoe: Material of the shoes.
        sole: Colour of the soles.
        sock: Material of the socks.
    """

    skin: Color
    hair: Color
    hair_style: str
    hat: str
    hat_color: Color
    glasses: str
    beard: bool
    eyes: Color
    top: str
    bottom: str
    loose: float
    hem: float
    skin_cover: Material
    trunk: Material
    sleeve: Material
    legs: Material
    waist: Material
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

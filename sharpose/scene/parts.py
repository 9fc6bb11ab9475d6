"""Rounded parts of bodies, projected and filled as lit, textured shapes, and the order in which they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from sharpose.scene.canvas import Array, Camera, Canvas
from sharpose.scene.looks import Light, Material

__all__ = ["CIRCLE", "Layer", "Links", "Parts", "Piece", "chain", "painter_order"]

_STEPS = 16
CIRCLE: Array = np.stack(
    [np.cos(np.arange(_STEPS) * 2 * np.pi / _STEPS), np.sin(np.arange(_STEPS) * 2 * np.pi / _STEPS)], axis=1
)
"""[16, 2], a unit circle."""

Links = tuple[tuple[int, int], ...]


@cache
def chain(count: int) -> Links:
    """Links that join each of `count` sections to the next."""
    return tuple((index, index + 1) for index in range(count - 1))


@dataclass
class Piece:
    """One part, ready to be drawn."""

    label: str  # which part of the body it is
    depth: float  # how far away its middle is, metres
    order: float  # sort key in metres; larger is drawn earlier
    bounds: tuple[float, float, float, float]  # picture x1, y1, x2, y2 that it spans
    outlines: npt.NDArray[np.float32]  # float32 [k, 16, 2], the picture outlines of its sections
    links: Links  # pairs of sections that are joined by their hull
    start: Array  # picture x, y [2] of the middle of the first section
    end: Array  # likewise of the last one
    material: Material  # what covers it
    facing: float  # which angle of a material that goes around the body faces the viewer

    def draw(self, canvas: Canvas, light: Light, owner: int) -> None:
        """Fill it on `canvas` and claim its pixels for `owner`."""
        axis = self.end - self.start
        length = float(np.hypot(axis[0], axis[1]))
        dx, dy = (float(axis[0] / length), float(axis[1] / length)) if length > 1e-3 else (0.0, 1.0)
        across = (dy, -dx)
        points = self.outlines.reshape(-1, 2)
        turned = points @ np.array(((across[0], dx), (across[1], dy)), np.float32)
        (s0, a0), (s1, a1) = turned.min(axis=0).tolist(), turned.max(axis=0).tolist()
        texture = self.material.lit(light, across, self.facing)
        rows, columns = texture.shape[:2]
        per_column, per_row = (s1 - s0) / columns, (a1 - a0) / rows
        s0, a0 = s0 + 0.5 * per_column, a0 + 0.5 * per_row
        to_picture = np.array(
            [
                [across[0] * per_column, dx * per_row, across[0] * s0 + dx * a0],
                [across[1] * per_column, dy * per_row, across[1] * s0 + dy * a0],
            ]
        )
        canvas.textured(self.outlines, self.links, self.bounds, texture, to_picture, owner)


@dataclass
class _Plan:
    label: str
    first: int
    last: int
    rings: bool
    links: Links
    material: Material
    bias: float
    facing: float


class Parts:
    """Collects the parts of one person; projects them all at once."""

    def __init__(self) -> None:
        self._plans: list[_Plan] = []
        self._centers: list[Array] = []
        self._radii: list[Array] = []
        self._rings: list[Array] = []
        self._balls_so_far = 0
        self._rings_so_far = 0

    def balls(
        self, label: str, centers: Array, radii: Array, material: Material, bias: float, links: Links | None = None
    ) -> None:
        """A part through balls.

        Args:
            label: Which part of the body it is.
            centers: [k, 3] metres.
            radii: [k] metres.
            material: What covers it.
            bias: Metres added to its depth.
            links: Which balls are joined; each to the next where not given.
        """
        first = self._balls_so_far
        self._centers.append(centers)
        self._radii.append(radii)
        self._balls_so_far += len(centers)
        links = links or chain(len(centers))
        self._plans.append(_Plan(label, first, self._balls_so_far, False, links, material, bias, 0.0))

    def rings(
        self,
        label: str,
        centers: Array,
        left: Array,
        forward: Array,
        material: Material,
        bias: float,
        facing: float,
    ) -> None:
        """A part through elliptic rings.

        Args:
            label: Which part of the body it is.
            centers: [k, 3] metres.
            left: [k, 3], half axes to the left.
            forward: [k, 3], half axes forwards.
            material: What covers it.
            bias: Metres added to its depth.
            facing: Which angle of a material that goes around the body faces the viewer.
        """
        first = self._rings_so_far
        ring = CIRCLE[None, :, 0:1] * left[:, None, :] + CIRCLE[None, :, 1:2] * forward[:, None, :]
        self._rings.append(ring + centers[:, None, :])
        self._rings_so_far += len(centers)
        links = chain(len(centers))
        self._plans.append(_Plan(label, first, self._rings_so_far, True, links, material, bias, facing))

    def project(self, camera: Camera) -> list[Piece]:
        """All parts as `camera` sees them, in the order they were added."""
        ball_xy, ball_depth = camera.project(np.concatenate(self._centers))
        radius = np.concatenate(self._radii) * camera.focal / ball_depth
        balls = (ball_xy[:, None, :] + radius[:, None, None] * CIRCLE).astype(np.float32)
        ring_points, ring_depth = camera.project(np.concatenate(self._rings))
        # Balls first, then rings.
        shift = len(balls)
        outlines = np.concatenate([balls, ring_points.astype(np.float32)])
        middles = np.concatenate([ball_xy, ring_points.mean(axis=1)])
        depths = np.concatenate([ball_depth, ring_depth.mean(axis=1)])
        low, high = outlines.min(axis=1).tolist(), outlines.max(axis=1).tolist()
        pieces = []
        for plan in self._plans:
            first, last = (plan.first + shift, plan.last + shift) if plan.rings else (plan.first, plan.last)
            (lefts, tops), (rights, bottoms) = zip(*low[first:last], strict=True), zip(*high[first:last], strict=True)
            depth = float(depths[first:last].sum()) / (last - first)
            pieces.append(
                Piece(
                    label=plan.label,
                    depth=depth,
                    order=depth + plan.bias,
                    bounds=(min(lefts), min(tops), max(rights), max(bottoms)),
                    outlines=outlines[first:last],
                    links=plan.links,
                    start=middles[first],
                    end=middles[last - 1],
                    material=plan.material,
                    facing=plan.facing,
                )
            )
        return pieces


@dataclass(frozen=True)
class Layer:
    """One thing to draw.

    Attributes:
        depth: How far away its middle is, metres.
        order: Sort key among things that are not loose, metres; larger is drawn earlier.
        bounds: Picture x1, y1, x2, y2 that it spans.
        loose: Whether it may come anywhere between the others (arms), so that only true depths count.
        index: Whatever the caller knows it by.
    """

    depth: float
    order: float
    bounds: tuple[float, float, float, float]
    loose: bool
    index: int


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def painter_order(layers: Sequence[Layer]) -> list[int]:
    """Indices of `layers`, farthest first.

    Legs go under shirts whatever their depth, so trunk, legs and head have sort keys of their own. Arms are then put
    where they contradict the true depths of what they overlap least.
    """
    fixed = sorted((layer for layer in layers if not layer.loose), key=lambda layer: -layer.order)
    slots: list[tuple[int, float, int]] = []
    for arm in layers:
        if not arm.loose:
            continue
        # Cost of drawing it before everything, then moved past one thing after the other.
        gains = [other.depth - arm.order if _overlap(arm.bounds, other.bounds) else 0.0 for other in fixed]
        best, best_slot, total = 0.0, 0, 0.0
        for slot, gain in enumerate(gains, start=1):
            total += gain
            if total >= best:
                best, best_slot = total, slot
        slots.append((best_slot, -arm.order, arm.index))
    slots.sort()
    result: list[int] = []
    for slot in range(len(fixed) + 1):
        result += [index for at, _, index in slots if at == slot]
        if slot < len(fixed):
            result.append(fixed[slot].index)
    return result

"""In which order the parts of one body are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Layer", "painter_order"]


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

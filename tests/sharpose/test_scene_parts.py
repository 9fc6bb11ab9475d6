"""The parts that the built-in scene is drawn of: their order, and props."""

from __future__ import annotations

import numpy as np
import pytest
from scene_stage import camera

from sharpose.scene.parts import Layer, painter_order
from sharpose.scene.props import PROPS, make_prop


def test_arms_go_between_what_they_overlap():
    def layer(index: int, depth: float, *, order: float | None = None, loose: bool = False) -> Layer:
        return Layer(depth, depth if order is None else order, (0, 0, 1, 1), loose, index)

    trunk, thigh = layer(0, 4.0), layer(1, 3.95, order=4.1)
    assert painter_order([trunk, thigh, layer(2, 3.7, loose=True)]) == [1, 0, 2]
    assert painter_order([trunk, thigh, layer(2, 4.3, loose=True)]) == [2, 1, 0]


@pytest.mark.parametrize("name", PROPS)
def test_every_prop_is_drawn_where_it_stands(name: str):
    spot = np.array([0.3, -5.0])
    prop = make_prop(np.random.default_rng(3), name, camera(), spot)
    assert prop.mask.max() == 255
    foot = camera().project(np.array([0.3, 0.0, -5.0]))[0]
    assert prop.x < foot[0] < prop.x + prop.mask.shape[1]
    assert prop.y < foot[1] <= prop.y + prop.mask.shape[0] + 2

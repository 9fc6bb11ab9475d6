from __future__ import annotations

import numpy as np
import pytest

from sharpose.runtime.sources.video import upright

ONE = 1 << 16


def matrix(a: int, b: int, c: int, d: int) -> bytes:
    return np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32).tobytes()


def shown_by_definition(image: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Every stored pixel (p, q) put at (a·p + c·q, b·p + d·q), moved to begin at 0."""
    q, p = np.indices(image.shape[:2])
    x, y = a * p + c * q, b * p + d * q
    x, y = x - x.min(), y - y.min()
    out = np.zeros((y.max() + 1, x.max() + 1, 3), np.uint8)
    out[y, x] = image
    return out


@pytest.mark.parametrize(
    "signs",
    [(1, 0, 0, -1), (-1, 0, 0, 1), (-1, 0, 0, -1), (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0)],
)
def test_all_turns_and_mirrorings(signs: tuple[int, int, int, int]):
    image = np.random.default_rng(0).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    turned = upright(image, matrix(*(ONE * sign for sign in signs)))
    np.testing.assert_array_equal(turned, shown_by_definition(image, *signs))
    assert turned.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("nothing", [matrix(ONE, 0, 0, ONE), matrix(2 * ONE, 300, -300, 2 * ONE), b"", b"short"])
def test_upright_needs_nothing(nothing: bytes):
    image = np.random.default_rng(0).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(upright(image, nothing), image)


def test_a_slanted_matrix_is_the_nearest_quarter_turn():
    image = np.random.default_rng(0).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    turned = upright(image, matrix(ONE // 10, ONE, -ONE, ONE // 10))
    np.testing.assert_array_equal(turned, shown_by_definition(image, 0, 1, -1, 0))

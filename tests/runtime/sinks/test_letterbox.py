from __future__ import annotations

import numpy as np
import pytest

from sharpose.runtime.sinks.encoding import letterbox, pad_even


def lit(image: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what isn't black."""
    rows, columns = np.nonzero(image.any(axis=(1, 2)))[0], np.nonzero(image.any(axis=(0, 2)))[0]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((96, 96), (0, 48, 8, 56)),  # shrunk: bars left and right
        ((20, 80), (16, 32, 0, 64)),  # shrunk: bars above and below
        ((24, 32), (0, 48, 0, 64)),  # enlarged
        ((1, 1000), (23, 24, 0, 64)),  # never thinner than a pixel
    ],
)
def test_the_aspect_is_kept_and_the_picture_centred(size, expected):
    boxed = letterbox(np.full((*size, 3), 200, np.uint8), 48, 64)
    assert boxed.shape == (48, 64, 3)
    assert lit(boxed) == expected
    assert (boxed[boxed > 0] == 200).all()


def test_the_same_size_is_the_same_picture():
    image = np.zeros((48, 64, 3), np.uint8)
    assert letterbox(image, 48, 64) is image


def test_odd_sizes_repeat_their_edge():
    image = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    padded = pad_even(image)
    assert padded.shape == (4, 6, 3)
    np.testing.assert_array_equal(padded[:3, :5], image)
    np.testing.assert_array_equal(padded[3, :5], image[2])
    np.testing.assert_array_equal(padded[:3, 5], image[:, 4])
    assert pad_even(padded) is padded

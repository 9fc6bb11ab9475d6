"""Who is refined."""

import numpy as np
import pytest

from sharpose.runtime.refinement.gate import gate

QUALITY = np.array([0.9, 0.99, 0.2, 1.3, -0.1], np.float32)


@pytest.mark.parametrize(
    ("threshold", "refine", "rows"),
    [
        (0.99, "auto", [0, 2, 4]),
        (0.0, "auto", [4]),
        (1.2, "auto", [0, 1, 2, 4]),
        (-1.0, "auto", []),
        (float("inf"), "auto", [0, 1, 2, 3, 4]),
        (-1.0, "always", [0, 1, 2, 3, 4]),
        (9.0, "never", []),
    ],
)
def test_rows_below_the_threshold(threshold, refine, rows):
    found = gate(QUALITY, threshold, refine)
    assert found.tolist() == rows
    assert found.dtype == np.int32


def test_equal_in_float32_is_not_below():
    assert float(np.float32(0.9)) < 0.9
    assert gate(np.float32([0.9]), 0.9, "auto").tolist() == []
    assert gate(np.nextafter(np.float32([0.9]), np.float32(0)), 0.9, "auto").tolist() == [0]


def test_nan_is_not_below_anything():
    assert gate(np.float32([np.nan, 0.1]), 0.5, "auto").tolist() == [1]


@pytest.mark.parametrize("refine", ["auto", "always", "never"])
def test_nobody(refine):
    found = gate(np.zeros(0, np.float32), 0.5, refine)
    assert found.shape == (0,)
    assert found.dtype == np.int32

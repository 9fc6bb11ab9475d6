"""Who is refined, and the patches of their regions."""

import numpy as np
import pytest

from sharpose.errors import InputError
from sharpose.runtime.gate import gate, gather_patches, patches_shape

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


def make(people=3, size=(256, 192), seed=0):
    rng = np.random.default_rng(seed)
    regions = size[0] * size[1] // 1024
    crops = rng.integers(0, 256, (people, *size, 3), dtype=np.uint8)
    order = np.array([rng.permutation(regions) for _ in range(people)], np.int32).reshape(people, regions)
    return crops, order


@pytest.mark.parametrize(("size", "selected"), [((256, 192), 24), ((384, 288), 33), ((256, 256), 64), ((32, 64), 1)])
def test_every_pixel_comes_from_its_place(size, selected):
    crops, order = make(size=size)
    rows = np.array([2, 0], np.int32)
    patches = gather_patches(crops, rows, order, selected)
    assert patches.shape == patches_shape(2, selected) == (2, 4 * selected, 768)
    assert patches.dtype == np.uint8
    assert patches.flags.c_contiguous
    columns = size[1] // 32
    for index, row in enumerate(rows):
        for position in range(selected):
            top, left = (int(value) * 32 for value in divmod(order[row, position], columns))
            for patch, (down, right) in enumerate([(0, 0), (0, 16), (16, 0), (16, 16)]):
                expected = crops[row, top + down : top + down + 16, left + right : left + right + 16]
                assert (patches[index, 4 * position + patch].reshape(16, 16, 3) == expected).all()


def test_a_row_may_come_twice_and_none_at_all():
    crops, order = make()
    twice = gather_patches(crops, np.array([1, 1], np.int32), order, 5)
    assert (twice[0] == twice[1]).all()
    assert gather_patches(crops, np.zeros(0, np.int32), order, 5).shape == (0, 20, 768)
    assert gather_patches(crops[:0], np.zeros(0, np.int32), order[:0], 5).shape == (0, 20, 768)


def test_a_buffer_is_filled_from_its_start_and_no_further():
    crops, order = make()
    rows = np.array([0, 2], np.int32)
    out = np.full((4, 20, 768), 7, np.uint8)
    found = gather_patches(crops, rows, order, 5, out)
    assert np.shares_memory(found, out)
    assert (found == gather_patches(crops, rows, order, 5)).all()
    assert (out[2:] == 7).all()


def test_inputs_are_left_alone():
    crops, order = make()
    before = crops.copy(), order.copy()
    gather_patches(crops, np.array([0], np.int32), order, 5)
    assert (crops == before[0]).all()
    assert (order == before[1]).all()


@pytest.mark.parametrize(
    "out",
    [
        np.empty((2, 20, 768), np.int8),
        np.empty((2, 24, 768), np.uint8),
        np.empty((1, 20, 768), np.uint8),
        np.empty((2, 20, 1536), np.uint8)[:, :, ::2],
        np.empty((2, 20 * 768), np.uint8),
    ],
    ids=["dtype", "selected", "too short", "not contiguous", "axes"],
)
def test_a_buffer_that_does_not_fit_is_refused(out):
    crops, order = make()
    with pytest.raises(InputError, match=r"out: expected contiguous uint8 \[2, 20, 768\] or longer"):
        gather_patches(crops, np.array([0, 1], np.int32), order, 5, out)

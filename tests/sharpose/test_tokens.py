import numpy as np
import pytest

from sharpose.errors import InputError
from sharpose.tokens import fine_patch_index, gather_patches, patches_shape, region_grid, selected_regions


@pytest.mark.parametrize(
    ("crop", "grid"), [((256, 192), (8, 6)), ((384, 288), (12, 9)), ((256, 256), (8, 8)), ((32, 32), (1, 1))]
)
def test_region_grid(crop, grid):
    assert region_grid(crop) == grid


@pytest.mark.parametrize(
    ("alpha", "regions", "count"),
    [
        (0.5, 48, 24),
        (0.4, 48, 20),  # 19.2
        (0.3, 108, 33),  # 32.4
        (0.5, 64, 32),
        (0.28, 25, 7),  # 7.000000000000001
        (0.07, 100, 7),  # 7.000000000000001
        (0.55, 100, 55),  # 55.00000000000001
        (0.29, 100, 29),  # 28.999999999999996
        (1.0, 48, 48),
        (1e-12, 48, 1),
        (0.021, 48, 2),  # 1.008
    ],
)
def test_selected_regions_round_up(alpha, regions, count):
    assert selected_regions(alpha, regions) == count


def test_a_whole_share_is_that_share():
    for regions in range(1, 145):
        for count in range(1, regions + 1):
            assert selected_regions(count / regions, regions) == count


def test_fine_patches_of_a_region_row_by_row():
    # a fine grid of 4 x 6 for 2 x 3 regions
    assert fine_patch_index((2, 3)).tolist() == [
        [0, 1, 6, 7],
        [2, 3, 8, 9],
        [4, 5, 10, 11],
        [12, 13, 18, 19],
        [14, 15, 20, 21],
        [16, 17, 22, 23],
    ]


def test_every_fine_patch_belongs_to_one_region():
    index = fine_patch_index((12, 9))
    assert index.shape == (108, 4)
    assert index.dtype == np.int64
    assert sorted(index.ravel()) == list(range(432))


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

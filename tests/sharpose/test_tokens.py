import numpy as np
import pytest

from sharpose.tokens import fine_patch_index, region_grid, selected_regions


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

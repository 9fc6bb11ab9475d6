from __future__ import annotations

import pytest

from sharpose.engines.two_stage import BatchBuckets


@pytest.mark.parametrize(
    ("smallest", "largest", "sizes"),
    [
        (1, 16, (1, 2, 3, 4, 6, 8, 12, 16)),
        (1, 1, (1,)),
        (1, 5, (1, 2, 3, 4, 5)),
        (4, 20, (4, 6, 8, 12, 16, 20)),
        (5, 5, (5,)),
    ],
)
def test_buckets(smallest, largest, sizes):
    assert BatchBuckets(smallest, largest).sizes == sizes


def test_every_count_fits_with_at_most_half_as_much_again_in_vain():
    buckets = BatchBuckets(1, 64)
    for count in range(1, 65):
        assert count <= buckets.fit(count) <= 1.5 * count


def test_exact_sizes_pad_only_below_the_smallest():
    buckets = BatchBuckets(3, 6, exact=True)
    assert [buckets.fit(count) for count in range(1, 7)] == [3, 3, 3, 4, 5, 6]

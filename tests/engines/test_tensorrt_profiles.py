from __future__ import annotations

import numpy as np
import pytest

from sharpose.engines.base import TensorSpec
from sharpose.engines.tensorrt.library import BuildOptions, TensorRtFlavour
from sharpose.engines.tensorrt.profiles import axis_sizes, batch_axis, batch_ranges, find_range
from sharpose.errors import EngineError

TENSORRT = TensorRtFlavour("tensorrt", "10.3.0", None)
RTX = TensorRtFlavour("tensorrt_rtx", "1.7.1", None)


@pytest.mark.parametrize(
    ("options", "ranges"),
    [
        (BuildOptions(), [(1, 1, 1), (2, 4, 4), (5, 16, 16)]),
        (BuildOptions(max_batch=1), [(1, 1, 1)]),
        (BuildOptions(max_batch=2), [(1, 1, 1), (2, 2, 2)]),
        (BuildOptions(max_batch=4), [(1, 1, 1), (2, 4, 4)]),
        (BuildOptions(max_batch=6, min_batch=2), [(2, 4, 4), (5, 6, 6)]),
        (BuildOptions(max_batch=8, min_batch=8), [(8, 8, 8)]),
        (BuildOptions(max_batch=16, opt_batch=(3,)), [(1, 3, 16)]),
        (BuildOptions(max_batch=16, opt_batch=(2, 8)), [(1, 2, 2), (3, 8, 16)]),
    ],
)
def test_profiles_are_for_one_person_for_a_few_and_for_many(options, ranges):
    assert [(item.min, item.opt, item.max) for item in batch_ranges(options, TENSORRT)] == ranges


@pytest.mark.parametrize(
    ("options", "ranges"),
    [
        (BuildOptions(), [(1, 4, 16)]),
        (BuildOptions(max_batch=2), [(1, 2, 2)]),
        (BuildOptions(min_batch=6), [(6, 6, 16)]),
        (BuildOptions(opt_batch=(1, 4, 16)), [(1, 1, 1), (2, 4, 4), (5, 16, 16)]),
    ],
)
def test_rtx_has_one_profile_unless_asked_for_more(options, ranges):
    assert [(item.min, item.opt, item.max) for item in batch_ranges(options, RTX)] == ranges


def test_a_batch_has_one_profile():
    ranges = ((1, 1), (2, 4), (5, 16))
    assert [find_range(ranges, batch) for batch in (1, 2, 4, 5, 16)] == [0, 1, 1, 2, 2]
    with pytest.raises(EngineError, match=r"batch: expected one that a profile of the engine has, .*, got 17"):
        find_range(ranges, 17)


def _specs(**shapes):
    return {name: TensorSpec(name, np.dtype("float32"), shape) for name, shape in shapes.items()}


def test_an_axis_that_no_output_has_is_always_at_its_largest():
    inputs = _specs(rows=("M",), features=("N", 48, 192))
    assert batch_axis(_specs(keypoints=("M", 17, 3), heatmaps=("M", 17, 64, 48))) == "M"
    assert axis_sizes(inputs, "M", 2, 16) == {"M": 2, "N": 16}
    assert batch_axis(_specs(boxes=(1, 84, 8400))) is None
    assert axis_sizes(_specs(images=(1, 3, 640, 640)), None, 1, 1) == {}
    with pytest.raises(EngineError, match=r"one dynamic axis in all of them, got \['M', 'N'\]"):
        batch_axis(_specs(keypoints=("M", 17, 3), quality=("N",)))

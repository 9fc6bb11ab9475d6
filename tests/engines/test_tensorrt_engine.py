from __future__ import annotations

import gc

import numpy as np
import pytest
from host_memory import HostMemory

from sharpose.engines.tensorrt.runtime import TensorRtRunner
from sharpose.errors import EngineError, InputError


@pytest.fixture
def memory():
    return HostMemory()


@pytest.fixture
def engines(small_programs, memory):
    coarse, fine = (TensorRtRunner(program, memory, "tensorrt:0") for program in small_programs(memory, min_batch=2))
    yield coarse, fine
    coarse.close()
    fine.close()


def _image(people):
    return np.arange(people * 12, dtype=np.uint8).reshape(people, 2, 2, 3)


def test_only_the_outputs_asked_for_come_back(engines, memory):
    coarse, _ = engines
    image = _image(3)
    memory.log.clear()
    out = coarse.run({"image": image}, ["quality"])
    assert list(out) == ["quality"]
    np.testing.assert_array_equal(out["quality"], image[:, 0, 0, 0].astype(np.float32) / 255)
    assert [line for line in memory.log if line.startswith("download")] == ["download 12"]


def test_outputs_kept_on_the_device_feed_another_engine(engines, memory):
    coarse, fine = engines
    carried = ("region_order", "region_features", "region_embeddings")
    image = _image(3)
    out = coarse.run({"image": image}, carried, keep_on_device=carried)
    assert out["region_features"].shape() == (3, 4, 2)
    memory.log.clear()
    patches = np.ones((2, 8, 6), np.uint8)
    found = fine.run({"rows": np.array([2, 0], np.int32), "patches": patches, **out}, ["keypoints", "heatmaps"])
    totals = image.astype(np.float32).sum(axis=(1, 2, 3))[[2, 0]]
    np.testing.assert_array_equal(found["keypoints"][:, 0, 0], 5 * totals + 48 + totals.astype(int) % 4)
    assert sum(line.startswith("copy") for line in memory.log) == 3
    assert sum(line.startswith("upload") for line in memory.log) == 2


def test_host_arrays_will_do_as_well(engines):
    coarse, fine = engines
    out = coarse.run({"image": _image(2)}, ["region_order", "region_features", "region_embeddings"])
    rows = np.array([1, 1], np.int32)
    found = fine.run({"rows": rows, "patches": np.zeros((2, 8, 6), np.uint8), **out}, ["keypoints"])
    np.testing.assert_array_equal(found["keypoints"][0], found["keypoints"][1])


def test_what_is_wrong_is_refused_before_the_device_sees_it(engines, memory):
    coarse, _ = engines
    memory.log.clear()
    with pytest.raises(InputError, match="axis N must be 1 to 8, got 9"):
        coarse.run({"image": _image(9)}, ["quality"])
    with pytest.raises(InputError, match="built for 2 or more, got 1"):
        coarse.run({"image": _image(1)}, ["quality"])
    with pytest.raises(EngineError, match="engine outputs"):
        coarse.run({"image": _image(2)}, ["poses"])
    assert memory.log == []


def test_close_frees_everything(engines, memory):
    coarse, fine = engines
    coarse.run({"image": _image(2)}, ["quality"])
    for engine in (coarse, fine, coarse):
        engine.close()
    gc.collect()
    assert not +memory.live
    with pytest.raises(EngineError, match="closed"):
        coarse.run({"image": _image(2)}, ["quality"])

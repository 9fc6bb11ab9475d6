from __future__ import annotations

import numpy as np
import pytest
from host_cuda import HostCuda

from sharpose.engines.tensorrt.runner import TensorRtRunner
from sharpose.errors import EngineError, InputError


@pytest.fixture
def cuda():
    return HostCuda()


@pytest.fixture
def engines(small_engines, cuda):
    coarse, fine = (TensorRtRunner(engine, cuda, "tensorrt:0") for engine in small_engines(cuda, min_batch=2))
    yield coarse, fine
    coarse.close()
    fine.close()


def _image(people):
    return np.arange(people * 12, dtype=np.uint8).reshape(people, 2, 2, 3)


def test_only_the_outputs_asked_for_come_back(engines, cuda):
    coarse, _ = engines
    image = _image(3)
    cuda.log.clear()
    out = coarse.run({"image": image}, ["quality"])
    assert list(out) == ["quality"]
    np.testing.assert_array_equal(out["quality"], image[:, 0, 0, 0].astype(np.float32) / 255)
    assert [line for line in cuda.log if line.startswith("download")] == ["download 12"]


def test_outputs_kept_on_the_device_feed_another_engine(engines, cuda):
    coarse, fine = engines
    carried = ("region_order", "region_features", "region_embeddings")
    image = _image(3)
    out = coarse.run({"image": image}, carried, keep_on_device=carried)
    assert out["region_features"].shape() == (3, 4, 2)
    cuda.log.clear()
    patches = np.ones((2, 8, 6), np.uint8)
    found = fine.run({"rows": np.array([2, 0], np.int32), "patches": patches, **out}, ["keypoints", "heatmaps"])
    totals = image.astype(np.float32).sum(axis=(1, 2, 3))[[2, 0]]
    np.testing.assert_array_equal(found["keypoints"][:, 0, 0], 5 * totals + 48 + totals.astype(int) % 4)
    assert sum(line.startswith("copy") for line in cuda.log) == 3
    assert sum(line.startswith("upload") for line in cuda.log) == 2


def test_host_arrays_will_do_as_well(engines):
    coarse, fine = engines
    out = coarse.run({"image": _image(2)}, ["region_order", "region_features", "region_embeddings"])
    rows = np.array([1, 1], np.int32)
    found = fine.run({"rows": rows, "patches": np.zeros((2, 8, 6), np.uint8), **out}, ["keypoints"])
    np.testing.assert_array_equal(found["keypoints"][0], found["keypoints"][1])


def test_a_batch_below_the_engines_smallest_is_padded(engines):
    """What the device's memory held before doesn't matter: rows beyond the batch would be read out of it."""
    coarse, fine = engines
    wanted = ["quality", "region_order", "region_features", "region_embeddings"]
    three = coarse.run({"image": _image(3)}, wanted)
    out = coarse.run({"image": np.ascontiguousarray(_image(3)[1:2])}, wanted)
    assert {name: values.tolist() for name, values in out.items()} == {
        name: values[1:2].tolist() for name, values in three.items()
    }
    del three["quality"], out["quality"]
    patches = np.arange(3 * 48, dtype=np.uint8).reshape(3, 8, 6)
    found = fine.run({"rows": np.array([0, 1, 2], np.int32), "patches": patches, **three}, ["keypoints"])
    alone = fine.run({"rows": np.array([0], np.int32), "patches": patches[1:2].copy(), **out}, ["keypoints"])
    np.testing.assert_array_equal(alone["keypoints"], found["keypoints"][1:2])


def test_what_is_wrong_is_refused_before_the_device_sees_it(engines, cuda):
    coarse, _ = engines
    cuda.log.clear()
    with pytest.raises(InputError, match="axis N must be 1 to 8, got 9"):
        coarse.run({"image": _image(9)}, ["quality"])
    with pytest.raises(InputError, match="axis N must be 1 to 8, got 0"):
        coarse.run({"image": _image(0)}, ["quality"])
    with pytest.raises(EngineError, match="engine outputs"):
        coarse.run({"image": _image(2)}, ["poses"])
    assert cuda.log == []


def test_close_frees_everything(engines, cuda, live):
    coarse, fine = engines
    coarse.run({"image": _image(2)}, ["quality"])
    for engine in (coarse, fine, coarse):
        engine.close()
    assert live(cuda) == {}
    with pytest.raises(EngineError, match="closed"):
        coarse.run({"image": _image(2)}, ["quality"])

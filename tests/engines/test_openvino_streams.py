"""Batches that OpenVINO divides among its streams on a CPU: values, shared memory, sizes and wrong graphs."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chain_graph import chain, chained
from onnx import TensorProto, helper
from reference_model import reference_crops
from scale_graph import MAX_BATCH, entry, scale_inputs

from sharpose.bundle import open_bundle
from sharpose.engines import openvino
from sharpose.engines.load import load_two_stage
from sharpose.engines.openvino import OpenVinoRunner
from sharpose.engines.two_stage import HostTwoStage
from sharpose.errors import EngineError, InputError

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")


class Streams:
    """A core of OpenVINO, or what it compiled, that for throughput says so many streams, however few cores there are.

    Requests for which there is no stream wait for one.
    """

    def __init__(self, it: Any, streams: int) -> None:
        self._it, self._streams = it, streams

    def __getattr__(self, name: str) -> Any:
        return getattr(self._it, name)

    def compile_model(self, model: Any, name: str, settings: dict[str, Any]) -> Any:
        compiled = self._it.compile_model(model, name, settings)
        return Streams(compiled, self._streams) if settings["PERFORMANCE_HINT"] == "THROUGHPUT" else compiled

    def get_property(self, *names: str) -> Any:
        return self._streams if names == ("NUM_STREAMS",) else self._it.get_property(*names)


@pytest.fixture
def divide_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes batches be divided in so many parts."""

    def divide(streams: int) -> None:
        core = Streams(openvino.openvino_core(), streams)
        monkeypatch.setattr(openvino, "openvino_core", lambda: core)

    return divide


@pytest.mark.parametrize(("streams", "divided"), [(2, {2, 3, 4}), (3, {3, 4}), (4, {4}), (9, {4})])
def test_as_many_people_as_streams_and_more_are_divided_among_them(
    graph: Path, divide_in: Callable[[int], None], streams: int, divided: set[int]
) -> None:
    divide_in(streams)
    runner = OpenVinoRunner(graph, entry(), MAX_BATCH, divided=True)
    assert runner.parts == min(streams, MAX_BATCH)
    values, factor = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([1, 10, 100, 1000], np.int32)
    for people in range(1, MAX_BATCH + 1):
        runner._requests.clear()
        inputs = {"values": values[:people], "factor": factor[:people]}
        result = runner.run(inputs, ("scaled", "total"), keep_on_device=("scaled",))
        np.testing.assert_array_equal(result["total"], [3, 120, 2100, 30_000][:people])
        assert len(runner._requests) == (runner.parts if people in divided else 1)
        again = runner.run({"values": result["scaled"], "factor": np.ones(people, np.int32)}, ("total", "scaled"))
        np.testing.assert_array_equal(again["total"], result["total"])
        np.testing.assert_array_equal(again["scaled"], (values * factor[:, None])[:people])
    runner.close()


def test_parts_of_a_batch_are_read_where_they_lie_and_written_where_they_are_handed_out(
    graph: Path, divide_in: Callable[[int], None]
) -> None:
    divide_in(2)
    runner = OpenVinoRunner(graph, entry(), MAX_BATCH, divided=True)
    inputs = scale_inputs(3)
    result = np.asarray(runner.run(inputs, ("total",))["total"])
    first, second = (item.raw for item in runner._requests.values())
    np.asarray(inputs["values"])[:] = 100
    expected = np.asarray(inputs["factor"]) * 300
    second.infer()  # the same request once more: nothing is handed to it
    np.testing.assert_array_equal(result[1:], expected[1:])
    assert result[0] != expected[0]
    first.infer()
    np.testing.assert_array_equal(result, expected)
    runner.close()


def test_one_thread_and_fixed_shapes_leave_batches_whole(graph: Path) -> None:
    runners = (
        OpenVinoRunner(graph, entry(), MAX_BATCH, threads=1, divided=True),
        OpenVinoRunner(graph, entry(), MAX_BATCH, fixed_shapes=True, divided=True),
        OpenVinoRunner(graph, entry(), MAX_BATCH),
    )
    for runner in runners:
        assert runner.parts == 1
        np.testing.assert_array_equal(runner.run(scale_inputs(4), ("total",))["total"], [3, 24, 63, 120])
        assert len(runner._requests) == 1
        runner.close()


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Of nine keypoints in ten: of random weights, the last step to a flat peak magnifies the last digits."""
    return float(np.quantile(np.abs(found - expected), 0.9))


@pytest.mark.parametrize(("fixed_shapes", "streams"), [(False, 1), (False, 3), (True, 1)])
def test_both_stages_equal_onnx_runtime_at_batch_sizes_up_to_the_largest(
    nano_bundle: Path, divide_in: Callable[[int], None], fixed_shapes: bool, streams: int
) -> None:
    divide_in(streams)
    bundle = open_bundle(nano_bundle)
    coarse_runner, fine_runner = (
        OpenVinoRunner(*bundle.graph(stage), bundle.manifest.max_batch, fixed_shapes=fixed_shapes, divided=True)
        for stage in ("coarse", "fine")
    )
    stages = HostTwoStage(coarse_runner, fine_runner, "fp32")
    assert stages.coarse_buckets.parts == stages.fine_buckets.parts == streams
    reference = load_two_stage(bundle, threads=1)
    largest = 8 if fixed_shapes else 16
    assert stages.max_batch == largest
    crops = reference_crops(largest, bundle.model.crop_size)
    patches = np.random.default_rng(0).integers(0, 256, stages.patches.shape, dtype=np.uint8)
    for people in (1, 2, 3, 5, largest):
        rows = np.arange(people, dtype=np.int32)[::-2].copy()
        results = []
        for both in (stages, reference):
            both.crops[:people], both.patches[: len(rows)] = crops[:people], patches[: len(rows)]
            results.append((both.run_coarse(people), both.run_fine(rows)))
        (coarse, fine), (expected_coarse, expected_fine) = results
        assert distance(coarse.keypoints, expected_coarse.keypoints) < 1e-3
        np.testing.assert_allclose(coarse.quality, expected_coarse.quality, atol=1e-5)
        np.testing.assert_array_equal(coarse.region_order, expected_coarse.region_order)
        assert distance(fine, expected_fine) < 1e-3
    with pytest.raises(InputError, match=f"axis N must be 1 to {largest}, got {largest + 1}"):
        stages._coarse.run({"image": np.zeros((largest + 1, *crops.shape[1:]), np.uint8)}, ("quality",))
    stages.close()
    reference.close()


@pytest.mark.parametrize("rows", [2, 4])
def test_parts_of_another_shape_than_the_graph_declares_are_refused(
    tmp_path: Path, divide_in: Callable[[int], None], rows: int
) -> None:
    """Also where each part has the shape of the whole."""
    divide_in(2)
    nodes = [
        helper.make_node("Constant", [], ["first"], value_ints=[0]),
        helper.make_node("Constant", [], ["end"], value_ints=[rows // 2]),
        helper.make_node("Slice", ["values", "first", "end"], ["half"]),
        helper.make_node("Concat", ["half", "half"], ["made"], axis=0),
    ]
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, ["N", 3])
    runner = OpenVinoRunner(chain(tmp_path / "chain.onnx", nodes, [made]), chained("made"), MAX_BATCH, divided=True)
    with pytest.raises(EngineError) as caught:
        runner.run({"values": np.zeros((4 if rows == 4 else 3, 3), np.float32)}, ["made"])
    sizes = ("[2, 3], [2, 3]", "[4, 3], [4, 3]") if rows == 4 else ("[1, 3], [2, 3]", "[2, 3], [2, 3]")
    wrong = "engine output made: expected shapes {} of the parts of a batch, got {}".format(*sizes)
    assert str(caught.value).startswith((wrong, "OpenVINO failed on openvino:CPU: "))
    assert "\n" not in str(caught.value)

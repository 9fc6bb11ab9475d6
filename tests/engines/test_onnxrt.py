"""ONNX Runtime on small real graphs and on both graphs of a bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper
from reference_model import reference_crops
from scale_graph import MAX_BATCH, entry, scale_inputs

from sharpose.bundle import Bundle, GraphEntry, TensorEntry, open_bundle
from sharpose.engines.base import TensorSpec
from sharpose.engines.device import parse_device
from sharpose.engines.onnxrt import OnnxRuntimeRunner, create_session
from sharpose.errors import EngineError, InputError

Array = npt.NDArray[Any]
Both = tuple[dict[str, Array], dict[str, Array]]


@pytest.fixture
def engine(graph: Path) -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(graph, entry(), MAX_BATCH, threads=1)


def test_runs_a_graph_and_hands_out_what_is_asked_for(engine: OnnxRuntimeRunner) -> None:
    both = engine.run(scale_inputs(2), ("total", "scaled"))
    assert list(both) == ["total", "scaled"]
    np.testing.assert_array_equal(both["scaled"], [[0, 1, 2], [6, 8, 10]])
    np.testing.assert_array_equal(both["total"], [3, 24])
    assert list(engine.run(scale_inputs(4), ("total",))) == ["total"]
    assert (engine.device, engine.max_batch) == ("cpu", MAX_BATCH)
    assert str(engine.inputs["factor"]) == "factor int32 [N]"
    assert list(engine.outputs) == ["scaled", "total"]


def test_results_of_one_run_outlive_the_next(engine: OnnxRuntimeRunner) -> None:
    inputs = scale_inputs(2)
    first = engine.run(inputs, ("total",))["total"]
    np.asarray(inputs["values"])[:] = 100
    engine.run(inputs, ("total",))
    np.testing.assert_array_equal(first, [3, 24])


def test_checks_inputs_and_outputs(engine: OnnxRuntimeRunner) -> None:
    with pytest.raises(InputError, match=r"missing \['factor'\]"):
        engine.run({"values": np.zeros((1, 3), np.float32)}, ("total",))
    with pytest.raises(InputError, match="factor: expected dtype int32, got int64"):
        engine.run(scale_inputs(2) | {"factor": np.ones(2, np.int64)}, ("total",))
    with pytest.raises(InputError, match="axis N must be 1 to 4, got 5"):
        engine.run(scale_inputs(5), ("total",))
    with pytest.raises(InputError, match="axis N is 3, but another input has 2"):
        engine.run(scale_inputs(2) | {"factor": np.ones(3, np.int32)}, ("total",))
    with pytest.raises(EngineError, match=r"expected some of \['scaled', 'total'\], got \['sum'\]"):
        engine.run(scale_inputs(2), ("sum",))


def test_an_output_kept_on_its_device_feeds_another_run(engine: OnnxRuntimeRunner) -> None:
    kept = engine.run(scale_inputs(2), ("scaled", "total"), keep_on_device=("scaled",))
    assert not isinstance(kept["scaled"], np.ndarray)
    assert list(kept["scaled"].shape()) == [2, 3]
    assert isinstance(kept["total"], np.ndarray)
    again = engine.run({"values": kept["scaled"], "factor": np.array([1, 10], np.int32)}, ("total",))
    np.testing.assert_array_equal(again["total"], [3, 240])


def test_a_kept_output_of_another_size_is_refused(engine: OnnxRuntimeRunner) -> None:
    kept = engine.run(scale_inputs(3), ("scaled",), keep_on_device=("scaled",))["scaled"]
    with pytest.raises(InputError, match="axis N is 2, but another input has 3"):
        engine.run({"values": kept, "factor": np.ones(2, np.int32)}, ("total",))


def test_a_closed_engine_says_so(engine: OnnxRuntimeRunner) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="this engine was closed"):
        engine.run(scale_inputs(1), ("total",))


def test_threads_reach_the_session(graph: Path) -> None:
    session = create_session(graph, parse_device("cpu"), threads=3)
    assert session.get_session_options().intra_op_num_threads == 3


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (entry(factor_shape=("N", 1)), ("expected", "factor int32 [N, 1]", "found", "factor int32 [N]")),
        (entry(total="sum"), ("sum float32 [N]", "found", "total float32 [N]")),
    ],
)
def test_a_graph_that_is_not_as_declared_is_refused(graph: Path, declared: GraphEntry, words: Sequence[str]) -> None:
    with pytest.raises(EngineError) as caught:
        OnnxRuntimeRunner(graph, declared, MAX_BATCH)
    message = str(caught.value)
    assert message.startswith(f"{graph}: ")
    position = 0
    for word in words:
        position = message.index(word, position)


@pytest.mark.parametrize("content", [b"", b"no graph", None])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError) as caught:
        create_session(path, parse_device("cpu"))
    assert str(caught.value).startswith(f"{path}: ONNX Runtime can't load it (")
    assert "\n" not in str(caught.value)


def test_a_graph_of_no_bundle_gets_the_shapes_that_it_is_given(graph: Path) -> None:
    def fix(inputs: Sequence[TensorSpec]) -> list[TensorSpec]:
        assert [str(spec) for spec in inputs] == ["values float32 [N, 3]", "factor int32 [N]"]
        return [dataclasses.replace(spec, shape=spec.shape_at({"N": 2})) for spec in inputs]

    runner = OnnxRuntimeRunner(graph, fix, 1)
    np.testing.assert_array_equal(runner.run(scale_inputs(2), ("total",))["total"], [3, 24])
    with pytest.raises(InputError, match=r"expected values float32 \[2, 3\], got shape \[3, 3\]"):
        runner.run(scale_inputs(3), ("total",))


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path) -> Bundle:
    return open_bundle(nano_bundle)


@pytest.fixture(scope="module")
def stages(bundle: Bundle) -> tuple[OnnxRuntimeRunner, OnnxRuntimeRunner]:
    coarse, fine = (
        OnnxRuntimeRunner(*bundle.graph(stage), bundle.manifest.max_batch, threads=1) for stage in ("coarse", "fine")
    )
    return coarse, fine


REFINED = {1: [0], 3: [0, 2], 8: [1, 2, 4, 7]}


def run_both(
    stages: tuple[OnnxRuntimeRunner, OnnxRuntimeRunner], crops: Array, rows: Sequence[int], patches: Array
) -> Both:
    coarse, fine = stages
    carried = ("region_features", "region_embeddings")
    first = coarse.run({"image": crops}, tuple(coarse.outputs), keep_on_device=carried)
    second = fine.run(
        {
            "rows": np.array(rows, np.int32),
            "patches": patches,
            "region_order": first["region_order"],
            **{name: first[name] for name in carried},
        },
        tuple(fine.outputs),
    )
    values = {name: np.asarray(first[name]) for name in coarse.outputs if name not in carried}
    return values, {name: np.asarray(value) for name, value in second.items()}


@pytest.mark.parametrize("people", REFINED)
def test_a_batch_equals_its_rows_one_by_one(
    bundle: Bundle, stages: tuple[OnnxRuntimeRunner, OnnxRuntimeRunner], people: int
) -> None:
    crops = reference_crops(people, bundle.model.crop_size)
    rows = REFINED[people]
    shape = tuple(int(size) for size in stages[1].inputs["patches"].shape[1:])
    patches = np.random.default_rng(people).integers(0, 256, (len(rows), *shape), dtype=np.uint8)
    coarse, fine = run_both(stages, crops, rows, patches)
    assert coarse["keypoints"].shape == (people, 17, 3)
    assert fine["keypoints"].shape == (len(rows), 17, 3)
    alone = [run_both(stages, crops[row : row + 1], [0], patches[index : index + 1]) for index, row in enumerate(rows)]
    for name in ("quality", "heatmaps", "keypoints"):
        expected = np.concatenate([first[name] for first, _ in alone])
        np.testing.assert_allclose(coarse[name][rows], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        coarse["region_order"][rows], np.concatenate([first["region_order"] for first, _ in alone])
    )
    for name in ("heatmaps", "keypoints"):
        expected = np.concatenate([second[name] for _, second in alone])
        np.testing.assert_allclose(fine[name], expected, rtol=1e-5, atol=1e-5)
    if people > 1:  # the rows differ, so that a mix-up would show
        assert np.abs(fine["heatmaps"][0] - fine["heatmaps"][1]).max() > 1e-2


def test_a_run_that_fails_is_one_line(
    bundle: Bundle, stages: tuple[OnnxRuntimeRunner, OnnxRuntimeRunner], capfd: pytest.CaptureFixture[str]
) -> None:
    shape = tuple(int(size) for size in stages[1].inputs["patches"].shape[1:])
    crops = reference_crops(2, bundle.model.crop_size)
    with pytest.raises(EngineError, match=r"^ONNX Runtime failed on cpu: ") as caught:
        run_both(stages, crops, [7], np.zeros((1, *shape), np.uint8))  # there is no row 7
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # it is all in the exception


@pytest.mark.parametrize("kept", [(), ("twice",)])
def test_an_output_of_another_shape_than_the_graph_declares_is_refused(tmp_path: Path, kept: tuple[str, ...]) -> None:
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Concat", ["values", "values"], ["twice"], axis=0)],
            "twice",
            [value("values", TensorProto.FLOAT, ["N", 3])],
            [value("twice", TensorProto.FLOAT, ["N", 3])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "twice.onnx")
    declared = GraphEntry(
        file="twice.onnx",
        opset=17,
        inputs=(TensorEntry(name="values", dtype="float32", shape=("N", 3)),),
        outputs=(TensorEntry(name="twice", dtype="float32", shape=("N", 3)),),
    )
    runner = OnnxRuntimeRunner(tmp_path / "twice.onnx", declared, MAX_BATCH, threads=1)
    said = r"engine output twice: expected twice float32 \[N, 3\] with N = 2, got shape \[4, 3\]"
    with pytest.raises(EngineError, match=said):
        runner.run({"values": np.zeros((2, 3), np.float32)}, ["twice"], keep_on_device=kept)

"""What takes part, and peers of every declared shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measuring import contenders
from measuring.contenders import STAGES, Entry, check_packages, list_entries, open_contender
from onnx import TensorProto, helper, save

from sharpose.bundle import open_bundle
from sharpose.errors import EngineError, InputError
from sharpose.runtime import Boxes

BOXES = Boxes.from_xyxy([[0, 0, 60, 100], [20, 10, 90, 90], [5, 5, 50, 50]])
IMAGE = np.random.default_rng(0).integers(0, 256, (120, 100, 3), np.uint8)


def test_every_pair_of_device_and_precision_takes_part(nano_bundle: Path) -> None:
    bundle = open_bundle(nano_bundle)
    baselines = ("torch-eager", "dense", "both-stages")
    entries = list_entries(bundle, ("cpu", "cuda:1"), ("auto", "int8"), baselines, (Path("a/movenet.onnx"),))
    assert [entry.name for entry in entries] == [
        *("cpu fp32", "cpu int8", "cuda:1 fp32", "cuda:1 int8"),
        "torch-eager cpu fp32",
        *("dense cpu fp32", "dense cuda:1 fp32"),
        *(f"both-stages {name}" for name in ("cpu fp32", "cpu int8", "cuda:1 fp32", "cuda:1 int8")),
        *("peer movenet cpu", "peer movenet cuda:1"),
    ]
    assert list_entries(bundle, ("cpu",), ("fp32", "auto"), (), ()) == [Entry("engine")]
    (_, eager) = list_entries(bundle, ("tensorrt:1",), ("fp16",), ("torch-eager",), ())
    assert eager == Entry("torch-eager", "cuda:1", "fp16")


@pytest.mark.parametrize(("kind", "refined", "stages"), [("engine", 1, 2), ("both-stages", 3, 2)])
def test_an_engine_refines_whom_the_rate_says(
    kind: str, refined: int, stages: int, nano_bundle: Path, tmp_path: Path
) -> None:
    contender = open_contender(Entry(kind), open_bundle(nano_bundle), tmp_path, 1)
    times = contender.frame(IMAGE, BOXES)(1)
    assert list(times) == list(STAGES)
    assert times["coarse"] > 0
    assert times["fine"] > 0
    assert sum(times[stage] for stage in STAGES[:-1]) <= times["end_to_end"]
    assert contender.frame(IMAGE, BOXES)(0)["fine"] == 0 if kind == "engine" else times["fine"] > 0
    work, one = contender.multiply_adds(3, 1), contender.multiply_adds(1, 1)
    assert work == {"coarse": 3 * one["coarse"], "fine": refined * one["fine"]}
    contender.close()


def _peer(path: Path, shape: list[Any], dtype: int, others: int = 0) -> Path:
    inputs = [helper.make_tensor_value_info("x", dtype, shape)]
    inputs += [helper.make_tensor_value_info(f"x{index}", dtype, [1]) for index in range(others)]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), helper.make_node("ReduceMean", ["f"], ["y"])]
    graph = helper.make_graph(nodes, "peer", inputs, [output])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


@pytest.mark.parametrize(
    ("shape", "dtype", "runs"),
    [
        (["N", 3, 64, 48], TensorProto.FLOAT, [(3, 3, 64, 48)]),
        ([1, 3, 64, 48], TensorProto.FLOAT16, [(1, 3, 64, 48)] * 3),
        ([2, 32, 32, 3], TensorProto.UINT8, [(2, 32, 32, 3)] * 2),
        (["N", 3, "H", "W"], TensorProto.FLOAT, [(3, 3, 128, 96)]),
    ],
)
def test_a_peer_gets_crops_of_its_declared_shape(
    shape: list[Any], dtype: int, runs: list[tuple[int, ...]], nano_bundle: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    path = _peer(tmp_path / "peer.onnx", shape, dtype)
    contender = open_contender(Entry("peer", file=str(path)), open_bundle(nano_bundle), tmp_path, 1)
    frame = contender.frame(IMAGE, BOXES)
    seen: list[tuple[int, ...]] = []
    runner = vars(contender)["_runner"]
    original = runner.run

    def run(inputs: dict[str, np.ndarray], wanted: list[str]) -> object:
        seen.append(inputs["x"].shape)
        return original(inputs, wanted)

    monkeypatch.setattr(runner, "run", run)
    times = frame(1)
    assert seen == runs
    assert times["fine"] == 0
    assert 0 < times["coarse"] < times["end_to_end"]
    assert contender.multiply_adds(3, 1) == {}
    contender.close()


def test_peers_see_the_picture() -> None:
    crops = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    float32 = np.dtype("float32")
    first, last = (contenders._as_inputs(crops, float32, channels_last=value).astype("f4") for value in (False, True))
    assert first.shape == (2, 3, 4, 6)
    np.testing.assert_allclose(first, last.transpose(0, 3, 1, 2), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "dtype", "others", "words"),
    [
        (["N", 3, 64], TensorProto.FLOAT, 0, r"expected one input, \[N, 3, H, W\] or \[N, H, W, 3\].*found x float32"),
        (["N", 3, 64, 48], TensorProto.INT64, 0, "of float32, float16 or uint8, found x int64"),
        (["N", 3, 64, 48], TensorProto.FLOAT, 1, "expected one input"),
        (
            ["N", 1, 64, 48],
            TensorProto.FLOAT,
            0,
            r"expected one input, \[N, 3, H, W\].*found x float32 \[N, 1, 64, 48\]",
        ),
    ],
)
def test_a_peer_that_takes_no_crops_is_refused(
    shape: list[Any], dtype: int, others: int, words: str, nano_bundle: Path, tmp_path: Path
) -> None:
    path = _peer(tmp_path / "peer.onnx", shape, dtype, others)
    with pytest.raises(InputError, match=words):
        open_contender(Entry("peer", file=str(path)), open_bundle(nano_bundle), tmp_path, 1)


def test_a_baseline_without_pytorch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    check_packages(["both-stages"])
    with pytest.raises(EngineError, match=r"--baseline dense needs torch: .*\[export\]"):
        check_packages(["both-stages", "dense"])


@pytest.mark.parametrize(("refined", "fine"), [(0, 0), (5, 5), (20, 20)])
def test_batches_hold_everybody_beyond_the_largest_batch_too(
    refined: int, fine: int, nano_bundle: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(nano_bundle)
    most = bundle.manifest.max_batch
    contender = open_contender(Entry("engine"), bundle, tmp_path, 1)
    batches = contender.batches(most + 4, refined)
    assert sum(batches["coarse"]) == most + 4
    assert max(batches["coarse"]) <= most
    assert sum(batches.get("fine", [])) == fine
    contender.close()

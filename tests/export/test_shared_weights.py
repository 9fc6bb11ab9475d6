import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sharpose.export.onnx import save_graphs


def make_model(*weights):
    """Adds every weight [4, 128] to its input."""
    names = [f"w{index}" for index in range(len(weights))]
    values = ["a", *(f"s{index}" for index in range(len(weights)))]
    nodes = [helper.make_node("Add", [values[i], names[i]], [values[i + 1]]) for i in range(len(weights))]
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 128]) for name in ("a", values[-1]))
    initializers = [numpy_helper.from_array(weight, name) for name, weight in zip(names, weights, strict=True)]
    graph = helper.make_graph(nodes, "g", [a], [b], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def weight(seed, shape=(4, 128)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(path):
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {"a": np.zeros((4, 128), np.float32)})[0]


def test_equal_tensors_are_stored_once_and_both_graphs_still_compute(tmp_path):
    save_graphs(
        {"x.onnx": make_model(weight(0), weight(1)), "y.onnx": make_model(weight(1), weight(2))},
        tmp_path,
        "weights.bin",
    )
    assert (tmp_path / "weights.bin").stat().st_size == 3 * 2048
    np.testing.assert_allclose(run(tmp_path / "x.onnx"), weight(0) + weight(1), rtol=1e-6)
    np.testing.assert_allclose(run(tmp_path / "y.onnx"), weight(1) + weight(2), rtol=1e-6)


def test_small_tensors_stay_in_the_graph_and_offsets_are_aligned(tmp_path):
    odd = np.random.default_rng(0).integers(0, 255, 1025, dtype=np.uint8)
    model = make_model(weight(0))
    model.graph.initializer.append(numpy_helper.from_array(odd, "odd"))
    model.graph.initializer.append(numpy_helper.from_array(weight(5, (7,)), "small"))
    model.graph.initializer.append(numpy_helper.from_array(weight(6, (300,)), "last"))
    save_graphs({"x.onnx": model}, tmp_path, "weights.bin")
    bare = onnx.load(str(tmp_path / "x.onnx"), load_external_data=False)
    outside = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in bare.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    }
    assert set(outside) == {"w0", "odd", "last"}
    assert all(int(entry["offset"]) % 64 == 0 and entry["location"] == "weights.bin" for entry in outside.values())
    assert not any(tensor.raw_data for tensor in bare.graph.initializer if tensor.name in outside)
    loaded = {item.name: numpy_helper.to_array(item) for item in onnx.load(str(tmp_path / "x.onnx")).graph.initializer}
    assert (loaded["odd"] == odd).all()
    assert (loaded["last"] == weight(6, (300,))).all()
    assert (loaded["small"] == weight(5, (7,))).all()


def test_typed_fields_move_too(tmp_path):
    model = make_model(weight(0))
    values = helper.make_tensor("typed", TensorProto.FLOAT, [300], weight(3, (300,)))
    half = helper.make_tensor("half", TensorProto.FLOAT16, [600], weight(4, (600,)).astype(np.float16))
    assert values.float_data
    model.graph.initializer.extend([values, half])
    save_graphs({"x.onnx": model}, tmp_path, "weights.bin")
    bare = onnx.load(str(tmp_path / "x.onnx"), load_external_data=False)
    assert not any(tensor.float_data or tensor.int32_data for tensor in bare.graph.initializer)
    loaded = {item.name: numpy_helper.to_array(item) for item in onnx.load(str(tmp_path / "x.onnx")).graph.initializer}
    assert (loaded["typed"] == weight(3, (300,))).all()
    assert (loaded["half"] == weight(4, (600,)).astype(np.float16)).all()


def test_the_same_graphs_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_graphs({"x.onnx": make_model(weight(0), weight(1))}, tmp_path / name, "weights.bin")
    for file in ("x.onnx", "weights.bin"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_bundle_holds_less_than_60_percent_of_two_separate_graphs(tiny_bundle):
    separate = sum(
        len(numpy_helper.to_array(tensor).tobytes())
        for file in ("coarse.onnx", "fine.onnx")
        for tensor in onnx.load(str(tiny_bundle / file)).graph.initializer
    )
    assert (tiny_bundle / "weights.bin").stat().st_size < 0.6 * separate


@pytest.mark.parametrize("file", ["coarse.onnx", "fine.onnx"])
def test_a_bundles_graph_is_small_itself(tiny_bundle, file):
    assert (tiny_bundle / file).stat().st_size < 200_000

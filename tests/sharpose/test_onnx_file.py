"""Where a graph takes its weights from, read from its bytes; against the onnx package and against damage."""

import random
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sharpose.errors import BundleError
from sharpose.onnx_file import declared_inputs, external_data_locations, graph_sha256, model_metadata


def external(location, name="w"):
    tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", location), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def make_model(initializers=(), nodes=()):
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "ab")
    graph = helper.make_graph(list(nodes), "g", [a], [b], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def find(model):
    return external_data_locations(model.SerializeToString())


@pytest.mark.parametrize("file", ["coarse.onnx", "fine.onnx"])
def test_agrees_with_the_onnx_package_on_an_exported_graph(nano_bundle, file):
    model = onnx.load(str(nano_bundle / file), load_external_data=False)
    expected = {
        entry.value
        for tensor in onnx.external_data_helper._get_all_tensors(model)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert external_data_locations((nano_bundle / file).read_bytes()) == expected == {"weights.bin"}


@pytest.mark.parametrize("file", ["coarse.onnx", "fine.onnx"])
def test_inputs_are_those_that_the_onnx_package_reads(nano_bundle, file):
    model = onnx.load(str(nano_bundle / file), load_external_data=False)
    expected = {
        value.name: tuple(
            axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input
    }
    assert declared_inputs((nano_bundle / file).read_bytes()) == expected
    assert {size for shape in expected.values() for size in shape} > {None, 3 if file == "coarse.onnx" else 768}


def test_inputs_without_axes_or_sizes():
    values = [
        helper.make_tensor_value_info("scalar", TensorProto.FLOAT, []),
        helper.make_tensor_value_info("unknown", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("mixed", TensorProto.FLOAT, ["N", None, 0, 2**31]),
    ]
    model = helper.make_model(helper.make_graph([], "g", values, []))
    found = {"scalar": (), "unknown": (), "mixed": (None, None, 0, 2**31)}
    assert declared_inputs(model.SerializeToString()) == found
    assert declared_inputs(b"") == {}


def test_no_weights_outside():
    assert find(make_model([numpy_helper.from_array(np.ones(4, np.float32), "w")])) == frozenset()
    assert external_data_locations(b"") == frozenset()


def test_all_locations_are_found():
    model = make_model([external("../../x", "v"), external("weights.bin", "w"), external("weights.bin", "u")])
    assert find(model) == {"../../x", "weights.bin"}


def test_every_place_that_can_hold_a_tensor():
    sparse = onnx.SparseTensorProto(values=external("sparse values"), indices=external("sparse indices"))
    then = helper.make_graph([], "then", [], [], [external("subgraph")])
    model = make_model(
        [external("initializer")],
        [
            helper.make_node("Constant", [], ["c"], value=external("attribute tensor")),
            helper.make_node("If", ["c"], ["d"], then_branch=then, else_branch=helper.make_graph([], "else", [], [])),
            helper.make_node("Odd", [], ["e"], tensors=[external("tensor list"), external("tensor list 2")]),
            helper.make_node("Odd", [], ["f"], graphs=[helper.make_graph([], "h", [], [], [external("graph list")])]),
            helper.make_node("Odd", [], ["h"], sparse_value=sparse),
        ],
    )
    model.graph.sparse_initializer.append(
        onnx.SparseTensorProto(values=external("sparse initializer"), indices=external("its indices"))
    )
    body = [helper.make_node("Constant", [], ["y"], value=external("function"))]
    function = helper.make_function("own", "f", [], ["y"], body, [helper.make_opsetid("", 20)])
    function.attribute_proto.append(helper.make_attribute("z", external("function default")))
    model.functions.append(function)
    model.training_info.add().algorithm.initializer.append(external("training"))
    assert find(model) == {
        "initializer",
        "attribute tensor",
        "subgraph",
        "tensor list",
        "tensor list 2",
        "graph list",
        "sparse values",
        "sparse indices",
        "sparse initializer",
        "its indices",
        "function",
        "function default",
        "training",
    }


def test_a_key_after_its_value_and_one_that_is_no_location():
    entry = b"\x12\x01x" + b"\x0a\x08location"  # value first
    other = b"\x0a\x06offset" + b"\x12\x01y"
    tensor = b"".join(bytes([0x6A, len(item)]) + item for item in (entry, other))
    graph = bytes([0x2A, len(tensor)]) + tensor
    assert external_data_locations(bytes([0x3A, len(graph)]) + graph) == {"x"}


@pytest.mark.parametrize(
    "content",
    [
        b"hello world\n",
        b"\x3a\x7f\x00",  # a length beyond the end
        b"\x3a\x80",  # a length that doesn't end
        b"\x3a" + b"\xff" * 20,
        b"\x0b",  # a group
        b"\x39\x00",  # a 64-bit number cut short
        b"\xba\x80\x80\x80\x10\x00",  # field 7 for a reader that keeps 32 bits of the tag
    ],
)
def test_bytes_that_are_no_message(content):
    with pytest.raises(BundleError, match="not an ONNX file"):
        external_data_locations(content)


def test_a_tag_that_other_readers_truncate_hides_nothing():
    model = make_model([external("../../x")])
    graph = model.graph.SerializeToString()
    length = bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7])
    assert external_data_locations(b"\x3a" + length + graph) == {"../../x"}
    with pytest.raises(BundleError):
        external_data_locations(b"\xba\x80\x80\x80\x10" + length + graph)


def test_damage_gives_an_answer_or_an_error_of_ours():
    content = make_model(
        [external("weights.bin"), external("other")], [helper.make_node("Add", ["a", "w"], ["b"])]
    ).SerializeToString()
    rng = random.Random(0)
    outcomes = {"answer": 0, "error": 0}
    for _ in range(2000):
        damaged = bytearray(content)
        for _ in range(rng.randrange(5)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        if rng.random() < 0.1:
            damaged = bytearray(rng.randbytes(rng.randrange(80)))
        try:
            assert isinstance(external_data_locations(bytes(damaged)), frozenset)
            outcomes["answer"] += 1
        except BundleError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 100


def test_damage_of_an_exported_graph(nano_bundle):
    content = (nano_bundle / "fine.onnx").read_bytes()
    rng = random.Random(1)
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            external_data_locations(bytes(damaged[: rng.randrange(len(damaged))]))
        except BundleError:
            continue


def field(number, payload):
    size, length = b"", len(payload)
    while length > 0x7F:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + payload


def test_messages_nested_too_deeply():
    graph = b""
    for _ in range(50):
        graph = field(1, field(5, field(6, graph)))  # a node with an attribute that is a graph
    with pytest.raises(BundleError, match="nested in more than 100 levels"):
        external_data_locations(field(7, graph))


def test_many_empty_nodes_take_no_memory():
    model = field(7, field(1, b"") * 40_000)
    tracemalloc.start()
    assert external_data_locations(model) == frozenset()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 18


def test_a_graphs_hash_covers_its_weights(nano_bundle, tmp_path):
    for name in ("coarse.onnx", "fine.onnx", "weights.bin"):
        (tmp_path / name).write_bytes((nano_bundle / name).read_bytes())
    coarse, fine = graph_sha256(tmp_path / "coarse.onnx"), graph_sha256(tmp_path / "fine.onnx")
    assert coarse == graph_sha256(nano_bundle / "coarse.onnx") != fine
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[1000] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    assert coarse != graph_sha256(tmp_path / "coarse.onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin: can't be read \(No such file or directory\)"):
        graph_sha256(tmp_path / "coarse.onnx")


def test_metadata_is_read():
    model = onnx.ModelProto(producer_name="other")
    assert model_metadata(model.SerializeToString()) == {}
    onnx.helper.set_model_props(model, {"task": "detect", "names": "{0: 'Straße'}", "empty": ""})
    assert model_metadata(model.SerializeToString()) == {"task": "detect", "names": "{0: 'Straße'}", "empty": ""}
    with pytest.raises(BundleError, match="not an ONNX file"):
        model_metadata(b"hello, this is none")

"""The two ONNX graphs: their signatures and values, weights stored once, or as halves."""

import getpass
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from reference_model import reference_crops, reference_state

import sharpose
from sharpose.bundle import Bundle, GraphEntry, Precision, open_bundle
from sharpose.config import load_config
from sharpose.engines.onnxrt import OnnxRuntimeRunner
from sharpose.errors import ExportError
from sharpose.export import bundle as bundle_export
from sharpose.export.bundle import ExportOptions, export_bundle
from sharpose.export.onnx import (
    describe_graph,
    export_graphs,
    round_to_half,
    save_graphs,
    store_as_half,
)
from sharpose.export.pictures import ParityPictures
from sharpose.model import LoadedModel, SHaRPose, random_model
from sharpose.model.graphs import COARSE_OUTPUTS, FINE_INPUTS, FINE_OUTPUTS
from sharpose.runtime.refinement.gate import gate
from sharpose.tokens import gather_patches

# The bundle's contract for the nano model: J 17, R 12, C 24, P 16, s 2; K is open.
CARRIED = [
    ("region_order", "int32", ("N", 12)),
    ("region_features", "float32", ("N", 12, 24)),
    ("region_embeddings", "float32", ("N", 12, 24)),
]
CONTRACT = {
    "coarse": (
        [("image", "uint8", ("N", 128, 96, 3))],
        [
            ("keypoints", "float32", ("N", 17, 3)),
            ("quality", "float32", ("N",)),
            *CARRIED,
            ("heatmaps", "float32", ("N", 17, 32, 24)),
        ],
    ),
    "fine": (
        [("rows", "int32", ("M",)), ("patches", "uint8", ("M", "4*K", 768)), *CARRIED],
        [("keypoints", "float32", ("M", 17, 3)), ("heatmaps", "float32", ("M", 17, 32, 24))],
    ),
}
STAGES = ["coarse", "fine"]


def as_tuples(entries):
    return [(item.name, item.dtype, item.shape) for item in entries]


def exported(folder: Path, stage: str) -> tuple[Path, GraphEntry]:
    """A graph's file and its description in `bundle.json`."""
    entry = getattr(open_bundle(folder).manifest.graphs["fp32"], stage)
    return folder / entry.file, entry


@pytest.mark.parametrize("stage", STAGES)
def test_inputs_and_outputs_are_the_contracts(nano_bundle, stage):
    path, entry = exported(nano_bundle, stage)
    assert (as_tuples(entry.inputs), as_tuples(entry.outputs)) == CONTRACT[stage]
    assert entry.opset == 20
    session = onnxruntime.InferenceSession(str(path))
    types = {"uint8": "tensor(uint8)", "int32": "tensor(int32)", "float32": "tensor(float)"}
    for declared, found in zip(CONTRACT[stage], (session.get_inputs(), session.get_outputs()), strict=True):
        assert [(item.name, item.type, tuple(item.shape)) for item in found] == [
            (name, types[dtype], shape) for name, dtype, shape in declared
        ]


@pytest.mark.parametrize("stage", STAGES)
def test_full_checks_and_the_description(nano_bundle, stage):
    path, entry = exported(nano_bundle, stage)
    onnx.checker.check_model(str(path), full_check=True)
    assert describe_graph(onnx.load(str(path), load_external_data=False), path.name) == entry


@pytest.mark.parametrize("stage", STAGES)
def test_native_operators_of_one_domain(nano_bundle, stage):
    model = onnx.load(str(nano_bundle / f"{stage}.onnx"), load_external_data=False)
    kinds = {node.op_type for node in model.graph.node}
    assert {"Gelu", "LayerNormalization", "Softmax"} <= kinds
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert kinds.isdisjoint({"If", "Loop", "NonZero", "Erf"})  # nothing whose shape depends on data


@pytest.mark.parametrize("stage", STAGES)
def test_uint8_inputs_are_only_ever_cast(nano_bundle, stage):
    graph = onnx.load(str(nano_bundle / f"{stage}.onnx"), load_external_data=False).graph
    (pixels,) = [item.name for item in graph.input if item.type.tensor_type.elem_type == onnx.TensorProto.UINT8]
    assert [node.op_type for node in graph.node if pixels in node.input] == ["Cast"]


@pytest.mark.parametrize("stage", STAGES)
def test_no_path_or_name_of_this_machine(nano_bundle, stage):
    content = (nano_bundle / f"{stage}.onnx").read_bytes()
    folders = {Path(sharpose.__file__).parent, Path.home(), Path(sys.prefix), Path(onnx.__file__).parent}
    for private in (*map(str, folders), "site-packages", ".py", "stack_trace", "Traceback"):
        if len(private) > 2:
            assert private.encode() not in content, private
    if len(getpass.getuser()) > 5:
        assert getpass.getuser().encode() not in content


@pytest.mark.parametrize("opset", [17, 23, 0, -1])
def test_other_opsets_are_refused(nano_config, opset):
    with pytest.raises(ExportError, match=f"expected 18 to 22, got {opset}"):
        export_graphs(random_model(nano_config).model, max_batch=4, opset=opset)


POLYGRAPHY = """
import sys
import polygraphy.tools
for arguments in sys.argv[1].splitlines():
    sys.argv[1:] = arguments.split("|")
    polygraphy.tools.main()
"""


def test_polygraphy_runs_both(nano_bundle):
    pytest.importorskip("polygraphy")
    coarse, fine = (f"run|{nano_bundle / stage}.onnx|--onnxrt" for stage in STAGES)
    fine += "|--val-range|rows:[0,0]|--input-shapes|patches:[1,24,768]"
    command = [sys.executable, "-c", POLYGRAPHY, f"{coarse}\n{fine}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("PASSED") == 2


SHAPE = (8, 64)  # 2 KiB


def halves(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float16).astype(np.float32)


def graph_of(**tensors: np.ndarray) -> onnx.ModelProto:
    """Adds up its tensors and its input."""
    sums = ["a", *(f"sum_{name}" for name in tensors)]
    nodes = [helper.make_node("Add", [sums[i], name], [sums[i + 1]]) for i, name in enumerate(tensors)]
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, list(SHAPE)) for name in ("a", sums[-1]))
    stored = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", [a], [b], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_what_a_half_says_exactly_is_stored_so_and_the_graph_computes_the_same(tmp_path: Path) -> None:
    exact, other = halves(0), halves(1) + np.float32(1e-4)
    small = halves(2)[:1]  # 256 bytes: stays as it is
    model = graph_of(exact=exact, other=other, small=small)
    assert store_as_half(model) == 1
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert stored == {"exact.half": TensorProto.FLOAT16, "other": TensorProto.FLOAT, "small": TensorProto.FLOAT}
    save_graphs({"g.onnx": model}, tmp_path, "weights.bin")
    onnx.checker.check_model(str(tmp_path / "g.onnx"), full_check=True)
    assert (tmp_path / "weights.bin").stat().st_size == exact.nbytes // 2 + other.nbytes
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"))
    found = session.run(None, {"a": np.ones(SHAPE, np.float32)})[0]
    assert np.array_equal(found, ((1 + exact) + other) + small)


def test_infinity_and_too_large_a_value_stay_float32() -> None:
    large = halves(0)
    large[0, 0] = 1e6
    model = graph_of(large=large)
    assert store_as_half(model) == 0
    assert numpy_helper.to_array(model.graph.initializer[0]).max() == 1e6


def test_rounding_leaves_the_model_alone_and_refuses_what_is_too_large(little_model: SHaRPose) -> None:
    before = {name: value.clone() for name, value in little_model.state_dict().items()}
    rounded = round_to_half(little_model)
    for name, value in rounded.named_parameters():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name].half().float())
    assert all(torch.equal(value, before[name]) for name, value in little_model.state_dict().items())
    with torch.no_grad():
        rounded.backbone.norm.weight[0] = 1e5
    with pytest.raises(ExportError, match=r"backbone.norm.weight has values beyond 65504"):
        round_to_half(rounded)


@pytest.fixture
def half_stored(
    little_model: SHaRPose,
    two_precisions: Bundle,
    made_once: Callable[[str, Callable[[Path], object]], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A bundle whose weights are stored as halves; the graphs of `two_precisions` are taken, not traced again."""

    def trace(model: SHaRPose, *, max_batch: int, opset: int, translations: object) -> tuple[onnx.ModelProto, ...]:
        in_half = any(value.dtype == torch.float16 for value in model.parameters())
        precision: Precision = "fp16" if in_half else "fp32"
        assert in_half or all(torch.equal(value, value.half().float()) for value in model.parameters())
        graphs = tuple(onnx.load(two_precisions.graph(stage, precision)[0]) for stage in STAGES)
        for tensor in (tensor for graph in graphs[: 0 if in_half else 2] for tensor in graph.graph.initializer):
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.size > 1 and not tensor.name.startswith(("normalise.", "decode.")):
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16).astype(np.float32), tensor.name))
        return graphs

    def make(folder: Path) -> None:
        loaded = LoadedModel(little_model, little_model.config, "the tests' reference weights", ())
        pictures = ParityPictures(reference_crops(4, little_model.config.crop_size), "blocks of colour")
        options = ExportOptions(precisions=("fp32", "fp16"), max_batch=6, store_weights="fp16")
        monkeypatch.setattr(bundle_export, "export_graphs", trace)
        export_bundle(loaded, folder, pictures, options)

    return made_once("half_stored", make)


def test_a_bundle_is_half_as_large_and_keeps_parity_with_the_model_as_it_was(
    half_stored: Path, little_model: SHaRPose
) -> None:
    bundle = open_bundle(half_stored)
    parameters = sum(value.numel() for value in little_model.parameters())
    # half graphs beside them share the bytes, but for their quality head and decoding, which stay float32
    assert (half_stored / "weights.bin").stat().st_size < 2.6 * parameters
    report = bundle.manifest.parity["fp32"]
    assert report.failures == ()
    assert max(item.max_abs_difference for item in report.outputs) > 1e-5  # rounding shows: it isn't left out
    assert all(item.dtype != "float16" for entry in (bundle.graph("coarse")[1],) for item in entry.outputs)


def test_onnx_runtime_folds_the_casts(half_stored: Path, tmp_path: Path) -> None:
    """So a run costs what it costs without them."""
    for name in ("coarse.onnx", "fine.onnx"):
        stored = onnx.load(str(half_stored / name), load_external_data=False)
        casts = {node.name for node in stored.graph.node if node.op_type == "Cast" and node.name.endswith(".cast")}
        assert len(casts) > 8
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / name)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        onnxruntime.InferenceSession(str(half_stored / name), options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(str(tmp_path / name), load_external_data=False)
        assert not casts & {node.name for node in optimised.graph.node}


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


def test_a_bundle_holds_less_than_60_percent_of_two_separate_graphs(nano_bundle):
    separate = sum(
        len(numpy_helper.to_array(tensor).tobytes())
        for file in ("coarse.onnx", "fine.onnx")
        for tensor in onnx.load(str(nano_bundle / file)).graph.initializer
    )
    assert (nano_bundle / "weights.bin").stat().st_size < 0.6 * separate


@pytest.mark.parametrize("file", ["coarse.onnx", "fine.onnx"])
def test_a_bundles_graph_is_small_itself(nano_bundle, file):
    assert (nano_bundle / file).stat().st_size < 200_000


# Graph by graph what `test_parity` says of a smaller model and `model/test_stages` of this one in PyTorch.
NAME = "sharpose_small_coco_256x192"
DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Coarse and fine engine of the small model with the reference weights."""
    folder = tmp_path_factory.mktemp("small")
    model = random_model(load_config(NAME)).model
    state = reference_state({key: tuple(value.shape) for key, value in model.state_dict().items()})
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=True)
    graphs = dict(zip(("coarse.onnx", "fine.onnx"), export_graphs(model, max_batch=8, opset=20), strict=True))
    entries = {file: describe_graph(graph, file) for file, graph in graphs.items()}
    save_graphs(graphs, folder, "weights.bin")
    return [OnnxRuntimeRunner(folder / file, entry.at_regions(24), 8) for file, entry in entries.items()]


@pytest.fixture(scope="module")
def recorded():
    with np.load(DATA / "released_small_coco_256x192.npz") as file:
        return dict(file)


@pytest.fixture(scope="module", params=[1, 3, 8])
def runs(request, engines, recorded):
    """Outputs by mode, over all eight crops, run in batches of one, three or eight."""
    coarse_engine, fine_engine = engines
    crops = reference_crops(8, (256, 192))
    parts = {"coarse": [], "always": [], "mixed": []}
    for start in range(0, 8, request.param):
        batch = crops[start : start + request.param]
        coarse = coarse_engine.run({"image": batch}, COARSE_OUTPUTS)
        for mode, refine in (("coarse", "never"), ("always", "always"), ("mixed", "auto")):
            rows = gate(coarse["quality"], float(recorded["threshold"]), refine)
            found = {name: coarse[name].copy() for name in (*FINE_OUTPUTS, "quality", "region_order")}
            if len(rows):
                patches = gather_patches(batch, rows, coarse["region_order"], 24)
                inputs = {"rows": rows, "patches": patches, **{name: coarse[name] for name in FINE_INPUTS[2:]}}
                for name, value in fine_engine.run(inputs, FINE_OUTPUTS).items():
                    found[name][rows] = value
            found["refined"] = np.isin(np.arange(len(batch)), rows)
            parts[mode].append(found)
    return {
        mode: {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        for mode, found in parts.items()
    }


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["coarse", "always", "mixed"])
def test_heatmaps_and_keypoints_are_the_released_ones(runs, recorded, mode):
    found = runs[mode]
    assert np.abs(found["heatmaps"][:, :, ::16, ::6] - recorded[f"heatmaps_{mode}"]).max() < 1e-4
    distance = np.linalg.norm(found["keypoints"][..., :2] - recorded[f"keypoints_{mode}"][..., :2], axis=-1)
    assert np.median(distance) < 0.01
    assert np.percentile(distance, 99) < 0.1
    np.testing.assert_allclose(found["keypoints"][..., 2], recorded[f"keypoints_{mode}"][..., 2], atol=1e-4)


@pytest.mark.soak
def test_quality_gate_and_regions_are_the_released_ones(runs, recorded):
    np.testing.assert_allclose(runs["mixed"]["quality"], recorded["quality"], atol=1e-5)
    assert runs["mixed"]["refined"].tolist() == recorded["refined"].tolist()
    selected = np.sort(runs["mixed"]["region_order"][:, :24])
    assert selected.tolist() == np.sort(recorded["selected"]).tolist()

"""The graphs of a bundle: the contract of their inputs and outputs, ONNX's own checks, and nothing private inside."""

import getpass
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest

import sharpose
from sharpose.bundle import open_bundle
from sharpose.errors import ExportError
from sharpose.export.onnx import describe_graph, export_graphs
from sharpose.model import random_model

# The bundle's contract for sharpose_tiny_coco_256x192: J 17, R 48, K 24, C 192, P 16, s 2.
CARRIED = [
    ("region_order", "int32", ("N", 48)),
    ("region_features", "float32", ("N", 48, 192)),
    ("region_embeddings", "float32", ("N", 48, 192)),
]
CONTRACT = {
    "coarse": (
        [("image", "uint8", ("N", 256, 192, 3))],
        [
            ("keypoints", "float32", ("N", 17, 3)),
            ("quality", "float32", ("N",)),
            *CARRIED,
            ("heatmaps", "float32", ("N", 17, 64, 48)),
        ],
    ),
    "fine": (
        [("rows", "int32", ("M",)), ("patches", "uint8", ("M", 96, 768)), *CARRIED],
        [("keypoints", "float32", ("M", 17, 3)), ("heatmaps", "float32", ("M", 17, 64, 48))],
    ),
}
STAGES = ["coarse", "fine"]


def as_tuples(entries):
    return [(item.name, item.dtype, item.shape) for item in entries]


@pytest.mark.parametrize("stage", STAGES)
def test_inputs_and_outputs_are_the_contracts(tiny_bundle, stage):
    path, entry = open_bundle(tiny_bundle).graph(stage)
    assert (as_tuples(entry.inputs), as_tuples(entry.outputs)) == CONTRACT[stage]
    assert entry.opset == 20
    session = onnxruntime.InferenceSession(str(path))
    types = {"uint8": "tensor(uint8)", "int32": "tensor(int32)", "float32": "tensor(float)"}
    for declared, found in zip(CONTRACT[stage], (session.get_inputs(), session.get_outputs()), strict=True):
        assert [(item.name, item.type, tuple(item.shape)) for item in found] == [
            (name, types[dtype], shape) for name, dtype, shape in declared
        ]


@pytest.mark.parametrize("stage", STAGES)
def test_full_checks_and_the_description(tiny_bundle, stage):
    path, entry = open_bundle(tiny_bundle).graph(stage)
    onnx.checker.check_model(str(path), full_check=True)
    assert describe_graph(onnx.load(str(path), load_external_data=False), path.name) == entry


@pytest.mark.parametrize("stage", STAGES)
def test_native_operators_of_one_domain(tiny_bundle, stage):
    model = onnx.load(str(tiny_bundle / f"{stage}.onnx"), load_external_data=False)
    kinds = {node.op_type for node in model.graph.node}
    assert {"Gelu", "LayerNormalization", "Softmax"} <= kinds
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert kinds.isdisjoint({"If", "Loop", "NonZero", "Erf"})  # nothing whose shape depends on data


@pytest.mark.parametrize("stage", STAGES)
def test_no_path_or_name_of_this_machine(tiny_bundle, stage):
    content = (tiny_bundle / f"{stage}.onnx").read_bytes()
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


@pytest.mark.parametrize("stage", STAGES)
def test_polygraphy_runs_it(tiny_bundle, stage):
    pytest.importorskip("polygraphy")
    tool = "import polygraphy.tools; polygraphy.tools.main()"
    command = [sys.executable, "-c", tool, "run", str(tiny_bundle / f"{stage}.onnx"), "--onnxrt"]
    if stage == "fine":
        command += ["--val-range", "rows:[0,0]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout + done.stderr

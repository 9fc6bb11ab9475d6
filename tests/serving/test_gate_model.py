"""The gate between two graphs that are models of their own, on what stands in for Triton and its ONNX Runtime."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from triton_stand_in import InferenceResponse, Request, Tensor, TritonError, load_model

from sharpose.bundle import open_bundle, shipped_bundle
from sharpose.serving.contract import OUTPUTS, ServedModel
from sharpose.serving.gate_model import gather_patches
from sharpose.serving.repository import write_repository
from sharpose.tokens import gather_patches as gather_as_the_product

ALWAYS, NEVER = np.float32(np.inf), np.float32(-np.inf)
LIMITS = np.array([[NEVER], [ALWAYS], [0.5], [NEVER], [ALWAYS], [NEVER]], np.float32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    write_repository(open_bundle(shipped_bundle()), folder, "graphs")
    return folder


@pytest.fixture(scope="module")
def graphs(repository):
    """The repository's graphs in ONNX Runtime, each as a model that answers requests."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    def served(name):
        path = repository / name / "1" / "model.onnx"
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def answer(request):
            feed = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            values = session.run(request.wanted, feed)
            return InferenceResponse([Tensor(*pair) for pair in zip(request.wanted, values, strict=True)])

        return answer

    return {name: served(name) for name in ("sharpose_coarse", "sharpose_fine")}


def gate(backend, repository, graphs, **parameters):
    backend.InferenceRequest.models = graphs
    config = ServedModel.of(open_bundle(shipped_bundle())).to_config()
    config["parameters"] |= {key: {"string_value": value} for key, value in parameters.items()}
    return load_model(repository / "sharpose", json.dumps(config))


def answered(model, crops):
    requests = [
        Request.of(crops=crops[p], quality_threshold=LIMITS[p]) for p in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    parts = [response.arrays() for response in model.execute(requests)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_three_clients_share_a_batch_and_get_what_the_product_computes(
    backend, repository, graphs, crops, estimate_locally
):
    calls = []
    noted = {name: lambda request, name=name: calls.append(name) or graphs[name](request) for name in graphs}
    got = answered(gate(backend, repository, noted), crops)
    assert calls == ["sharpose_coarse", "sharpose_fine"]
    expected = estimate_locally(crops, LIMITS, 16)
    for item in OUTPUTS:
        assert got[item.name].dtype == item.dtype
        assert got[item.name].tobytes() == expected[item.name].tobytes(), item.name


def test_an_engine_of_one_coarse_batch_gets_it(backend, repository, graphs, crops, estimate_locally):
    people = []

    def fine(request):
        people.extend({len(tensor.as_numpy()) for tensor in request.inputs() if tensor.name().startswith("region_")})
        return graphs["sharpose_fine"](request)

    got = answered(gate(backend, repository, graphs | {"sharpose_fine": fine}, fine_batch="8"), crops)
    assert people == [8]
    assert got["keypoints"].tobytes() == estimate_locally(crops, LIMITS, 16)["keypoints"].tobytes()


def test_nobody_to_refine_calls_no_fine_graph(backend, repository, graphs, crops):
    model = gate(backend, repository, {"sharpose_coarse": graphs["sharpose_coarse"]})
    (response,) = model.execute([Request.of(crops=crops[:2], quality_threshold=np.full((2, 1), NEVER))])
    assert not response.arrays()["refined"].any()


def test_a_graph_that_fails_is_named(backend, repository, graphs, crops):
    def failing(request):
        return InferenceResponse([], TritonError("out of memory"))

    model = gate(backend, repository, graphs | {"sharpose_fine": failing})
    (response,) = model.execute([Request.of(crops=crops[:1], quality_threshold=np.full((1, 1), ALWAYS))])
    assert response.error().message() == "the batch failed: RuntimeError: sharpose_fine: out of memory"


def test_its_patches_are_the_products():
    rng = np.random.default_rng(1)
    crops = rng.integers(0, 256, (4, 128, 96, 3), np.uint8)
    order = np.stack([rng.permutation(12) for _ in range(4)]).astype(np.int32)
    rows = np.array([3, 0], np.int32)
    assert np.array_equal(gather_patches(crops, rows, order, 5), gather_as_the_product(crops, rows, order, 5))


def test_its_file_needs_nothing_but_numpy(repository):
    (path,) = repository.glob("sharpose/*/model.py")
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names) == {
        "numpy",
        "triton_python_backend_utils",
    }
    done = subprocess.run([sys.executable, "-I", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

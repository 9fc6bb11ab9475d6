"""The served models in a real tritonserver."""

from __future__ import annotations

import shutil
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sharpose.bundle import open_bundle, shipped_bundle
from sharpose.errors import ServerBusyError, ServerRefusedError
from sharpose.serving.client.client import Patience, PoseClient
from sharpose.serving.contract import ServedModel
from sharpose.serving.repository import CONFIG_PATH, QUEUE_SIZE, write_repository

HELPERS = Path(__file__).parents[1] / "helpers"
ALWAYS, NEVER = np.float32(np.inf), np.float32(-np.inf)


@pytest.fixture(scope="module")
def client(triton_server):
    with_server = PoseClient(triton_server.url)
    with_server.contact()
    yield with_server
    with_server.close()


def test_it_says_what_it_serves(triton_server):
    config = triton_server.get("/v2/models/sharpose/config")
    assert ServedModel.from_config(config) == ServedModel.of(open_bundle(shipped_bundle()))
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 0
    policy = config["dynamic_batching"]["default_queue_policy"]
    assert (policy["timeout_action"], policy["max_queue_size"]) == ("REJECT", 64)


def test_poses_are_those_of_local_engines_to_the_byte(client, crops, estimate_locally):
    thresholds = np.array([[NEVER], [ALWAYS], [0.5], [NEVER], [ALWAYS], [0.99]], np.float32)
    served = client.infer(crops, thresholds, regions=True)
    local = estimate_locally(crops, thresholds, 1)
    assert served.keypoints.tobytes() == local["keypoints"].tobytes()
    assert served.quality.tobytes() == local["quality"].tobytes()
    assert served.refined.tobytes() == local["refined"].tobytes()
    assert local["refined"].any()
    assert not local["refined"].all()


def test_requests_that_meet_share_executions(triton_server, client, crops, estimate_locally):
    """Each of eight clients has another threshold; each gets its own poses."""
    limits = [ALWAYS if number % 2 else NEVER for number in range(8)]
    expected = [estimate_locally(crops[:1], np.full((1, 1), limit), 1)["keypoints"].tobytes() for limit in limits]
    requests, executions = triton_server.counted()

    def ask(limit):
        poses = [client.infer(crops[:1], np.full((1, 1), limit, np.float32)) for _ in range(5)]
        return {pose.keypoints.tobytes() for pose in poses}

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, limits))
    assert answers == [{value} for value in expected]
    requests_now, executions_now = triton_server.counted(requests + 40)
    met = requests_now - requests  # with those before that were counted late
    assert met >= 40
    assert executions_now - executions < met


def test_a_request_that_makes_no_sense_gets_400_and_its_reason(client, crops):
    with pytest.raises(ServerRefusedError, match="quality_threshold: expected numbers, or infinities, got NaN"):
        client.infer(crops[:1], np.full((1, 1), np.nan, np.float32))


def test_crops_and_refinements_are_counted_in_its_metrics(triton_server, client, crops):
    def counted():
        text = urllib.request.urlopen(triton_server.metrics_url).read().decode()
        lines = [line.split() for line in text.splitlines() if line.startswith("sharpose_served_")]
        return {name.partition("{")[0].removeprefix("sharpose_served_"): float(value) for name, value in lines}

    before = counted()
    client.infer(crops[:3], np.array([[ALWAYS], [NEVER], [ALWAYS]], np.float32))
    after = counted()
    assert {name: after[name] - before.get(name, 0) for name in after} == {"crops_total": 3, "refined_total": 2}


def test_a_model_with_numpy_2_isnt_served(start_triton, product_repository, tmp_path):
    """It would read wrong crops, and answer with empty tensors and status 200."""
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("the tests' own numpy is older than 2")
    installed = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        (tmp_path / name).symlink_to(installed / name)
    server = start_triton(product_repository, packages=tmp_path, ready=False)
    log = server.log.read_text()
    assert f"found numpy {np.__version__}" in log
    assert 'pip install "numpy<2"' in log


def test_a_full_queue_refuses_at_once(start_triton, product_repository, tmp_path, crops):
    shutil.copytree(product_repository, tmp_path / "models")
    config = tmp_path / "models" / CONFIG_PATH
    config.write_text(config.read_text().replace(f"max_queue_size: {QUEUE_SIZE}", "max_queue_size: 1"))
    client = PoseClient(start_triton(tmp_path / "models").url)
    client.contact()
    many = np.concatenate([crops, crops])

    def ask(number):
        try:
            client.infer(many, np.full((12, 1), ALWAYS), patience=Patience(drop=True))
        except ServerBusyError:
            return "busy"
        return "poses"

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, range(8)))
    client.close()
    assert set(answers) == {"busy", "poses"}


def test_the_gate_calls_both_graphs(start_triton, tmp_path, crops, estimate_locally):
    """In the layout `graphs`; a model in Python stands in for Triton's ONNX Runtime."""
    bundle = open_bundle(shipped_bundle())
    write_repository(bundle, tmp_path, "graphs")
    for stage in ("coarse", "fine"):
        model = tmp_path / f"sharpose_{stage}"
        config = (model / "config.pbtxt").read_text().replace('platform: "onnxruntime_onnx"', 'backend: "python"')
        (model / "config.pbtxt").write_text(config)
        shutil.copyfile(HELPERS / "onnx_in_python_backend.py", model / "1" / "model.py")
    client = PoseClient(start_triton(tmp_path).url)
    assert client.contact() == ServedModel.of(bundle)
    limits = np.array([[NEVER], [ALWAYS], [0.5], [NEVER], [ALWAYS], [NEVER]], np.float32)
    served = client.infer(crops, limits, regions=True)
    client.close()
    local = estimate_locally(crops, limits, 16)
    assert served.keypoints.tobytes() == local["keypoints"].tobytes()
    assert served.refined.tobytes() == local["refined"].tobytes()

"""Both stages behind one model, without a server: on what stands in for Triton's Python backend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from stand_in_stages import StubStages
from triton_stand_in import Request, TritonModelException, counted, load_model, logged

from sharpose.bundle import open_bundle, shipped_bundle
from sharpose.errors import EngineError
from sharpose.serving import product_model
from sharpose.serving.contract import OUTPUTS, ServedModel
from sharpose.serving.repository import write_repository

ALWAYS, NEVER = np.float32(np.inf), np.float32(-np.inf)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    write_repository(open_bundle(shipped_bundle()), folder, "product")
    return folder


def described(max_batch=None, **parameters):
    """The configuration that Triton hands to the model, in JSON."""
    config = ServedModel.of(open_bundle(shipped_bundle())).to_config()
    running = {"device": "cpu", "precision": "auto", "threads": "1", "batch": "16"} | parameters
    config["parameters"] |= {key: {"string_value": value} for key, value in running.items()}
    return json.dumps(config | ({} if max_batch is None else {"max_batch_size": max_batch}))


@pytest.fixture
def model(backend, repository):
    made = load_model(repository / "sharpose", described())
    yield made
    made.finalize()


def asked(crops, thresholds):
    return Request.of(crops=crops, quality_threshold=np.asarray(thresholds, np.float32).reshape(-1, 1))


def joined(responses):
    parts = [response.arrays() for response in responses]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_three_clients_share_a_batch_and_get_their_own_poses(model, crops, estimate_locally, monkeypatch):
    thresholds = np.array([[NEVER], [ALWAYS], [0.5], [NEVER], [ALWAYS], [NEVER]], np.float32)
    stages, batches = model._stages, []
    run_coarse = stages.run_coarse
    monkeypatch.setattr(stages, "run_coarse", lambda people: batches.append(people) or run_coarse(people))
    parts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    got = joined(model.execute([asked(crops[part], thresholds[part]) for part in parts]))
    assert batches == [6]
    expected = estimate_locally(crops, thresholds, 16)
    assert list(got) == [item.name for item in OUTPUTS]
    for item in OUTPUTS:
        assert got[item.name].dtype == item.dtype
        assert got[item.name].tobytes() == expected[item.name].tobytes(), item.name
    assert got["refined"][[0, 1, 3, 4, 5], 0].tolist() == [False, True, False, True, False]
    refined = int(got["refined"].sum())
    assert counted == {"sharpose_served_crops_total": 6, "sharpose_served_refined_total": refined}


def test_what_was_answered_stays_when_the_next_batch_runs(model, crops):
    first = model.execute([asked(crops[:2], [ALWAYS, NEVER])])[0].arrays()
    before = {name: values.tobytes() for name, values in first.items()}
    model.execute([asked(crops[2:4], [NEVER, ALWAYS])])
    assert {name: values.tobytes() for name, values in first.items()} == before


def test_one_person_a_batch_gives_the_same_however_requests_meet(backend, repository, crops, estimate_locally):
    model = load_model(repository / "sharpose", described(batch="1"))
    thresholds = np.full((6, 1), ALWAYS)
    together = joined(model.execute([asked(crops[:4], thresholds[:4]), asked(crops[4:], thresholds[4:])]))
    alone = joined([model.execute([asked(crops[i : i + 1], thresholds[:1])])[0] for i in range(6)])
    expected = estimate_locally(crops, thresholds, 1)
    for name, values in expected.items():
        assert together[name].tobytes() == alone[name].tobytes() == values.tobytes()
    model.finalize()


def test_a_bad_request_harms_no_other_of_its_batch(model, crops, estimate_locally):
    nan = np.array([[np.nan]], np.float32)
    requests = [
        asked(crops[:1], [ALWAYS]),
        asked(crops[:1].astype(np.float32), [ALWAYS]),
        asked(np.ascontiguousarray(crops[:1, :128]), [ALWAYS]),
        asked(crops[:0], np.zeros(0)),
        asked(np.repeat(crops, 3, axis=0), np.zeros(18)),
        asked(crops[:2], [ALWAYS]),
        Request.of(crops=crops[:1], quality_threshold=nan),
        Request.of(crops=crops[:1]),
        Request.of(quality_threshold=nan),
        asked(crops[1:2], [NEVER]),
    ]
    first, *bad, last = model.execute(requests)
    assert [response.error().message() for response in bad] == [
        "crops: expected uint8 [n, 256, 192, 3], got float32 [1, 256, 192, 3]",
        "crops: expected uint8 [n, 256, 192, 3], got uint8 [1, 128, 192, 3]",
        "crops: expected uint8 [n, 256, 192, 3], got uint8 [0, 256, 192, 3]",
        "crops: expected at most 16 in a request, got 18",
        "quality_threshold: expected float32 [2, 1], got float32 [1, 1]",
        "quality_threshold: expected numbers, or infinities, got NaN",
        "quality_threshold: expected float32 [1, 1], got nothing",
        "crops: expected uint8 [n, 256, 192, 3], got nothing",
    ]
    assert {response.error().code() for response in bad} == {"INVALID_ARG"}
    expected = estimate_locally(crops[:2], np.array([[ALWAYS], [NEVER]]), 16)
    assert joined([first, last])["keypoints"].tobytes() == expected["keypoints"].tobytes()


def test_empty_texts_are_the_defaults(backend, repository):
    """A JSON may leave them out. Batches are then cut as the estimator cuts them."""
    config = json.loads(described())
    config["parameters"] |= {name: {} for name in ("device", "precision", "threads", "batch")}
    model = load_model(repository / "sharpose", json.dumps(config))
    assert model._stages.device == "cpu"
    assert model._stages.coarse_buckets.seconds  # measured
    model.finalize()


def test_more_than_a_batch_is_cut_between_requests(backend, repository, crops, monkeypatch):
    model = load_model(repository / "sharpose", described(max_batch=4, batch="4"))
    batches = []
    run = model.run
    monkeypatch.setattr(model, "run", lambda crops, limits: batches.append(len(limits)) or run(crops, limits))
    responses = model.execute([asked(crops[:n], np.zeros(n)) for n in (2, 2, 3, 1, 4)])
    assert batches == [4, 4, 4]
    assert [len(response.arrays()["quality"]) for response in responses] == [2, 2, 3, 1, 4]
    model.finalize()


@pytest.fixture
def engines_of_four(monkeypatch):
    """As TensorRT engines that were built with --max-batch 4, in a bundle whose max batch is 16."""
    stages = StubStages(open_bundle(shipped_bundle()), qualities=[0.5, *(n / 16 for n in range(16))], max_batch=4)
    monkeypatch.setattr(product_model, "load_on", lambda device, load: stages)
    return stages


def test_engines_of_a_smaller_batch_than_the_bundles_serve_what_the_server_takes(
    backend, repository, crops, engines_of_four
):
    model = load_model(repository / "sharpose", described(batch=""))
    assert logged[-1][1].endswith(" on stub in fp32, at most 4 crops a run")
    ten = np.concatenate([crops, crops[:4]])
    got = joined(model.execute([asked(ten[:3], [0.1] * 3), asked(ten[3:6], [NEVER] * 3), asked(ten[6:], [0.5] * 4)]))
    assert engines_of_four.coarse_batches == [1, 4, 4, 2]  # the first one when it was loaded
    assert got["quality"][:, 0].tolist() == [n / 16 for n in range(10)]
    assert got["refined"][:, 0].tolist() == [True, True, False, False, False, False, True, True, False, False]
    np.testing.assert_array_equal(got["keypoints"][:, 0, 0], np.where(got["refined"][:, 0], 3, 1))
    model.finalize()


def test_engines_in_tf32_are_not_served(backend, repository, monkeypatch):
    """Nor does sharpose-run take them without --tf32, and --verify hasn't compared them."""
    asked_for = []

    def load(bundle, device, *, tensorrt, **options):
        asked_for.append((device, tensorrt.tf32))
        return StubStages(bundle, max_batch=16)

    monkeypatch.setattr(product_model, "load_two_stage", load)
    load_model(repository / "sharpose", described(device="tensorrt:1"))
    assert asked_for == [("tensorrt:1", False)]


def test_a_batch_that_the_engines_dont_take_is_refused(backend, repository, engines_of_four):
    with pytest.raises(TritonModelException, match="parameter batch: expected 1 to 4, or an empty text, got '8'"):
        load_model(repository / "sharpose", described(batch="8"))


def test_a_failed_batch_is_an_error_of_its_requests_and_the_next_one_runs(model, crops, monkeypatch):
    with monkeypatch.context() as broken:

        def fail(people):
            raise EngineError("out of memory")

        broken.setattr(model._stages, "run_coarse", fail)
        (response,) = model.execute([asked(crops[:2], [0, 0])])
    assert response.error().message() == "the batch failed: EngineError: out of memory"
    assert response.error().code() == "INTERNAL"
    assert logged[-1] == ("error", "a batch of 2 crops failed: EngineError: out of memory")
    assert model.execute([asked(crops[:2], [0, 0])])[0].arrays()["keypoints"].shape == (2, 17, 3)


def test_what_the_product_says_goes_to_the_servers_log(model):
    assert logged[-1][0] == "info"
    assert logged[-1][1].startswith("serves bundle ")
    assert logged[-1][1].endswith(" on cpu in fp32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "gpu"}, "expected"),
        ({"precision": "fp8"}, "precision: expected"),
        ({"precision": "fp16"}, "not fp16; export it with"),
        ({"threads": "many"}, "parameter threads: expected 1 to"),
        ({"batch": "17"}, "parameter batch: expected 1 to 16, or an empty text, got '17'"),
        ({"bundle_sha256": "0" * 64}, "expected the one that config.pbtxt describes (bundle_sha256 000000000000…)"),
        ({"max_batch": 32}, "max_batch_size: expected at most 16, the bundle's, got 32; edit config.pbtxt"),
    ],
)
def test_what_cant_be_served_isnt_loaded(backend, repository, changes, message):
    with pytest.raises(TritonModelException) as error:
        load_model(repository / "sharpose", described(**changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_bundle_isnt_served(backend, repository, tmp_path):
    shutil.copytree(repository / "sharpose", tmp_path / "sharpose")
    (weights,) = tmp_path.glob("sharpose/*/bundle/weights.bin")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(TritonModelException, match=r"weights\.bin is damaged or was changed"):
        load_model(tmp_path / "sharpose", described())


def test_a_numpy_that_the_backend_cant_read_is_refused(backend, repository):
    backend.Tensor.broken = True
    with pytest.raises(TritonModelException, match=f'found numpy {np.__version__}.*pip install "numpy<2"'):
        load_model(repository / "sharpose", described())


def test_a_server_without_metrics_serves_all_the_same(backend, repository, crops):
    del backend.MetricFamily
    model = load_model(repository / "sharpose", described())
    assert model.execute([asked(crops[:1], [0])])[0].arrays()["quality"].shape == (1, 1)
    assert any("no metrics of its own" in text for _, text in logged)
    model.finalize()


def test_the_models_file_says_what_it_needs(repository: Path) -> None:
    (path,) = repository.glob("sharpose/*/model.py")
    text = path.read_text()
    assert "from sharpose.serving.product_model import TritonPythonModel" in text
    assert "numpy < 2" in text

"""OpenVINO on its CPU device: values, shared memory, precisions, fixed batch sizes, failures, threads and forks."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from chain_graph import chain, chained
from detector_graphs import SIZE, finder, picture
from onnx import TensorProto, helper
from reference_model import reference_crops
from scale_graph import MAX_BATCH, entry, scale_inputs

from sharpose.bundle import Bundle, open_bundle
from sharpose.engines import openvino
from sharpose.engines.base import GraphError, TensorSpec
from sharpose.engines.device import parse_device
from sharpose.engines.load import OnnxRuntimeSettings, load_two_stage
from sharpose.engines.openvino import OpenVinoDevice, OpenVinoRunner, precision_hint, visible_devices
from sharpose.engines.two_stage import HostTwoStage
from sharpose.errors import EngineError, InputError, how_to_install
from sharpose.runtime import PoseEstimator
from sharpose.runtime.detectors.onnx import Detector

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")


@pytest.fixture
def engine(graph: Path) -> Iterator[OpenVinoRunner]:
    runner = OpenVinoRunner(graph, entry(), MAX_BATCH, threads=1)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path) -> Bundle:
    return open_bundle(nano_bundle)


def two_stage(bundle: Bundle, **options: Any) -> HostTwoStage:
    largest = bundle.manifest.max_batch
    coarse, fine = (OpenVinoRunner(*bundle.graph(stage), largest, **options) for stage in ("coarse", "fine"))
    return HostTwoStage(coarse, fine, "fp32")


def test_runs_a_graph_and_hands_out_what_is_asked_for(engine: OpenVinoRunner) -> None:
    both = engine.run(scale_inputs(2), ("total", "scaled"))
    assert list(both) == ["total", "scaled"]
    np.testing.assert_array_equal(both["scaled"], [[0, 1, 2], [6, 8, 10]])
    np.testing.assert_array_equal(both["total"], [3, 24])
    assert list(engine.run(scale_inputs(4), ("total",))) == ["total"]
    assert (engine.device, engine.max_batch) == ("openvino:CPU", MAX_BATCH)
    assert str(engine.inputs["factor"]) == "factor int32 [N]"


def test_checks_inputs_and_outputs(engine: OpenVinoRunner) -> None:
    with pytest.raises(InputError, match="factor: expected dtype int32, got int64"):
        engine.run(scale_inputs(2) | {"factor": np.ones(2, np.int64)}, ("total",))
    with pytest.raises(InputError, match="axis N must be 1 to 4, got 5"):
        engine.run(scale_inputs(5), ("total",))
    with pytest.raises(EngineError, match=r"expected some of \['scaled', 'total'\], got \['sum'\]"):
        engine.run(scale_inputs(2), ("sum",))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="this engine was closed"):
        engine.run(scale_inputs(1), ("total",))


def test_results_outlive_later_runs_that_ask_for_less(engine: OpenVinoRunner) -> None:
    inputs = scale_inputs(2)
    first = engine.run(inputs, ("scaled", "total"))
    kept = engine.run(inputs, ("scaled",), keep_on_device=("scaled",))["scaled"]
    np.asarray(inputs["values"])[:] = 100
    engine.run(inputs, ("total",))
    engine.run(inputs, ("scaled", "total"))
    np.testing.assert_array_equal(first["scaled"], [[0, 1, 2], [6, 8, 10]])
    np.testing.assert_array_equal(first["total"], [3, 24])
    again = engine.run({"values": kept, "factor": np.array([1, 10], np.int32)}, ("total",))
    np.testing.assert_array_equal(again["total"], [3, 240])


def test_a_kept_output_of_another_size_is_refused(engine: OpenVinoRunner) -> None:
    kept = engine.run(scale_inputs(3), ("scaled",), keep_on_device=("scaled",))["scaled"]
    assert not isinstance(kept, np.ndarray)
    assert list(kept.shape()) == [3, 3]
    with pytest.raises(InputError, match="axis N is 2, but another input has 3"):
        engine.run({"values": kept, "factor": np.ones(2, np.int32)}, ("total",))


def test_inputs_are_read_where_they_lie_and_outputs_written_where_they_are_handed_out(engine: OpenVinoRunner) -> None:
    inputs = scale_inputs(2)
    result = engine.run(inputs, ("total",))["total"]
    (request,) = (item.raw for item in engine._requests.values())
    np.asarray(inputs["values"])[:] = [[1, 1, 1], [2, 2, 2]]
    request.infer()  # the same request once more: nothing is handed to it
    np.testing.assert_array_equal(result, [3, 12])


def test_features_reach_the_fine_stage_without_a_copy(bundle: Bundle) -> None:
    stages = load_two_stage(bundle, "openvino", threads=1)
    assert isinstance(stages, HostTwoStage)
    stages.crops[:2] = reference_crops(2, bundle.model.crop_size)
    stages.run_coarse(2)
    stages.run_fine(np.array([1], np.int32))
    coarse, fine = (list(vars(runner)["_requests"].values()) for runner in (stages._coarse, stages._fine))
    for name in ("region_features", "region_embeddings"):
        assert coarse[0].get(name).data.ctypes.data == fine[0].get(name).data.ctypes.data
    assert coarse[0].get("image").data.ctypes.data == stages.crops.ctypes.data
    assert fine[0].get("patches").data.ctypes.data == stages.patches.ctypes.data
    stages.close()


def test_an_array_that_is_read_only_is_an_input_too(engine: OpenVinoRunner) -> None:
    inputs = scale_inputs(2)
    np.asarray(inputs["values"]).flags.writeable = False
    np.testing.assert_array_equal(engine.run(inputs, ("total",))["total"], [3, 24])


def test_what_is_computed_in_is_asked_of_the_compiled_graph(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cpu,) = (item for item in visible_devices() if item.name == "CPU")
    runner = OpenVinoRunner(graph, entry(), MAX_BATCH)
    for compiled in runner._compiled.values():
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    if "fp16" in cpu.precisions:
        return
    with pytest.raises(EngineError, match=r"^precision fp16: expected one that openvino:CPU \(.*\) computes in: fp32"):
        OpenVinoRunner(graph, entry(), MAX_BATCH, precision="fp16")
    # OpenVINO itself takes bf16 or float32 for it, and doesn't say so.
    monkeypatch.setattr(openvino, "precision_hint", lambda *_: "f16")
    with pytest.raises(EngineError, match=r"asked to compute in f16 on CPU, OpenVINO chose (bf16|f32)"):
        OpenVinoRunner(graph, entry(), MAX_BATCH, precision="fp16")


def test_bf16_rounds(bundle: Bundle) -> None:
    if not any(item.name == "CPU" and "bf16" in item.precisions for item in visible_devices()):
        pytest.skip("this CPU has no bf16")
    crops = reference_crops(2, bundle.model.crop_size)
    heatmaps = [
        np.asarray(
            OpenVinoRunner(*bundle.graph("coarse"), 16, precision=name).run({"image": crops}, ["heatmaps"])["heatmaps"]
        )
        for name in ("fp32", "bf16")
    ]
    difference = np.abs(heatmaps[0] - heatmaps[1]).max() / np.ptp(heatmaps[0])
    assert 1e-5 < difference < 0.1


@pytest.mark.parametrize(
    ("able", "hints"),
    [
        (("fp32", "fp16", "int8"), {"fp32": "f32", "fp16": "f16", "int8": "f32", "bf16": None}),
        (("fp16", "int8"), {"fp16": "f16", "int8": "f16", "fp32": None}),
        (("fp32", "bf16"), {"fp32": "f32", "bf16": "bf16", "int8": None}),
    ],
)
def test_hints_by_what_a_device_computes_in(able: tuple[str, ...], hints: dict[str, str | None]) -> None:
    device = OpenVinoDevice("GPU.1", "Arc", able)
    for precision, hint in hints.items():
        if hint is not None:
            assert precision_hint(precision, device) == hint
            continue
        with pytest.raises(EngineError) as caught:
            precision_hint(precision, device)
        expected = f"expected one that openvino:GPU.1 (Arc) computes in: {', '.join(able)}"
        assert str(caught.value) == f"precision {precision}: {expected}"


class FakeCore:
    """A core with a GPU that computes in what it is asked to, and knows no pinning of threads."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def get_property(self, name: str, key: str) -> list[str]:
        assert (name, key) == ("GPU.0", "SUPPORTED_PROPERTIES")
        return ["PERFORMANCE_HINT", "EXECUTION_MODE_HINT", "CACHE_DIR", "INFERENCE_PRECISION_HINT"]

    def compile_model(self, model: str, name: str, settings: dict[str, Any]) -> Any:
        self.asked = settings
        precision = SimpleNamespace(get_type_name=lambda: settings["INFERENCE_PRECISION_HINT"])
        return SimpleNamespace(get_property=lambda key: precision, model=model)


def test_a_gpu_is_asked_for_what_it_knows_and_keeps_what_it_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = FakeCore()
    monkeypatch.setattr(openvino, "openvino_core", lambda: core)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gpu = OpenVinoDevice("GPU.0", "Arc", ("fp32", "fp16"))
    assert openvino._compile(Path("coarse.onnx"), "graph", gpu, "f16", 4).model == "graph"
    assert core.asked == {
        "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "CACHE_DIR": str(tmp_path / "sharpose" / "openvino"),
        "INFERENCE_PRECISION_HINT": "f16",
    }


@pytest.mark.parametrize("device", ["openvino:GPU.7", "openvino:NPU"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(
    graph: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [OpenVinoDevice("CPU", "Xeon", ()), OpenVinoDevice("GPU.0", "Arc", ())]
    monkeypatch.setattr(openvino, "visible_devices", lambda: seen)
    with pytest.raises(EngineError) as caught:
        OpenVinoRunner(graph, entry(), MAX_BATCH, device=device)
    assert str(caught.value) == (
        f"device {device}: OpenVINO sees CPU (Xeon), GPU.0 (Arc) here; install Intel's driver for it, or use device "
        "openvino:CPU"
    )


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("CPU", "openvino", True),
        ("GPU", "openvino:GPU", True),
        ("GPU", "openvino:GPU.0", True),
        ("GPU.0", "openvino:GPU", True),
        ("GPU.1", "openvino:GPU.1", True),
        ("GPU.1", "openvino:GPU", False),
    ],
)
def test_names_of_devices(name: str, text: str, found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = OpenVinoDevice(name, "it", ())
    monkeypatch.setattr(openvino, "visible_devices", lambda: [seen])
    if found:
        assert openvino.find_device(parse_device(text)) is seen
    else:
        with pytest.raises(EngineError, match="OpenVINO sees"):
            openvino.find_device(parse_device(text))


def test_a_missing_package_is_one_line(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "_core_and_process", openvino._core_and_process.__wrapped__)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=re.escape(f"OpenVINO is not installed: {how_to_install('openvino')}")):
        OpenVinoRunner(graph, entry(), MAX_BATCH)


def test_nothing_is_sent_to_openvinos_makers(tmp_path: Path) -> None:
    program = (
        "import sys, types\n"
        "from sharpose.engines.openvino import import_openvino\n"
        "import_openvino().Core()\n"
        "assert not [name for name in sys.modules if 'openvino_telemetry' in name]\n"
        "import threading; print(threading.active_count())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    assert list(tmp_path.iterdir()) == []  # plainly imported, it writes `intel/openvino_ga_cid`


@pytest.mark.parametrize("content", [b"", b"no graph", None, "operator"])
def test_a_file_that_is_no_graph_for_openvino_is_refused(
    tmp_path: Path, content: bytes | str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.onnx"
    if isinstance(content, str):
        made = helper.make_tensor_value_info("made", TensorProto.FLOAT, ["N", 3])
        chain(path, [helper.make_node("Foo", ["values"], ["made"], domain="own")], [made])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(GraphError) as caught:
        OpenVinoRunner(path, entry(), MAX_BATCH)
    message = str(caught.value)
    assert message.startswith(f"{path}: OpenVINO can't load it (")
    assert "\n" not in message
    assert "src/" not in message
    if isinstance(content, str):
        assert message.endswith("(No conversion rule found for operations: own.Foo)")
    assert capfd.readouterr() == ("", "")


def test_a_scalar_beside_an_output_of_unknown_length(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["values"], ["places"]),
        helper.make_node("Transpose", ["places"], ["rows"], perm=[1, 0]),
        helper.make_node("Cast", ["rows"], ["made"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["made"], ["count"], keepdims=0),
    ]
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, ["K", 2])
    count = helper.make_tensor_value_info("count", TensorProto.FLOAT, [])
    path = chain(tmp_path / "chain.onnx", nodes, [made, count])

    def fix(inputs: Sequence[TensorSpec]) -> list[TensorSpec]:
        return [dataclasses.replace(spec, shape=(2, 3)) for spec in inputs]

    runner = OpenVinoRunner(path, fix, 1)
    result = runner.run({"values": np.array([[0, 1, 0], [0, 0, 1]], np.float32)}, ("made", "count"))
    np.testing.assert_array_equal(result["made"], [[0, 1], [1, 2]])
    np.testing.assert_array_equal(result["count"], 4)
    assert np.asarray(result["count"]).shape == ()


def test_a_graph_that_is_not_as_declared_is_refused(graph: Path) -> None:
    with pytest.raises(
        EngineError, match=r"scale\.onnx: expected .*factor int32 \[N, 1\]; found .*factor int32 \[axis0\]"
    ):
        OpenVinoRunner(graph, entry(factor_shape=("N", 1)), MAX_BATCH)


@pytest.mark.parametrize("kept", [(), ("made",)])
@pytest.mark.parametrize(("operator", "rows"), [("Concat", 4), ("Compress", 1)])
def test_an_output_of_another_shape_than_the_graph_declares_is_refused(
    tmp_path: Path, operator: str, rows: int, kept: tuple[str, ...]
) -> None:
    if operator == "Concat":
        nodes = [helper.make_node("Concat", ["values", "values"], ["made"], axis=0)]
    else:  # the first row alone
        nodes = [
            helper.make_node("Constant", [], ["first"], value_ints=[0]),
            helper.make_node("Constant", [], ["one"], value_ints=[1]),
            helper.make_node("Slice", ["values", "first", "one"], ["made"]),
        ]
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, ["N", 3])
    runner = OpenVinoRunner(chain(tmp_path / "chain.onnx", nodes, [made]), chained("made"), MAX_BATCH, threads=1)
    with pytest.raises(EngineError) as caught:
        runner.run({"values": np.zeros((2, 3), np.float32)}, ["made"], keep_on_device=kept)
    wrong = f"engine output made: expected made float32 [N, 3] with N = 2, got shape [{rows}, 3]"
    assert str(caught.value).startswith((wrong, "OpenVINO failed on openvino:CPU: "))
    assert "\n" not in str(caught.value)


def test_estimators_in_threads_do_not_disturb_each_other(bundle: Bundle) -> None:
    frame = reference_crops(1, bundle.model.crop_size)[0]
    box = np.array([[0, 0, frame.shape[1], frame.shape[0]]], np.float32)
    make = lambda: PoseEstimator.from_stages(bundle, two_stage(bundle, threads=1), refine="always")  # noqa: E731
    shared, own = make(), make()
    expected = shared(frame, box).keypoints
    found: list[Any] = []

    def work(estimator: PoseEstimator) -> None:
        found.extend(estimator(frame, box).keypoints for _ in range(10))

    threads = [threading.Thread(target=work, args=[estimator]) for estimator in (shared, shared, own)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 30
    for keypoints in found:
        np.testing.assert_array_equal(keypoints, expected)
    shared.close()
    own.close()


def test_a_forked_process_is_refused_and_does_not_hang(graph: Path, engine: OpenVinoRunner) -> None:
    engine.run(scale_inputs(2), ("total",))

    def forked() -> str:
        try:
            engine.run(scale_inputs(2), ("total",))
        except EngineError as error:
            try:
                OpenVinoRunner(graph, entry(), MAX_BATCH, threads=1)
            except EngineError as again:
                return f"{error}\n{again}"
        return "not refused"

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, forked().encode())
        finally:
            os._exit(0)
    os.close(writing)
    killer = threading.Timer(20, os.kill, [child, 9])
    killer.start()
    with os.fdopen(reading) as said:
        text = said.read()
    os.waitpid(child, 0)
    killer.cancel()
    assert [line.partition(" process ")[0] for line in text.splitlines()] == [
        f"engine of {graph}: expected to be called in",
        "OpenVINO was started in",
    ]


def test_a_graph_of_no_bundle_gets_the_shapes_that_it_is_given(graph: Path) -> None:
    def fix(inputs: Sequence[TensorSpec]) -> list[TensorSpec]:
        assert [str(spec) for spec in inputs] == ["values float32 [axis0, 3]", "factor int32 [axis0]"]
        return [dataclasses.replace(spec, shape=spec.shape_at({"axis0": 2})) for spec in inputs]

    runner = OpenVinoRunner(graph, fix, 1)
    assert str(runner.outputs["total"]) == "total float32 [2]"
    np.testing.assert_array_equal(runner.run(scale_inputs(2), ("total",))["total"], [3, 24])
    with pytest.raises(InputError, match=r"expected values float32 \[2, 3\], got shape \[3, 3\]"):
        runner.run(scale_inputs(3), ("total",))


@pytest.mark.parametrize("family", ["yolox", "yolov8", "end-to-end"])
def test_a_detector_finds_the_same_as_in_onnx_runtime(tmp_path: Path, family: str) -> None:
    threshold, red = (100, 2) if family == "yolox" else (0.4, 0)
    path = finder(tmp_path / "d.onnx", family, threshold=threshold, red=red)
    image = picture(*SIZE)
    image[20:70, 30:80] = 255
    found = []
    for device in ("cpu", "openvino"):
        detector = Detector.from_onnx(path, device=device)
        found.append(detector(image))
        assert detector.device == {"cpu": "cpu", "openvino": "openvino:CPU"}[device]
        detector.close()
    assert len(found[0]) == 1
    np.testing.assert_allclose(found[1].xyxy, found[0].xyxy, atol=1e-3)
    np.testing.assert_allclose(found[1].scores, found[0].scores, atol=1e-6)


def test_an_estimator_and_its_detector_run_in_openvino(nano_bundle: Path) -> None:
    lines: list[str] = []
    settings = OnnxRuntimeSettings(say=lines.append)
    with PoseEstimator(nano_bundle, device="openvino", threads=1, onnxruntime=settings) as estimator:
        assert (estimator.device, estimator.precision) == ("openvino:CPU", "fp32")
        assert estimator._detector_devices == ("openvino:CPU",)
        result = estimator(picture(128, 96), [[0, 0, 96, 128], [10, 10, 50, 90]])
    with PoseEstimator(nano_bundle, threads=1) as reference:
        expected = reference(picture(128, 96), [[0, 0, 96, 128], [10, 10, 50, 90]])
    np.testing.assert_allclose(result.quality, expected.quality, atol=1e-5)
    np.testing.assert_array_equal(result.refined, expected.refined)
    # Of random weights, the last step to a flat peak magnifies the last digits.
    assert np.quantile(np.abs(result.keypoints - expected.keypoints), 0.9) < 1e-3
    assert lines == ["OpenVINO on openvino:CPU, fp32"]

"""Detectors on TensorRT: real engines of real graphs from TensorRT-RTX, run by ONNX Runtime on the stand-in device."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from detector_graphs import FED, FLOAT, HALF, INT64, SIZE, finder, save
from host_cuda import HostCuda
from onnx import helper

from sharpose.engines.base import GraphError, TensorSpec
from sharpose.engines.device import Device, detector_devices
from sharpose.engines.load import OnnxRuntimeSettings, load_graph
from sharpose.engines.tensorrt import graph as tensorrt_graph
from sharpose.engines.tensorrt.cache import read_engine
from sharpose.engines.tensorrt.graph import load_tensorrt_graph
from sharpose.engines.tensorrt.library import BuildOptions, find_flavour
from sharpose.engines.tensorrt.load import TensorRtSettings
from sharpose.engines.tensorrt.two_stage import TensorRtTwoStage
from sharpose.errors import EngineError, InputError

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (see the README)")
DEVICE = Device("tensorrt", 0)
node = helper.make_node


class Machine:
    """A GPU that computes engines in ONNX Runtime, from the files that they were built from."""

    def __init__(self, host_engine, cuda):
        self.host_engine, self.cuda = host_engine, cuda
        self.devices: list[HostCuda] = []
        self.file = None
        self.loaded = 0

    def open_cuda_device(self, index, name):
        self.devices.append(self.cuda())
        return self.devices[-1]

    def engine(self, flavour, stored, entry, gpu):
        assert entry is None
        session = onnxruntime.InferenceSession(str(self.file), providers=["CPUExecutionProvider"])
        parts = [
            {
                item.name: TensorSpec(item.name, np.dtype(item.dtype), tuple(item.shape))
                for item in stored.sidecar.tensors
                if item.mode == mode
            }
            for mode in ("input", "output")
        ]

        def function(arrays):
            return dict(zip(parts[1], session.run(list(parts[1]), dict(arrays)), strict=True))

        self.loaded += 1
        return self.host_engine("detector", self.devices[-1], *parts, function, max_batch=1)


@pytest.fixture
def machine(monkeypatch, host_engine):
    machine = Machine(host_engine, HostCuda)
    monkeypatch.setattr(tensorrt_graph, "probe_gpu", lambda index: None)  # RTX builds for all GPUs without one
    monkeypatch.setattr(tensorrt_graph, "find_flavour", lambda name: find_flavour("tensorrt_rtx"))
    monkeypatch.setattr(tensorrt_graph, "open_cuda_device", machine.open_cuda_device)
    monkeypatch.setattr(tensorrt_graph, "TensorRtEngine", machine.engine)
    return machine


@pytest.fixture
def settings(tmp_path):
    lines: list[str] = []
    settings = TensorRtSettings(engine_cache=tmp_path / "cache", say=lines.append, on_progress=lambda progress: None)
    object.__setattr__(settings, "lines", lines)
    return settings


def fix(inputs):
    (one,) = inputs
    return [TensorSpec(one.name, one.dtype, (1, 3, *SIZE))]


def picture(red: int, dtype) -> np.ndarray:
    tensor = np.zeros((1, 3, *SIZE), dtype)
    tensor[0, red, 10:40, 20:90] = 255
    return tensor


@pytest.mark.parametrize("family", FED)
@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 3, *SIZE), FLOAT), (("N", 3, "H", "W"), FLOAT), ((1, 3, *SIZE), HALF)]
)
def test_every_family_is_built_once_and_gives_what_onnx_runtime_gives(
    machine, settings, tmp_path, family, shape, dtype
):
    red, threshold = FED[family]
    machine.file = path = finder(tmp_path / "d.onnx", family, threshold=threshold, red=red, shape=shape, dtype=dtype)
    numpy_dtype = np.dtype("f4" if dtype == FLOAT else "f2")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    images = picture(red, numpy_dtype)
    expected = dict(zip(names, session.run(names, {"images": images}), strict=True))
    for _ in range(2):
        runner = load_tensorrt_graph(path, fix, DEVICE, settings)
        assert runner.device == "tensorrt:0"
        assert [str(spec) for spec in runner.inputs.values()] == [f"images {numpy_dtype} [1, 3, 96, 128]"]
        found = runner.run({"images": images}, list(runner.outputs))
        assert set(found) == set(names)
        for name in names:
            assert found[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(found[name], expected[name])
        with pytest.raises(InputError, match=r"expected images float(32|16) \[1, 3, 96, 128\]"):
            runner.run({"images": images[:, :, 1:].copy()}, names)
        runner.close()
        assert machine.devices[-1].closed
        assert not +machine.devices[-1].live
    assert machine.loaded == 2
    assert sum("building it" in line for line in settings.lines) == 1  # the second time it is found
    (plan,) = settings.engine_cache.glob("detector-*.plan")
    sidecar = read_engine(settings.engine_cache, plan.stem).sidecar
    assert (sidecar.stage, sidecar.flavour, sidecar.profiles) == ("detector", "tensorrt_rtx", [])
    # Strongly typed: whatever its input is, what the file computes in float32 stays so.
    assert sidecar.tensors[0].dtype == str(numpy_dtype)
    assert sidecar.layers["CAST float32"] > 0
    assert not any(kind.endswith("float16") for kind in sidecar.layers)


def test_another_file_or_option_is_another_engine(machine, settings, tmp_path):
    for number, threshold in enumerate((200.0, 100.0)):
        machine.file = finder(tmp_path / f"{number}.onnx", "yolox", threshold=threshold, red=2)
        load_tensorrt_graph(machine.file, fix, DEVICE, settings).close()
    with_tf32 = TensorRtSettings(
        engine_cache=settings.engine_cache, options=BuildOptions(max_batch=8, tf32=True), on_progress=lambda _: None
    )
    load_tensorrt_graph(machine.file, fix, DEVICE, with_tf32).close()
    sidecars = [read_engine(settings.engine_cache, plan.stem).sidecar for plan in settings.engine_cache.glob("*.plan")]
    assert sorted((item.options.tf32, item.options.max_batch) for item in sidecars) == [
        (False, 1),
        (False, 1),
        (True, 1),
    ]
    assert len({item.graph_sha256 for item in sidecars}) == 2


def suppressing(path, *, fixed: bool):
    """Boxes and scores made of the picture, with overlaps suppressed; or, at a fixed size, how many are left."""
    constants = {
        "rows": np.array([1, -1, 4]),
        "start": np.array([0]),
        "end": np.array([60]),
        "axis": np.array([1]),
        "most": np.array([20]),
        "iou": np.array([0.5], np.float32),
        "threshold": np.array([0.1], np.float32),
        "column": np.array([2]),
        "flat": np.array([-1]),
    }
    nodes = [
        node("Reshape", ["images", "rows"], ["all_boxes"]),
        node("Slice", ["all_boxes", "start", "end", "axis"], ["boxes"]),
        node("ReduceMean", ["boxes"], ["mean"], axes=[2]),
        node("Sigmoid", ["mean"], ["score"]),
        node("Transpose", ["score"], ["scores"], perm=[0, 2, 1]),
        node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "threshold"], ["selected"]),
        node("Gather", ["selected", "column"], ["indices"], axis=1),
    ]
    if fixed:
        nodes.append(node("ReduceSum", ["indices", "axis2"], ["output"]))
        constants["axis2"] = np.array([0, 1])
        return save(path, nodes, [("output", INT64, (1, 1))], constants=constants)
    nodes += [
        node("Reshape", ["indices", "flat"], ["kept"]),
        node("Gather", ["boxes", "kept"], ["kept_boxes"], axis=1),
        node("Gather", ["score", "kept"], ["kept_scores"], axis=1),
        node("Concat", ["kept_boxes", "kept_scores"], ["dets"], axis=2),
    ]
    return save(path, nodes, [("dets", FLOAT, (1, "n", 5))], constants=constants)


def test_outputs_of_no_fixed_size_are_refused(machine, settings, tmp_path):
    path = suppressing(tmp_path / "d.onnx", fixed=False)
    with pytest.raises(GraphError, match=r"expected outputs of a fixed size, found dets float32 \[1, \w+, 5\]"):
        load_tensorrt_graph(path, fix, DEVICE, settings)
    assert machine.devices[-1].closed
    assert list(settings.engine_cache.glob("*.plan")) == []


def test_an_operator_that_can_not_be_built_is_the_graphs_fault(machine, settings, tmp_path):
    with pytest.raises(GraphError, match="can't build the engine"):
        load_tensorrt_graph(suppressing(tmp_path / "d.onnx", fixed=True), fix, DEVICE, settings)


def unparsable(path):
    nodes = [node("Reshape", ["images", "flat"], ["row"]), node("ArgMax", ["row"], ["output"], axis=0)]
    return save(path, nodes, [("output", INT64, (1,))], constants={"flat": np.array([-1])})


def test_a_detector_that_tensorrt_can_not_parse_runs_elsewhere_and_that_is_said(machine, settings, tmp_path):
    path = unparsable(tmp_path / "d.onnx")
    lines: list[str] = []
    ort = OnnxRuntimeSettings(say=lines.append)
    runner = load_graph(path, fix, detector_devices("tensorrt:1"), tensorrt=settings, onnxruntime=ort)
    assert runner.device == "cpu"
    images = picture(1, np.float32)
    np.testing.assert_array_equal(runner.run({"images": images}, ["output"])["output"], [images.argmax()])
    first, second = lines
    assert first.startswith("d.onnx can't run on tensorrt:1: TensorRT-RTX")
    assert "can't parse it" in first
    assert first.endswith("; trying cuda:1")
    assert second.startswith("d.onnx can't run on cuda:1: device cuda:1: this onnxruntime has")
    assert second.endswith("; trying cpu")
    assert not any("\n" in line for line in lines)


def test_a_device_that_was_asked_for_is_never_replaced(machine, settings, tmp_path):
    with pytest.raises(GraphError, match="can't parse it"):
        load_graph(unparsable(tmp_path / "d.onnx"), fix, ["tensorrt"], tensorrt=settings)


def test_the_first_device_must_be_there(settings, tmp_path, monkeypatch):
    def missing(index):
        raise EngineError("no GPU driver")

    monkeypatch.setattr(tensorrt_graph, "probe_gpu", missing)
    with pytest.raises(EngineError, match=r"^no GPU driver$"):
        load_graph(unparsable(tmp_path / "d.onnx"), fix, detector_devices("tensorrt"), tensorrt=settings)


def test_a_graph_that_runs_nowhere_names_every_reason(machine, settings, tmp_path):
    path = tmp_path / "d.onnx"
    path.write_bytes(unparsable(path).read_bytes()[:-20] + b"x" * 20)
    with pytest.raises(EngineError, match=r"can't run on tensorrt:0: .*; nor on cuda:0: .*; nor on cpu: "):
        load_graph(path, fix, detector_devices("tensorrt"), tensorrt=settings)


def test_a_detector_and_poses_take_turns_on_one_device(machine, settings, small_engines, tmp_path):
    cuda = HostCuda()
    machine.cuda = lambda: cuda
    red, threshold = FED["yolox"]
    machine.file = finder(tmp_path / "d.onnx", "yolox", threshold=threshold, red=red)
    stages = TensorRtTwoStage(*small_engines(cuda), cuda, "tensorrt:0", "fp32", use_graphs=True)
    detector = load_tensorrt_graph(machine.file, fix, DEVICE, settings)
    empty = np.zeros((1, 3, *SIZE), np.float32)
    for people in (1, 3, 3, 1):
        stages.crops[:people] = np.arange(people * 12, dtype=np.uint8).reshape(people, 2, 2, 3)
        stages.patches[:people] = 1
        totals = stages.crops[:people].astype(np.float32).sum(axis=(1, 2, 3))
        np.testing.assert_array_equal(stages.run_coarse(people).keypoints[:, 0, 0], totals)
        for images, seen in ((picture(red, np.float32), 0.9), (empty, 0)):
            output = detector.run({"images": images}, ["output"])["output"]
            np.testing.assert_allclose(output[0, 0, 4:6], [1, seen])
        refined = stages.run_fine(np.arange(people, dtype=np.int32))
        np.testing.assert_array_equal(refined[:, 0, 0], 5 * totals + 48 + totals.astype(int) % 4)
    detector.close()
    stages.close()
    assert {kind: count for kind, count in cuda.live.items() if count and kind != "pinned"} == {}

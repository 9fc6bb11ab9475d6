"""ONNX Runtime on small real graphs and on both graphs of a bundle."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from reference_model import reference_crops

from sharpose.bundle import Bundle, GraphEntry, TensorEntry, open_bundle
from sharpose.engines import onnxrt
from sharpose.engines.base import TensorSpec, Value
from sharpose.engines.load import Device, OnnxRuntimeSettings, parse_device
from sharpose.engines.onnxrt import OnnxRuntimeRunner, choose_precision, create_session
from sharpose.errors import EngineError, InputError, how_to_install

MAX_BATCH = 4
Array = npt.NDArray[Any]
Both = tuple[dict[str, Array], dict[str, Array]]
NO_GPU = "CUDAExecutionProvider" not in onnxruntime.get_available_providers()


def entry(*, factor_shape: tuple[int | str, ...] = ("N",), total: str = "total") -> GraphEntry:
    return GraphEntry(
        file="scale.onnx",
        opset=17,
        inputs=(
            TensorEntry(name="values", dtype="float32", shape=("N", 3)),
            TensorEntry(name="factor", dtype="int32", shape=factor_shape),
        ),
        outputs=(
            TensorEntry(name="scaled", dtype="float32", shape=("N", 3)),
            TensorEntry(name=total, dtype="float32", shape=("N",)),
        ),
    )


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs `scaled` = values * factor, and `total`, its sum over the last axis."""
    node = helper.make_node
    nodes = [
        node("Cast", ["factor"], ["as_float"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["as_float", "last"], ["column"]),
        node("Mul", ["values", "column"], ["scaled"]),
        node("ReduceSum", ["scaled", "last"], ["total"], keepdims=0),
    ]
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "scale",
            [value("values", TensorProto.FLOAT, ["N", 3]), value("factor", TensorProto.INT32, ["N"])],
            [value("scaled", TensorProto.FLOAT, ["N", 3]), value("total", TensorProto.FLOAT, ["N"])],
            [numpy_helper.from_array(np.array([1], np.int64), "last")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path_factory.mktemp("graphs") / "scale.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def engine(graph: Path) -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(graph, entry(), MAX_BATCH, threads=1)


def scale_inputs(people: int) -> dict[str, Value]:
    return {
        "values": np.arange(people * 3, dtype=np.float32).reshape(people, 3),
        "factor": np.arange(people, dtype=np.int32) + 1,
    }


def test_runs_a_graph_and_hands_out_what_is_asked_for(engine: OnnxRuntimeRunner) -> None:
    both = engine.run(scale_inputs(2), ("total", "scaled"))
    assert list(both) == ["total", "scaled"]
    np.testing.assert_array_equal(both["scaled"], [[0, 1, 2], [6, 8, 10]])
    np.testing.assert_array_equal(both["total"], [3, 24])
    assert list(engine.run(scale_inputs(4), ("total",))) == ["total"]
    assert (engine.device, engine.max_batch) == ("cpu", MAX_BATCH)
    assert str(engine.inputs["factor"]) == "factor int32 [N]"
    assert list(engine.outputs) == ["scaled", "total"]


def test_results_of_one_run_outlive_the_next(engine: OnnxRuntimeRunner) -> None:
    inputs = scale_inputs(2)
    first = engine.run(inputs, ("total",))["total"]
    np.asarray(inputs["values"])[:] = 100
    engine.run(inputs, ("total",))
    np.testing.assert_array_equal(first, [3, 24])


def test_checks_inputs_and_outputs(engine: OnnxRuntimeRunner) -> None:
    with pytest.raises(InputError, match=r"missing \['factor'\]"):
        engine.run({"values": np.zeros((1, 3), np.float32)}, ("total",))
    with pytest.raises(InputError, match="factor: expected dtype int32, got int64"):
        engine.run(scale_inputs(2) | {"factor": np.ones(2, np.int64)}, ("total",))
    with pytest.raises(InputError, match="axis N must be 1 to 4, got 5"):
        engine.run(scale_inputs(5), ("total",))
    with pytest.raises(InputError, match="axis N is 3, but another input has 2"):
        engine.run(scale_inputs(2) | {"factor": np.ones(3, np.int32)}, ("total",))
    with pytest.raises(EngineError, match=r"expected some of \['scaled', 'total'\], got \['sum'\]"):
        engine.run(scale_inputs(2), ("sum",))


def test_an_output_kept_on_its_device_feeds_another_run(engine: OnnxRuntimeRunner) -> None:
    kept = engine.run(scale_inputs(2), ("scaled", "total"), keep_on_device=("scaled",))
    assert not isinstance(kept["scaled"], np.ndarray)
    assert list(kept["scaled"].shape()) == [2, 3]
    assert isinstance(kept["total"], np.ndarray)
    again = engine.run({"values": kept["scaled"], "factor": np.array([1, 10], np.int32)}, ("total",))
    np.testing.assert_array_equal(again["total"], [3, 240])


def test_a_kept_output_of_another_size_is_refused(engine: OnnxRuntimeRunner) -> None:
    kept = engine.run(scale_inputs(3), ("scaled",), keep_on_device=("scaled",))["scaled"]
    with pytest.raises(InputError, match="axis N is 2, but another input has 3"):
        engine.run({"values": kept, "factor": np.ones(2, np.int32)}, ("total",))


def test_a_closed_engine_says_so(engine: OnnxRuntimeRunner) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="this engine was closed"):
        engine.run(scale_inputs(1), ("total",))


def test_threads_reach_the_session(graph: Path) -> None:
    session = create_session(graph, parse_device("cpu"), threads=3)
    assert session.get_session_options().intra_op_num_threads == 3


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (entry(factor_shape=("N", 1)), ("expected", "factor int32 [N, 1]", "found", "factor int32 [N]")),
        (entry(total="sum"), ("sum float32 [N]", "found", "total float32 [N]")),
    ],
)
def test_a_graph_that_is_not_as_declared_is_refused(graph: Path, declared: GraphEntry, words: Sequence[str]) -> None:
    with pytest.raises(EngineError) as caught:
        OnnxRuntimeRunner(graph, declared, MAX_BATCH)
    message = str(caught.value)
    assert message.startswith(f"{graph}: ")
    position = 0
    for word in words:
        position = message.index(word, position)


@pytest.mark.parametrize("content", [b"", b"no graph", None])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError) as caught:
        create_session(path, parse_device("cpu"))
    assert str(caught.value).startswith(f"{path}: ONNX Runtime can't load it (")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not NO_GPU, reason="this onnxruntime has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "ort-tensorrt"])
def test_a_device_that_is_not_there_says_what_to_install(graph: Path, device: str) -> None:
    with pytest.raises(EngineError) as caught:
        OnnxRuntimeRunner(graph, entry(), MAX_BATCH, device=device)
    message = str(caught.value)
    assert message.startswith(f"device {parse_device(device)}: this onnxruntime has ")
    assert "CPUExecutionProvider" in message
    assert how_to_install("gpu") in message


@pytest.mark.parametrize(("device", "extra"), [("cpu", "cpu"), ("cuda", "gpu"), ("ort-tensorrt:1", "gpu")])
def test_without_onnx_runtime_it_says_what_to_install(
    graph: Path, device: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError) as caught:
        create_session(graph, parse_device(device))
    assert str(caught.value) == f"device {parse_device(device)} needs ONNX Runtime: {how_to_install(extra)}"


CUDA = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
THERE = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


class FallenBack:
    """A session whose GPU provider couldn't start: ONNX Runtime goes on with the CPU's."""

    made: ClassVar[list[Any]] = []

    def __init__(self, path: str, options: object, **settings: object) -> None:
        self.made.append(settings)

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.fixture
def gpu_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """An onnxruntime-gpu whose sessions fall back; returns what is asked of it, in order."""

    def preload() -> None:
        FallenBack.made.append("preload")
        print("Failed to load libcufft.so.12")

    FallenBack.made.clear()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: THERE)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FallenBack)
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    monkeypatch.setattr(onnxrt, "probe_gpu", lambda index: f"GPU {index}")
    monkeypatch.setattr(onnxrt.ctypes, "CDLL", lambda name: name)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    onnxrt.preload_cuda.cache_clear()
    return FallenBack.made


@pytest.mark.parametrize("device", ["cuda:1", "ort-tensorrt"])
def test_a_silent_fallback_is_an_error(graph: Path, device: str, gpu_package: list[Any]) -> None:
    with pytest.raises(EngineError) as caught:
        create_session(graph, parse_device(device))
    assert f"device {parse_device(device)}: ONNX Runtime fell back to CPUExecutionProvider" in str(caught.value)
    assert "driver" in str(caught.value)
    assert gpu_package[-1]["enable_fallback"] == 0  # else a run that fails on the GPU is run again on the CPU


@pytest.mark.parametrize(
    ("device", "cuda", "gone", "named", "mend"),
    [
        ("cuda", "13.0", {"libcudnn.so.9", "libcufft.so.12"}, "libcufft.so.12", how_to_install("gpu")),
        ("cuda", "13.0", {"libcudnn.so.9"}, "libcudnn.so.9", how_to_install("gpu")),
        ("cuda", "12.8", {"libcublas.so.12", "libcudnn.so.9"}, "libcublas.so.12", how_to_install("gpu-cu12")),
        ("cuda", "", {"libcufft.so.11"}, "libcufft.so.11", how_to_install("gpu-cu12")),
        ("cuda", "13.0", {"libcuda.so.1", "libcudart.so.13"}, "libcuda.so.1", "install NVIDIA's driver"),
        ("ort-tensorrt", "13.0", {"libnvinfer.so.10"}, "libnvinfer.so.10", "install TensorRT 10"),
    ],
)
def test_the_first_library_that_is_missing_is_named(
    graph: Path,
    device: str,
    cuda: str,
    gone: set[str],
    named: str,
    mend: str,
    gpu_package: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(name: str) -> str:
        if name in gone:
            raise OSError(f"{name}: cannot open shared object file")
        return name

    monkeypatch.setattr(onnxruntime, "cuda_version", cuda)
    monkeypatch.setattr(onnxrt.ctypes, "CDLL", load)
    with pytest.raises(EngineError) as caught:
        create_session(graph, parse_device(device))
    reason = f"{named} can't be loaded ({named}: cannot open shared object file); {mend}"
    assert f"fell back to CPUExecutionProvider; {reason}" in str(caught.value)


def test_cudas_libraries_are_loaded_once_before_the_first_session_on_a_gpu(
    graph: Path, gpu_package: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    create_session(graph, parse_device("cpu"))
    for _ in range(2):
        with pytest.raises(EngineError):
            create_session(graph, parse_device("cuda"))
    assert [item if isinstance(item, str) else item["providers"][0] for item in gpu_package] == [
        "CPUExecutionProvider",
        "preload",
        ("CUDAExecutionProvider", {"device_id": "0", **CUDA}),
        ("CUDAExecutionProvider", {"device_id": "0", **CUDA}),
    ]
    assert capfd.readouterr() == ("", "")  # it prints; standard output is for results


def test_an_onnx_runtime_that_cannot_preload_is_asked_nothing(
    graph: Path, gpu_package: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(onnxruntime, "preload_dlls")  # before 1.21
    with pytest.raises(EngineError, match="fell back"):
        create_session(graph, parse_device("cuda"))


def test_tf32_is_off_unless_asked_for(graph: Path, gpu_package: list[Any]) -> None:
    for tf32 in (False, True):
        with pytest.raises(EngineError):
            create_session(graph, parse_device("cuda:2"), OnnxRuntimeSettings(tf32=tf32))
        (name, options), cpu = gpu_package[-1]["providers"]
        assert (name, cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
        assert options == {"device_id": "2", "use_tf32": str(int(tf32)), "cudnn_conv_algo_search": "HEURISTIC"}
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ
    with pytest.raises(EngineError):
        create_session(graph, parse_device("ort-tensorrt"), OnnxRuntimeSettings(tf32=True))
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ
    with pytest.raises(EngineError):
        create_session(graph, parse_device("ort-tensorrt"))
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"  # its TensorRT provider has no option for it


def test_tensorrts_provider_builds_once_for_all_sizes_into_our_cache(
    graph: Path, tmp_path: Path, gpu_package: list[Any]
) -> None:
    settings = OnnxRuntimeSettings(engine_cache=tmp_path / "cache")
    with pytest.raises(EngineError):
        OnnxRuntimeRunner(graph, entry(), 16, device="ort-tensorrt:1", settings=settings)
    first, second, third = gpu_package[-1]["providers"]
    assert (second, third) == (("CUDAExecutionProvider", {"device_id": "1", **CUDA}), "CPUExecutionProvider")
    name, options = first
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_dir()
    assert folder.parent == tmp_path / "cache" / "onnxruntime"
    assert folder.name.startswith("scale-")
    assert (name, options) == (
        "TensorrtExecutionProvider",
        {
            "device_id": "1",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder.parent),
            "trt_profile_min_shapes": "values:1x3,factor:1",
            "trt_profile_opt_shapes": "values:4x3,factor:4",
            "trt_profile_max_shapes": "values:16x3,factor:16",
        },
    )


def test_a_graph_that_tensorrts_provider_splits_has_no_profiles_and_that_is_said(
    graph: Path, gpu_package: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Splits(FallenBack):
        def __init__(self, path: str, options: object, **settings: Any) -> None:
            super().__init__(path, options, **settings)
            if "trt_profile_min_shapes" in settings["providers"][0][1]:
                raise RuntimeError("User needs to provide all the dynamic shape inputs with associated profiles")

    monkeypatch.setattr(onnxruntime, "InferenceSession", Splits)
    lines: list[str] = []
    with pytest.raises(EngineError, match="fell back"):
        OnnxRuntimeRunner(graph, entry(), 16, device="ort-tensorrt", settings=OnnxRuntimeSettings(say=lines.append))
    asked = [item["providers"][0][1] for item in gpu_package if isinstance(item, dict)]
    assert ["trt_profile_min_shapes" in options for options in asked] == [True, False]
    assert asked[1]["trt_engine_cache_path"] == asked[0]["trt_engine_cache_path"]
    (line,) = lines
    assert line.startswith("scale.onnx on ort-tensorrt:0: ONNX Runtime splits the graph")


def test_another_gpu_graph_or_onnx_runtime_has_other_engines(
    graph: Path, tmp_path: Path, gpu_package: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(path: Path, device: str = "ort-tensorrt") -> str:
        with pytest.raises(EngineError):
            create_session(path, parse_device(device))
        name: str = gpu_package[-1]["providers"][0][1]["trt_engine_cache_path"]
        return name

    usual = folder(graph)
    assert folder(graph) == usual
    other = tmp_path / graph.name
    other.write_bytes(graph.read_bytes().replace(b"total", b"sum_s"))
    assert len({usual, folder(other), folder(graph, "ort-tensorrt:1")}) == 3
    monkeypatch.setattr(onnxruntime, "__version__", "1.0")
    assert folder(graph) != usual


def test_a_cache_that_can_not_be_made_is_refused(graph: Path, tmp_path: Path, gpu_package: list[Any]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="give a writable --engine-cache"):
        create_session(graph, parse_device("ort-tensorrt"), OnnxRuntimeSettings(engine_cache=tmp_path / "file"))


@pytest.fixture(params=["asked", "profiled"])
def on_the_cpu_after_all(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A provider for CUDA that leaves every node to the CPU, with an ONNX Runtime from 1.24 on or one before."""
    monkeypatch.setattr(onnxrt, "PROVIDERS", {"cpu": "CPUExecutionProvider", "cuda": "CPUExecutionProvider"})
    monkeypatch.setattr(onnxrt, "_providers", lambda *_: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxrt.tempfile, "tempdir", str(tmp_path))
    ask = "get_provider_graph_assignment_info"
    owner = next((kind for kind in onnxruntime.InferenceSession.__mro__ if ask in vars(kind)), None)
    if request.param == "profiled" and owner is not None:
        monkeypatch.delattr(owner, ask)
    elif request.param == "asked" and owner is None:
        pytest.skip("this ONNX Runtime can't be asked")
    return tmp_path


def test_nodes_that_the_gpu_leaves_to_the_cpu_are_said_once(graph: Path, on_the_cpu_after_all: Path) -> None:
    lines: list[str] = []
    runner = OnnxRuntimeRunner(graph, entry(), 4, device="cuda", settings=OnnxRuntimeSettings(say=lines.append))
    for people in (1, 3):
        runner.run(scale_inputs(people), ("total",))
    (line,) = lines
    operators = dict.fromkeys(("Cast", "Unsqueeze", "Mul", "ReduceSum"), 1)
    text, _, found = line.rstrip(")").partition(" (")
    assert text == "scale.onnx on cuda:0: 4 of 4 nodes run on the CPU"
    assert {name: int(count) for name, count in (item.split() for item in found.split(", "))} == operators
    runner.close()
    assert list(on_the_cpu_after_all.iterdir()) == []  # no profile is left


def test_a_session_that_never_ran_leaves_no_profile(graph: Path, on_the_cpu_after_all: Path) -> None:
    OnnxRuntimeRunner(graph, entry(), 4, device="cuda").close()
    assert list(on_the_cpu_after_all.iterdir()) == []


def test_a_runner_on_the_cpu_says_nothing_of_it(graph: Path) -> None:
    lines: list[str] = []
    runner = OnnxRuntimeRunner(graph, entry(), 4, settings=OnnxRuntimeSettings(say=lines.append))
    runner.run(scale_inputs(1), ("total",))
    assert lines == []


def test_half_graphs_run_on_a_gpu_where_their_export_verified_them(bundle: Bundle) -> None:
    graphs, parity = bundle.manifest.graphs["fp32"], bundle.manifest.parity["fp32"]
    cpu, cuda = parse_device("cpu"), parse_device("cuda")
    default = OnnxRuntimeSettings()

    def chosen(device: Device, reports: Mapping[str, Any], settings: OnnxRuntimeSettings = default) -> str:
        update = {"graphs": {"fp32": graphs, "fp16": graphs}, "parity": reports}
        return choose_precision(Bundle(bundle.path, bundle.manifest.model_copy(update=update)), device, settings)

    both = {"fp32": parity, "fp16": parity}
    failed = parity.model_copy(update={"failures": ("coarse heatmaps",)})
    assert chosen(cpu, both) == "fp32"
    assert chosen(cuda, both) == "fp16"
    assert chosen(cuda, both | {"fp16": failed}) == "fp32"
    assert chosen(cuda, {"fp32": parity}) == "fp32"
    assert chosen(cuda, both, OnnxRuntimeSettings("fp32")) == "fp32"
    assert chosen(cpu, both, OnnxRuntimeSettings("fp16")) == "fp16"
    assert choose_precision(bundle, cuda, default) == "fp32"


def test_a_graph_of_no_bundle_gets_the_shapes_that_it_is_given(graph: Path) -> None:
    def fix(inputs: Sequence[TensorSpec]) -> list[TensorSpec]:
        assert [str(spec) for spec in inputs] == ["values float32 [N, 3]", "factor int32 [N]"]
        return [dataclasses.replace(spec, shape=spec.shape_at({"N": 2})) for spec in inputs]

    runner = OnnxRuntimeRunner(graph, fix, 1)
    np.testing.assert_array_equal(runner.run(scale_inputs(2), ("total",))["total"], [3, 24])
    with pytest.raises(InputError, match=r"expected values float32 \[2, 3\], got shape \[3, 3\]"):
        runner.run(scale_inputs(3), ("total",))


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def stages(bundle: Bundle) -> tuple[OnnxRuntimeRunner, OnnxRuntimeRunner]:
    coarse, fine = (
        OnnxRuntimeRunner(*bundle.graph(stage), bundle.manifest.max_batch, threads=1) for stage in ("coarse", "fine")
    )
    return coarse, fine


REFINED = {1: [0], 3: [0, 2], 8: [1, 2, 4, 7]}


def run_both(
    stages: tuple[OnnxRuntimeRunner, OnnxRuntimeRunner], crops: Array, rows: Sequence[int], patches: Array
) -> Both:
    coarse, fine = stages
    carried = ("region_features", "region_embeddings")
    first = coarse.run({"image": crops}, tuple(coarse.outputs), keep_on_device=carried)
    second = fine.run(
        {
            "rows": np.array(rows, np.int32),
            "patches": patches,
            "region_order": first["region_order"],
            **{name: first[name] for name in carried},
        },
        tuple(fine.outputs),
    )
    values = {name: np.asarray(first[name]) for name in coarse.outputs if name not in carried}
    return values, {name: np.asarray(value) for name, value in second.items()}


@pytest.mark.parametrize("people", REFINED)
def test_a_batch_equals_its_rows_one_by_one(
    bundle: Bundle, stages: tuple[OnnxRuntimeRunner, OnnxRuntimeRunner], people: int
) -> None:
    crops = reference_crops(people, bundle.model.crop_size)
    rows = REFINED[people]
    shape = tuple(int(size) for size in stages[1].inputs["patches"].shape[1:])
    patches = np.random.default_rng(people).integers(0, 256, (len(rows), *shape), dtype=np.uint8)
    coarse, fine = run_both(stages, crops, rows, patches)
    assert coarse["keypoints"].shape == (people, 17, 3)
    assert fine["keypoints"].shape == (len(rows), 17, 3)
    alone = [run_both(stages, crops[row : row + 1], [0], patches[index : index + 1]) for index, row in enumerate(rows)]
    for name in ("quality", "heatmaps", "keypoints"):
        expected = np.concatenate([first[name] for first, _ in alone])
        np.testing.assert_allclose(coarse[name][rows], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        coarse["region_order"][rows], np.concatenate([first["region_order"] for first, _ in alone])
    )
    for name in ("heatmaps", "keypoints"):
        expected = np.concatenate([second[name] for _, second in alone])
        np.testing.assert_allclose(fine[name], expected, rtol=1e-5, atol=1e-5)
    if people > 1:  # the rows differ, so that a mix-up would show
        assert np.abs(fine["heatmaps"][0] - fine["heatmaps"][1]).max() > 1e-2


def test_a_run_that_fails_is_one_line(
    bundle: Bundle, stages: tuple[OnnxRuntimeRunner, OnnxRuntimeRunner], capfd: pytest.CaptureFixture[str]
) -> None:
    shape = tuple(int(size) for size in stages[1].inputs["patches"].shape[1:])
    crops = reference_crops(2, bundle.model.crop_size)
    with pytest.raises(EngineError, match=r"^ONNX Runtime failed on cpu: ") as caught:
        run_both(stages, crops, [7], np.zeros((1, *shape), np.uint8))  # there is no row 7
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # it is all in the exception


@pytest.mark.parametrize("kept", [(), ("twice",)])
def test_an_output_of_another_shape_than_the_graph_declares_is_refused(tmp_path: Path, kept: tuple[str, ...]) -> None:
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Concat", ["values", "values"], ["twice"], axis=0)],
            "twice",
            [value("values", TensorProto.FLOAT, ["N", 3])],
            [value("twice", TensorProto.FLOAT, ["N", 3])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "twice.onnx")
    declared = GraphEntry(
        file="twice.onnx",
        opset=17,
        inputs=(TensorEntry(name="values", dtype="float32", shape=("N", 3)),),
        outputs=(TensorEntry(name="twice", dtype="float32", shape=("N", 3)),),
    )
    runner = OnnxRuntimeRunner(tmp_path / "twice.onnx", declared, MAX_BATCH, threads=1)
    said = r"engine output twice: expected twice float32 \[N, 3\] with N = 2, got shape \[4, 3\]"
    with pytest.raises(EngineError, match=said):
        runner.run({"values": np.zeros((2, 3), np.float32)}, ["twice"], keep_on_device=kept)

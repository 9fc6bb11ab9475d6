"""Real engines from real graphs, by the code that serves TensorRT. TensorRT-RTX builds them without a GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from reference_model import reference_crops

from sharpose.bundle import open_bundle, shipped_bundle
from sharpose.config import load_config
from sharpose.engines.gpu import Gpu, probe_gpus
from sharpose.engines.tensorrt.build import (
    _configure,
    build_bundle_engines,
    build_engine,
    describe_options,
    parse_network,
    progress_monitor,
)
from sharpose.engines.tensorrt.cache import EngineCache, EngineRequest, read_engine
from sharpose.engines.tensorrt.library import BuildOptions, TensorRtFlavour, find_flavour, tensorrt_logger
from sharpose.engines.tensorrt.runtime import TensorRtEngine
from sharpose.errors import BundleError, EngineError

GPU = Gpu(0, "NVIDIA GeForce RTX 4090", "8.9", "CUDA 13.0", 128, False)


def _has_gpu() -> bool:
    try:
        return bool(probe_gpus())
    except EngineError:
        return False


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (see the README)")


@pytest.fixture(scope="module")
def flavour(rtx):
    return find_flavour("tensorrt_rtx")


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def precision(request, flavour):
    return request.param


@pytest.fixture(scope="module")
def bundle(two_precisions):
    return two_precisions


@pytest.fixture(scope="module")
def built(precision, bundle, flavour, tmp_path_factory):
    """Folder of both engines, the engines, and the progress that was reported meanwhile."""
    events = []
    options = BuildOptions(max_batch=6, workspace_mib=512)
    folder = tmp_path_factory.mktemp("engines") / precision
    engines = build_bundle_engines(bundle, folder, precision, options, events.append, flavour=flavour)
    return folder, engines, events


def test_the_sidecars_describe_plans_that_are_there(built, precision, bundle, flavour):
    folder, engines, _ = built
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "coarse.json",
        "coarse.plan",
        "fine.json",
        "fine.plan",
    ]
    for stage, engine in zip(("coarse", "fine"), engines, strict=True):
        written = json.loads((folder / f"{stage}.json").read_text())
        plan = (folder / f"{stage}.plan").read_bytes()
        assert written["plan_sha256"] == hashlib.sha256(plan).hexdigest()
        assert written["plan_bytes"] == len(plan) > 100_000
        assert (engine.plan, engine.path) == (plan, folder / f"{stage}.plan")
        assert (written["stage"], written["precision"]) == (stage, precision)
        assert written["graph_sha256"] == bundle.graph_sha256(stage, precision)
        assert written["weights_sha256"] == bundle.manifest.files["weights.bin"]
        assert (written["flavour"], written["flavour_version"]) == ("tensorrt_rtx", flavour.version)
        assert (written["gpu"] is not None) == _has_gpu()
        assert written["options"]["workspace_mib"] == 512
        assert written["options"]["tf32"] is False
        assert written["build_seconds"] > 0


def _tensors(sidecar, mode):
    return {item.name: (item.dtype, tuple(item.shape)) for item in sidecar.tensors if item.mode == mode}


def test_names_dtypes_and_shapes_are_those_of_the_contract(built, precision, bundle):
    _, (coarse, fine), _ = built
    width, patches = bundle.model.width, 4 * bundle.model.num_selected
    feature = {"fp32": "float32", "fp16": "float16"}[precision]
    carried = {
        "region_order": ("int32", ("N", 48)),
        "region_features": (feature, ("N", 48, width)),
        "region_embeddings": (feature, ("N", 48, width)),
    }
    assert _tensors(coarse.sidecar, "input") == {"image": ("uint8", ("N", 256, 192, 3))}
    assert _tensors(coarse.sidecar, "output") == {
        "keypoints": ("float32", ("N", 17, 3)),
        "quality": ("float32", ("N",)),
        "heatmaps": ("float32", ("N", 17, 64, 48)),
        **carried,
    }
    assert _tensors(fine.sidecar, "input") == {
        "rows": ("int32", ("M",)),
        "patches": ("uint8", ("M", patches, 768)),
        **carried,
    }
    assert _tensors(fine.sidecar, "output") == {
        "keypoints": ("float32", ("M", 17, 3)),
        "heatmaps": ("float32", ("M", 17, 64, 48)),
    }


def _check_profiles(coarse, fine, ranges):
    assert [(item["image"].min, item["image"].opt, item["image"].max) for item in coarse.sidecar.profiles] == [
        ([low, 256, 192, 3], [best, 256, 192, 3], [high, 256, 192, 3]) for low, best, high in ranges
    ]
    _check_fine_profiles(fine.sidecar, ranges)


def _check_fine_profiles(sidecar, ranges):
    """N, which no output has, is always at its largest."""
    assert len(sidecar.profiles) == len(ranges)
    for profile, sizes in zip(sidecar.profiles, ranges, strict=True):
        assert set(profile) == {"rows", "patches", "region_order", "region_features", "region_embeddings"}
        for name, shapes in profile.items():
            largest = ranges[-1][-1]
            expected = (largest,) * 3 if name.startswith("region_") else sizes
            assert (shapes.min[0], shapes.opt[0], shapes.max[0]) == expected
            assert shapes.min[1:] == shapes.opt[1:] == shapes.max[1:]


def test_the_profile_spans_all_batches_and_the_fine_stage_sees_all_coarse_outputs(built):
    _, (coarse, fine), _ = built
    _check_profiles(coarse, fine, [(1, 4, 6)])


def test_profiles_for_one_a_few_and_many_people_are_built_for_another_alpha(bundle, tmp_path, flavour):
    options, other = BuildOptions(max_batch=6, opt_batch=(1, 4, 6)), bundle.at_alpha(0.2)
    _, sidecar = build_engine(
        other, "fine", "fp32", options, lambda progress: None, flavour=flavour, gpu=None, folder=tmp_path
    )
    _check_fine_profiles(sidecar, [(1, 1, 1), (2, 4, 4), (5, 6, 6)])
    assert [profile["patches"].opt for profile in sidecar.profiles] == [[size, 40, 768] for size in (1, 4, 6)]
    assert _tensors(sidecar, "input")["patches"] == ("uint8", ("M", 40, 768))
    assert sidecar.graph_sha256 == other.graph_sha256("fine", "fp32") != bundle.graph_sha256("fine", "fp32")


def _check_layers(bundle, stage, precision, flavour):
    """No LayerNorm is taken apart, and what is an island is float32, in the strongly typed network."""
    path, _ = bundle.graph(stage, precision)
    layers = parse_network(flavour, path).layers()
    nodes = Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
    norms = [layer for layer in layers if layer.kind == "NORMALIZATION"]
    assert len(norms) == nodes["LayerNormalization"] > 0
    config = bundle.model
    half = {"fp16": "float16", "fp32": "float32"}[precision]
    head_norms = 1 if config.head == "linear" else 2
    if stage == "coarse":  # two a block, the last one, the quality head's, the heatmap head's
        assert len(norms) == 2 * config.depth + 2 + head_norms
    assert {dtype for layer in norms for dtype in (*layer.inputs, *layer.outputs)} == {"float32"}
    kinds: dict[str, Counter[str]] = {}
    for layer in layers:
        if layer.inputs:
            kinds.setdefault(layer.kind, Counter())[layer.inputs[0]] += 1
    # The mean over heads and keypoints, and the ranking itself; the other TopK is the decoder's argmax.
    assert set(kinds["TOPK"]) == {"float32"}
    assert kinds["TOPK"]["float32"] == (2 if stage == "coarse" else 1)
    assert set(kinds.get("REDUCE", {})) <= {"float32"}
    mined = config.depth - config.depth // 4 if stage == "coarse" else 0
    assert kinds["SOFTMAX"] == Counter({"float32": mined}) + Counter({half: config.depth})
    assert kinds["MATRIX_MULTIPLY"][half] >= 4 * config.depth  # and the blocks are in half


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_no_layernorm_is_taken_apart_and_islands_stay_float32(bundle, stage, precision, flavour):
    _check_layers(bundle, stage, precision, flavour)


def test_the_sidecar_counts_layers_by_dtype(built, bundle):
    _, (coarse, _), _ = built
    count = 2 * bundle.model.depth + (3 if bundle.model.head == "linear" else 4)
    norms = {kind: count for kind, count in coarse.sidecar.layers.items() if kind.startswith("NORMALIZATION")}
    assert norms == {"NORMALIZATION float32": count}


def test_what_was_written_is_found_again_on_any_gpu_but_not_by_another_version(built, precision, flavour):
    folder, (coarse, _), _ = built
    stored = read_engine(folder, "coarse")
    assert stored == coarse
    request = EngineRequest(
        "coarse",
        precision,
        coarse.sidecar.graph_sha256,
        coarse.sidecar.weights_sha256,
        "tensorrt_rtx",
        flavour.version,
        None if coarse.sidecar.gpu is None else probe_gpus()[0],
        describe_options(BuildOptions(max_batch=6, workspace_mib=512), precision, flavour),
        portable=True,
    )
    cache = EngineCache(folder / "cache")
    assert cache.find(request, folder) == stored
    assert _has_gpu() or cache.find(dataclasses.replace(request, gpu=GPU), folder) == stored
    assert cache.find(dataclasses.replace(request, flavour_version="1.6.0"), folder) is None
    other = describe_options(BuildOptions(max_batch=6, workspace_mib=64), precision, flavour)
    assert cache.find(dataclasses.replace(request, options=other), folder) is None
    assert cache.find(dataclasses.replace(request, options=other, any_options=True), folder) == stored


def test_progress_rises_from_nothing_to_one_for_each_graph_in_turn(built):
    *_, events = built
    stages = [event.stage for event in events]
    assert stages == sorted(stages)  # coarse, then fine
    for stage in ("coarse", "fine"):
        fractions = [event.fraction for event in events if event.stage == stage]
        assert len(fractions) > 20
        assert fractions[0] == 0
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1
        assert len({round(fraction, 1) for fraction in fractions}) > 5


def test_the_plan_is_a_plain_plan(built, rtx):
    """Deserializing wants a GPU; without one the runtime still tells a plan's header from garbage."""
    _, (coarse, _), _ = built
    runtime = rtx.Runtime(rtx.Logger(rtx.Logger.INTERNAL_ERROR))
    assert runtime.get_engine_validity(b"garbage" * 100)[1] & int(rtx.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    assert not runtime.get_engine_validity(coarse.plan)[1] & int(rtx.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    assert runtime.engine_host_code_allowed is False


@pytest.mark.skipif(_has_gpu(), reason="there is a GPU")
def test_loading_without_a_gpu_says_so_in_one_line(built, precision, bundle, flavour):
    _, (coarse, _), _ = built
    _, entry = bundle.graph("coarse", precision)
    with pytest.raises(EngineError, match=r"coarse\.plan: TensorRT-RTX .* can't load it \(.*CUDA") as caught:
        TensorRtEngine(flavour, coarse, entry, GPU)
    assert "\n" not in str(caught.value)


def test_an_interrupt_stops_the_build_and_leaves_no_plan(bundle, tmp_path, flavour):
    def interrupt(progress):
        if progress.fraction > 0.05:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_bundle_engines(bundle, tmp_path, "fp32", on_progress=interrupt, flavour=flavour)
    assert not list(tmp_path.glob("*.plan"))
    assert not list(tmp_path.glob("*.json"))


def test_a_graph_that_can_not_be_parsed_is_named(tmp_path, flavour):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not onnx")
    with pytest.raises(EngineError, match=r"broken\.onnx: TensorRT-RTX .* can't parse it") as caught:
        parse_network(flavour, path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(max_batch=7), "expected at most the bundle's 6, got 7"),
        (BuildOptions(max_batch=6, timing_cache=Path("cache")), "--timing-cache: TensorRT-RTX"),
    ],
)
def test_options_that_can_not_be_had_are_refused_before_anything_is_built(bundle, tmp_path, flavour, options, message):
    with pytest.raises(EngineError, match=message):
        build_bundle_engines(bundle, tmp_path, "fp32", options, flavour=flavour)
    assert not list(tmp_path.glob("*.plan"))


def test_a_precision_that_is_not_there_is_refused(nano_bundle, tmp_path, flavour):
    with pytest.raises(BundleError, match="holds fp32 graphs, not fp16"):
        build_bundle_engines(open_bundle(nano_bundle), tmp_path / "engines", "fp16", flavour=flavour)
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("stage", [0, 1], ids=["coarse", "fine"])
def test_a_whole_plan_is_about_as_large_as_the_weights(built, little_model, stage):
    _, engines, _ = built
    weights = 4 * sum(value.numel() for value in little_model.parameters())
    assert 0.2 * weights < len(engines[stage].plan) < 3 * weights


@pytest.mark.soak
def test_a_larger_model_is_built_in_both_precisions_into_its_bundle(tmp_path, flavour):
    from sharpose.export.bundle import ExportOptions, export_bundle
    from sharpose.export.pictures import ParityPictures
    from sharpose.model import random_model

    config = load_config("sharpose_small_coco_256x192")
    pictures = ParityPictures(reference_crops(2, config.crop_size), "blocks of colour")
    export_bundle(random_model(config), tmp_path / "bundle", pictures, ExportOptions(precisions=("fp32", "fp16")))
    bundle = open_bundle(tmp_path / "bundle")
    for precision in ("fp32", "fp16"):
        engines = build_bundle_engines(bundle, None, precision, BuildOptions(opt_batch=(1, 4, 16)), flavour=flavour)
        _check_profiles(*engines, [(1, 1, 1), (2, 4, 4), (5, 16, 16)])
        for stage, engine in zip(("coarse", "fine"), engines, strict=True):
            assert engine.path == bundle.path / "engines" / f"{stage}.plan"
            _check_layers(bundle, stage, precision, flavour)
    assert open_bundle(bundle.path)  # engines lie outside the manifest


def test_the_bundle_in_the_package_is_built_though_its_weights_are_halves(flavour, tmp_path):
    bundle = open_bundle(shipped_bundle())
    plan, _ = build_engine(
        bundle, "coarse", "fp32", BuildOptions(), lambda progress: None, flavour=flavour, gpu=None, folder=tmp_path
    )
    halves = (bundle.path / "weights.bin").stat().st_size
    assert 0.7 * halves < len(plan) < 3 * halves


def _configured(flavour, gpu=None, precision="fp32", **options):
    builder = flavour.module.Builder(tensorrt_logger(flavour))
    config = builder.create_builder_config()
    _configure(config, flavour, describe_options(BuildOptions(**options), precision, flavour), gpu)
    return config, builder


@pytest.mark.parametrize(
    ("precision", "asked", "used"), [("fp32", False, False), ("fp32", True, True), ("fp16", True, False)]
)
def test_tf32_is_used_where_it_is_asked_for_in_float32_graphs_alone(flavour, precision, asked, used):
    config, _builder = _configured(flavour, precision=precision, tf32=asked)
    assert config.get_flag(flavour.module.BuilderFlag.TF32) == used


def test_rtx_builds_for_the_gpu_that_is_there_or_for_all(flavour):
    capability = flavour.module.ComputeCapability
    config, _builder = _configured(flavour, GPU)
    assert [config.get_compute_capability(index) for index in range(config.num_compute_capabilities)] == [
        capability.CURRENT
    ]
    assert _configured(flavour)[0].num_compute_capabilities == 0


@pytest.mark.skipif(_has_gpu(), reason="there is a GPU")
def test_a_gpu_that_can_not_be_built_for_is_named(bundle, tmp_path, flavour):
    options = BuildOptions(max_batch=6)

    def quiet(progress):
        pass

    with pytest.raises(
        EngineError, match=r"can't build the engine for NVIDIA GeForce RTX 4090 \(compute capability 8\.9"
    ):
        build_engine(bundle, "fine", "fp32", options, quiet, flavour=flavour, gpu=GPU, folder=tmp_path)
    orin = Gpu(0, "Orin", "8.7", "CUDA 12.6", 8, True)
    with pytest.raises(EngineError, match=r"Orin .*; if it is short of memory, build it with .* --workspace 256$"):
        build_engine(bundle, "fine", "fp32", options, quiet, flavour=flavour, gpu=orin, folder=tmp_path)


def test_tensorrt_is_told_the_limits_and_the_compatibility_that_were_asked_for():
    """On a stand-in: TensorRT-RTX has neither level nor version compatibility."""
    calls = []
    module = SimpleNamespace(
        BuilderFlag=SimpleNamespace(TF32="TF32", VERSION_COMPATIBLE="VERSION_COMPATIBLE"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="WORKSPACE"),
        HardwareCompatibilityLevel=SimpleNamespace(SAME_COMPUTE_CAPABILITY="SAME"),
    )
    config = SimpleNamespace(
        set_flag=lambda flag: calls.append(("set", flag)),
        clear_flag=lambda flag: calls.append(("clear", flag)),
        set_memory_pool_limit=lambda pool, size: calls.append((pool, size)),
    )
    options = BuildOptions(
        workspace_mib=256, optimization_level=4, hardware_compatible="same-compute-capability", version_compatible=True
    )
    tensorrt = TensorRtFlavour("tensorrt", "10.13.0", module)
    _configure(config, tensorrt, describe_options(options, "fp16", tensorrt), GPU)
    assert calls == [("clear", "TF32"), ("WORKSPACE", 256 << 20), ("set", "VERSION_COMPATIBLE")]
    assert (config.builder_optimization_level, config.hardware_compatibility_level) == (4, "SAME")


@pytest.fixture
def stand_in():
    return TensorRtFlavour("tensorrt", "10.3.0", SimpleNamespace(IProgressMonitor=object))


def test_a_phase_fills_the_step_of_the_phase_around_it(stand_in):
    told = []
    monitor = progress_monitor(stand_in, "fine", told.append)

    def fraction():
        return told[-1].fraction

    monitor.phase_start("build", None, 4)
    monitor.step_complete("build", 0)
    assert fraction() == 0.25
    monitor.phase_start("optimize", "build", 2)
    monitor.step_complete("optimize", 0)
    assert fraction() == 0.375
    monitor.phase_start("time", "optimize", 4)
    monitor.step_complete("time", 1)
    assert fraction() == 0.25 + 0.25 * 0.75
    monitor.phase_finish("time")
    monitor.phase_finish("optimize")
    assert fraction() == 0.5
    monitor.step_complete("build", 1)
    assert fraction() == 0.5
    monitor.phase_finish("build")
    assert fraction() == 1


def test_the_fraction_never_falls(stand_in):
    told = []
    monitor = progress_monitor(stand_in, "fine", told.append)
    monitor.phase_start("build", None, 2)
    monitor.phase_start("a", "build", 2)
    monitor.step_complete("a", 1)
    assert told[-1].fraction == 0.5
    monitor.phase_start("a", "build", 10)  # the same name once more, for the same step
    monitor.step_complete("a", 0)
    assert told[-1].fraction == 0.5
    monitor.step_complete("unknown", 3)
    monitor.phase_finish("unknown")
    monitor.phase_start("empty", "build", 0)
    assert told[-1].fraction == 0.5


def test_the_callback_is_told(stand_in):
    told = []
    monitor = progress_monitor(stand_in, "fine", told.append)
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0)
    monitor.phase_finish("build")
    assert [(item.stage, item.phase, item.fraction) for item in told] == [
        ("fine", "build", 0.0),
        ("fine", "build", 0.5),
        ("fine", "build", 1.0),
    ]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_a_callback_that_raises_stops_the_build_and_is_kept(stand_in, failure):
    def fail(progress):
        raise failure

    monitor = progress_monitor(stand_in, "fine", fail)
    monitor.phase_start("build", None, 2)
    assert not monitor.step_complete("build", 0)
    assert isinstance(monitor.failure, failure)

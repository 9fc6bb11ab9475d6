"""Real engines from real graphs, by the code that serves TensorRT. TensorRT-RTX builds them without a GPU."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from reference_model import reference_crops

from sharpose.bundle import Bundle, open_bundle
from sharpose.config import load_config
from sharpose.engines.gpu import probe_gpus
from sharpose.engines.tensorrt.build import parse_network
from sharpose.engines.tensorrt.library import BuildOptions, find_flavour
from sharpose.errors import BundleError, EngineError

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (see the README)")

from sharpose.engines.tensorrt.build import build_bundle_engines  # noqa: E402
from sharpose.engines.tensorrt.runtime import TensorRtEngine  # noqa: E402

REGIONS, WIDTH, PATCHES = 48, 96, 96
LITTLE = {"width": WIDTH, "depth": 2, "heads": 3}


def _has_gpu() -> bool:
    try:
        return bool(probe_gpus())
    except EngineError:
        return False


def _export(folder: Path, name: str, changes: dict[str, object], max_batch: int):
    from sharpose.export.bundle import ExportOptions, export_bundle
    from sharpose.export.pictures import ParityPictures
    from sharpose.model import random_model

    config = load_config(name).replace(changes)
    pictures = ParityPictures(reference_crops(2, config.crop_size), "blocks of colour")
    options = ExportOptions(precisions=("fp32", "fp16"), max_batch=max_batch)
    export_bundle(random_model(config, seed=0), folder, pictures, options)
    return open_bundle(folder)


@pytest.fixture(scope="module")
def flavour():
    return find_flavour("tensorrt_rtx")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Two blocks of the tiny model, in both precisions."""
    return _export(tmp_path_factory.mktemp("build") / "bundle", "sharpose_tiny_coco_256x192", LITTLE, 6)


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def built(request, bundle, flavour):
    """Both engines of one precision, and the progress that was told meanwhile."""
    events = []
    options = BuildOptions(max_batch=6, opt_batch=2, workspace_mib=512)
    folder = bundle.path / f"engines-{request.param}"
    engines = build_bundle_engines(bundle, folder, request.param, options, events.append, flavour=flavour)
    return request.param, folder, engines, events


def test_the_sidecars_describe_plans_that_are_there(built, bundle, flavour):
    precision, folder, engines, _ = built
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "coarse.json",
        "coarse.plan",
        "fine.json",
        "fine.plan",
    ]
    suffix = "" if precision == "fp32" else f".{precision}"
    for stage, engine in zip(("coarse", "fine"), engines, strict=True):
        written = json.loads((folder / f"{stage}.json").read_text())
        plan = (folder / f"{stage}.plan").read_bytes()
        assert written["plan_sha256"] == hashlib.sha256(plan).hexdigest()
        assert written["plan_bytes"] == len(plan) > 100_000
        assert plan == engine.plan
        assert (written["stage"], written["precision"]) == (stage, precision)
        assert written["graph_sha256"] == bundle.manifest.files[f"{stage}{suffix}.onnx"]
        assert written["weights_sha256"] == bundle.manifest.files["weights.bin"]
        assert (written["flavour"], written["flavour_version"]) == ("tensorrt_rtx", flavour.version)
        assert (written["gpu"] is not None) == _has_gpu()
        assert written["options"]["workspace_mib"] == 512
        assert written["build_seconds"] > 0


def _tensors(sidecar, mode):
    return {item.name: (item.dtype, tuple(item.shape)) for item in sidecar.tensors if item.mode == mode}


def test_names_dtypes_and_shapes_are_those_of_the_contract(built):
    precision, _, (coarse, fine), _ = built
    feature = {"fp32": "float32", "fp16": "float16"}[precision]
    carried = {
        "region_order": ("int32", ("N", REGIONS)),
        "region_features": (feature, ("N", REGIONS, WIDTH)),
        "region_embeddings": (feature, ("N", REGIONS, WIDTH)),
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
        "patches": ("uint8", ("M", PATCHES, 768)),
        **carried,
    }
    assert _tensors(fine.sidecar, "output") == {
        "keypoints": ("float32", ("M", 17, 3)),
        "heatmaps": ("float32", ("M", 17, 64, 48)),
    }


def test_profiles_span_both_axes(built):
    _, _, (coarse, fine), _ = built
    image = coarse.sidecar.profiles["image"]
    assert (image.min, image.opt, image.max) == ([1, 256, 192, 3], [2, 256, 192, 3], [6, 256, 192, 3])
    assert set(fine.sidecar.profiles) == {"rows", "patches", "region_order", "region_features", "region_embeddings"}
    for profile in fine.sidecar.profiles.values():
        assert (profile.min[0], profile.opt[0], profile.max[0]) == (1, 2, 6)
        assert profile.min[1:] == profile.opt[1:] == profile.max[1:]


def _check_layers(bundle, stage, precision, flavour):
    """No LayerNorm is taken apart, and what is an island is float32, in the strongly typed network."""
    path, _ = bundle.graph(stage, precision)
    layers = parse_network(flavour, path).layers()
    nodes = Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
    norms = [layer for layer in layers if layer.kind == "NORMALIZATION"]
    assert len(norms) == nodes["LayerNormalization"] > 0
    config = bundle.model
    head_norms = 1 if config.head == "linear" else 2
    if stage == "coarse":  # two a block, the last one, the quality head's, the heatmap head's
        assert len(norms) == 2 * config.depth + 2 + head_norms
    half = {"fp16": "float16", "fp32": "float32"}[precision]
    expected = Counter({half: len(norms)})
    if stage == "coarse" and precision == "fp16":
        expected = Counter({"float16": len(norms) - 1, "float32": 1})  # the quality head's
    assert Counter(layer.outputs[0] for layer in norms) == expected
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


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_no_layernorm_is_taken_apart_and_islands_stay_float32(bundle, stage, precision, flavour):
    _check_layers(bundle, stage, precision, flavour)


def test_the_sidecar_counts_layers_by_dtype(built):
    precision, _, (coarse, _), _ = built
    norms = {kind: count for kind, count in coarse.sidecar.layers.items() if kind.startswith("NORMALIZATION")}
    assert (
        norms
        == {
            "fp32": {"NORMALIZATION float32": 7},
            "fp16": {"NORMALIZATION float16": 6, "NORMALIZATION float32": 1},
        }[precision]
    )


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


def test_the_plan_is_a_plain_plan(built, flavour):
    """Deserializing wants a GPU; without one the runtime still tells a plan's header from garbage."""
    *_, (coarse, _), _ = built
    runtime = rtx.Runtime(rtx.Logger(rtx.Logger.INTERNAL_ERROR))
    assert runtime.get_engine_validity(b"garbage" * 100)[1] & int(rtx.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    assert not runtime.get_engine_validity(coarse.plan)[1] & int(rtx.EngineInvalidityDiagnostics.MALFORMED_ENGINE)


@pytest.mark.skipif(_has_gpu(), reason="there is a GPU")
def test_loading_without_a_gpu_says_so_in_one_line(built, bundle, flavour):
    precision, _, (coarse, _), _ = built
    _, entry = bundle.graph("coarse", precision)
    with pytest.raises(EngineError, match=r"coarse\.plan: TensorRT-RTX .* can't load it \(.*CUDA") as caught:
        TensorRtEngine(flavour, coarse.plan, entry, str(coarse.path))
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


def test_a_precision_that_is_not_there_is_refused(bundle, tmp_path, flavour):
    graphs = {"fp32": bundle.manifest.graphs["fp32"]}
    bundle = Bundle(bundle.path, bundle.manifest.model_copy(update={"graphs": graphs}))
    with pytest.raises(BundleError, match="holds fp32 graphs, not fp16"):
        build_bundle_engines(bundle, tmp_path / "engines", "fp16", flavour=flavour)
    assert not (tmp_path / "engines").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sharpose_tiny_coco_256x192", pytest.param("sharpose_small_coco_256x192", marks=pytest.mark.soak)]
)
def test_whole_models_are_built_in_both_precisions(tmp_path, name, flavour):
    bundle = _export(tmp_path / "bundle", name, {}, 4)
    for precision in ("fp32", "fp16"):
        engines = build_bundle_engines(bundle, None, precision, flavour=flavour)
        for stage, engine in zip(("coarse", "fine"), engines, strict=True):
            assert engine.path == bundle.path / "engines" / f"{stage}.plan"
            _check_layers(bundle, stage, precision, flavour)
    assert open_bundle(bundle.path)  # engines lie outside the manifest
    sizes = [len(engine.plan) for engine in engines]
    weights = (bundle.path / "weights.bin").stat().st_size
    assert all(0.2 * weights < size < 1.5 * weights for size in sizes)
    assert np.isfinite(sizes).all()


@pytest.mark.slow
def test_the_bundle_in_the_package_is_built_though_its_weights_are_halves(tmp_path, flavour):
    from sharpose.bundle import shipped_bundle

    engines = build_bundle_engines(open_bundle(shipped_bundle()), tmp_path, "fp32", flavour=flavour)
    halves = (shipped_bundle() / "weights.bin").stat().st_size
    assert all(0.7 * halves < len(engine.plan) < 3 * halves for engine in engines)

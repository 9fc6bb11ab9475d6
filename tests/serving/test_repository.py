"""The repository for Triton: its files, and configurations that Triton's own protobuf reads."""

from __future__ import annotations

import json
import shutil

import pytest
from cache_stand_ins import REQUEST, sidecar_for

from sharpose.bundle import open_bundle, shipped_bundle
from sharpose.engines.tensorrt.cache import Profile, write_engine
from sharpose.errors import BundleError, EngineError
from sharpose.serving.contract import ServedModel, bundle_sha256
from sharpose.serving.repository import HowToRun, write_repository


@pytest.fixture
def shipped():
    return open_bundle(shipped_bundle())


@pytest.fixture
def configuration(triton_home):
    """Reads a model's `config.pbtxt` as Triton does; in the JSON that its server gives."""
    from google.protobuf import json_format, text_format

    proto = triton_home.config_proto()

    def read(folder):
        message = text_format.Parse((folder / "config.pbtxt").read_text(), proto.ModelConfig())
        return json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True))

    return read


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_products_model_is_all_that_a_server_needs(tmp_path, shipped, configuration):
    lines = write_repository(shipped, tmp_path, "product", HowToRun("cuda:1", "fp32"))
    version = f"sharpose/{int(bundle_sha256(shipped)[:12], 16)}"  # which all answers name
    bundle = [f"{version}/bundle/{name}" for name in sorted(("bundle.json", *shipped.manifest.files))]
    assert files(tmp_path) == [*bundle, f"{version}/model.py", "sharpose/config.pbtxt"]
    assert lines == ["sharpose: both stages on cuda:1, 14.9 MiB"]
    assert open_bundle(tmp_path / version / "bundle").manifest == shipped.manifest
    config = configuration(tmp_path / "sharpose")
    assert ServedModel.from_config(config) == ServedModel.of(shipped)
    assert (config["name"], config["backend"], config["max_batch_size"]) == ("sharpose", "python", 16)
    assert config["instance_group"] == [{"kind": "KIND_CPU", "count": 1}]
    # Protobuf leaves out what is its default: a delay of 0, and REJECT.
    assert config["dynamic_batching"] == {
        "default_queue_policy": {"allow_timeout_override": True, "max_queue_size": 64}
    }
    names = ("device", "precision", "threads", "batch")
    running = {name: config["parameters"][name].get("string_value") for name in names}
    assert running == {"device": "cuda:1", "precision": "fp32", "threads": None, "batch": None}


def test_graphs_are_models_of_their_own(tmp_path, shipped, configuration):
    lines = write_repository(shipped, tmp_path, "graphs")
    assert files(tmp_path) == [
        f"sharpose/{int(bundle_sha256(shipped)[:12], 16)}/model.py",
        "sharpose/config.pbtxt",
        "sharpose_coarse/1/model.onnx",
        "sharpose_coarse/1/weights.bin",
        "sharpose_coarse/config.pbtxt",
        "sharpose_fine/1/model.onnx",
        "sharpose_fine/1/weights.bin",
        "sharpose_fine/config.pbtxt",
    ]
    assert lines[1:] == ["sharpose_coarse: fp32, ONNX, 14.6 MiB", "sharpose_fine: fp32, ONNX, 14.6 MiB"]
    coarse, fine = (tmp_path / f"sharpose_{stage}" / "1" / "weights.bin" for stage in ("coarse", "fine"))
    assert coarse.samefile(fine)  # one file
    assert coarse.read_bytes() == (shipped.path / "weights.bin").read_bytes()
    assert ServedModel.from_config(configuration(tmp_path / "sharpose")) == ServedModel.of(shipped)
    config = configuration(tmp_path / "sharpose_fine")
    assert config.get("max_batch_size", 0) == 0
    assert config["platform"] == "onnxruntime_onnx"
    tensors = {item["name"]: (item["data_type"], list(map(int, item["dims"]))) for item in config["input"]}
    assert tensors == {
        "rows": ("TYPE_INT32", [-1]),
        "patches": ("TYPE_UINT8", [-1, -1, 768]),
        "region_order": ("TYPE_INT32", [-1, 48]),
        "region_features": ("TYPE_FP32", [-1, 48, 192]),
        "region_embeddings": ("TYPE_FP32", [-1, 48, 192]),
    }
    assert [item["name"] for item in config["output"]] == ["keypoints"]  # no heatmaps: they would be computed
    coarse_outputs = [item["name"] for item in configuration(tmp_path / "sharpose_coarse")["output"]]
    assert set(coarse_outputs) == {"keypoints", "quality", "region_order", "region_features", "region_embeddings"}


def test_where_files_cant_have_two_names_the_weights_are_copied(tmp_path, shipped, monkeypatch):
    def refuse(*arguments):
        raise OSError

    monkeypatch.setattr("os.link", refuse)
    write_repository(shipped, tmp_path, "graphs")
    assert (tmp_path / "sharpose_fine" / "1" / "weights.bin").read_bytes() == (
        shipped.path / "weights.bin"
    ).read_bytes()


@pytest.mark.parametrize(
    ("layout", "precision", "message"),
    [
        ("graphs", "fp16", "holds fp32, int8 graphs, not fp16; export it with --precision fp32,fp16,int8"),
        ("graphs", "bf16", "precision bf16: no graphs are made for it; expected one of fp32"),
        ("product", "fp16", "holds fp32, int8 graphs, not fp16; export it with --precision fp32,fp16,int8"),
        ("product", "bf16", "precision bf16: device cpu has none"),
    ],
)
def test_a_precision_that_cant_be_served_is_refused(tmp_path, shipped, layout, precision, message):
    with pytest.raises((BundleError, EngineError), match=message):
        write_repository(shipped, tmp_path, layout, HowToRun(precision=precision))


@pytest.fixture
def with_engines(tmp_path, shipped):
    """A copy of the shipped bundle with what looks like TensorRT engines of three profiles for 8 people."""
    import dataclasses

    folder = tmp_path / "bundle"
    shutil.copytree(shipped.path, folder)

    def make(flavour="tensorrt", stages=("coarse", "fine"), precision="fp32", **options):
        for stage in stages:
            files = shipped.manifest.files
            request = dataclasses.replace(
                REQUEST,
                stage=stage,
                precision=precision,
                flavour=flavour,
                graph_sha256=shipped.graph_sha256(stage, precision),
                weights_sha256=files["weights.bin"],
                options=REQUEST.options.model_copy(update={"max_batch": 8, **options}),
            )
            plan = f"the {stage} plan".encode()
            profile = {"x": Profile(min=[1], opt=[1], max=[1])}
            sidecar = sidecar_for(request, plan).model_copy(update={"profiles": [profile] * 3})
            write_engine(folder / "engines", stage, plan, sidecar)
        return open_bundle(folder)

    return make


def test_engines_of_tensorrt_take_the_graphs_place(tmp_path, with_engines, configuration):
    folder = tmp_path / "repository"
    folder.mkdir()
    lines = write_repository(with_engines(), folder, "graphs")
    assert lines[1] == "sharpose_coarse: fp32, TensorRT 10.3.0, 0.0 MiB"
    assert (folder / "sharpose_fine" / "1" / "model.plan").read_bytes() == b"the fine plan"
    assert not list(folder.rglob("*.onnx"))
    assert not list(folder.rglob("weights.bin"))
    gate = configuration(folder / "sharpose")
    assert gate["max_batch_size"] == 8
    assert gate["parameters"]["fine_batch"] == {"string_value": "8"}
    config = configuration(folder / "sharpose_fine")
    assert config["platform"] == "tensorrt_plan"
    assert config["instance_group"] == [{"count": 1, "profile": ["0", "1", "2"]}]
    dims = {item["name"]: list(map(int, item["dims"])) for item in (*config["input"], *config["output"])}
    # Its features are always those of a whole coarse batch; an engine's outputs are all named.
    assert dims["region_features"] == [8, 48, 192]
    assert dims["rows"] == [-1]
    assert dims["heatmaps"] == [-1, 17, 64, 48]
    assert [int(side) for side in configuration(folder / "sharpose_coarse")["input"][0]["dims"]] == [-1, 256, 192, 3]


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"flavour": "tensorrt_rtx"}, "the coarse one is of tensorrt_rtx, which Triton doesn't run"),
        ({"stages": ("coarse",)}, "there is one of the coarse stage alone"),
        ({"min_batch": 2}, "the coarse one takes at least 2 people; build it without --min-batch"),
        ({"tf32": True}, "the coarse one computes in TF32; build it without --tf32"),
    ],
)
def test_engines_that_triton_cant_run_are_left_out(tmp_path, with_engines, made, reason):
    folder = tmp_path / "repository"
    folder.mkdir()
    lines = write_repository(with_engines(**made), folder, "graphs")
    assert len(list(folder.rglob("model.onnx"))) == 2
    assert not list(folder.rglob("*.plan"))
    assert lines[1:] == [
        "sharpose_coarse: fp32, ONNX, 14.6 MiB",
        "sharpose_fine: fp32, ONNX, 14.6 MiB",
        f"the bundle's TensorRT engines are not served: {reason}",
    ]


def test_the_graphs_precision_is_that_of_the_engines_unless_one_is_asked_for(tmp_path, with_engines):
    bundle = with_engines(precision="int8")
    lines = write_repository(bundle, tmp_path / "auto", "graphs")
    assert lines[1:] == [
        "sharpose_coarse: int8, TensorRT 10.3.0, 0.0 MiB",
        "sharpose_fine: int8, TensorRT 10.3.0, 0.0 MiB",
    ]
    lines = write_repository(bundle, tmp_path / "asked", "graphs", HowToRun(precision="fp32"))
    assert lines[1].startswith("sharpose_coarse: fp32, ONNX, ")
    assert lines[3] == "the bundle's TensorRT engines are not served: the coarse one is in int8"


def test_a_damaged_engine_is_refused(tmp_path, with_engines):
    bundle = with_engines()
    (bundle.path / "engines" / "fine.plan").write_bytes(b"half")
    with pytest.raises(EngineError, match="truncated or changed"):
        write_repository(bundle, tmp_path / "repository", "graphs")


def test_the_products_model_brings_the_engines_along(tmp_path, with_engines):
    write_repository(with_engines(), tmp_path / "repository", "product", HowToRun("tensorrt", "fp32"))
    (folder,) = tmp_path.glob("repository/sharpose/*/bundle/engines")
    held = files(folder)
    assert held == ["coarse.json", "coarse.plan", "fine.json", "fine.plan"]


def test_a_file_that_went_missing_is_said(tmp_path, shipped):
    shutil.copytree(shipped.path, tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / "weights.bin").unlink()
    with pytest.raises(OSError, match=r"weights\.bin"):
        write_repository(bundle, tmp_path / "repository", "product")


def test_the_products_model_leaves_engines_in_tf32_where_they_are(tmp_path, with_engines):
    lines = write_repository(with_engines(tf32=True), tmp_path / "repository", "product", HowToRun("tensorrt", "fp32"))
    assert not list(tmp_path.glob("repository/sharpose/*/bundle/engines"))
    assert lines[1:] == [
        "the bundle's TensorRT engines are not served: the coarse one computes in TF32; build it without --tf32"
    ]

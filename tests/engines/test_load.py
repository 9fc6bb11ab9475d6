"""From a bundle and a device to two stages that run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from reference_model import reference_crops

from sharpose.bundle import Bundle, open_bundle
from sharpose.engines import onnxrt, openvino
from sharpose.engines.device import Device
from sharpose.engines.load import OnnxRuntimeSettings, load_two_stage
from sharpose.engines.openvino import OpenVinoDevice
from sharpose.errors import EngineError, how_to_install
from sharpose.runtime import PoseEstimator, assemble
from sharpose.runtime.cli import command
from sharpose.runtime.detectors.onnx import Detector


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path) -> Bundle:
    return open_bundle(nano_bundle)


def test_both_stages_run(bundle: Bundle) -> None:
    stages = load_two_stage(bundle, "cpu", threads=1)
    assert stages.device == "cpu"
    assert stages.max_batch == bundle.manifest.max_batch == 16
    assert stages.crops.shape == (16, 128, 96, 3)
    assert stages.patches.shape == (16, 4 * bundle.model.num_selected, 16 * 16 * 3)
    stages.crops[:2] = reference_crops(2, bundle.model.crop_size)
    stages.patches[:1] = 128
    coarse = stages.run_coarse(2)
    assert coarse.keypoints.shape == (2, 17, 3)
    assert coarse.quality.shape == (2,)
    np.testing.assert_array_equal(np.sort(coarse.region_order), np.tile(np.arange(12), (2, 1)))
    fine = stages.run_fine(np.array([1], np.int32))
    assert fine.shape == (1, 17, 3)
    assert np.isfinite(fine).all()
    stages.close()
    stages.close()
    with pytest.raises(EngineError, match="closed"):
        stages.run_coarse(1)


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there")
def test_a_missing_device_is_never_replaced(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=rf"device cuda:0: .*{re.escape(how_to_install('gpu'))}"):
        load_two_stage(bundle, "cuda")


def test_what_openvino_computes_in_is_matched_with_what_the_bundle_holds(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [OpenVinoDevice("CPU", "EPYC", ("fp32", "bf16", "int8"))]
    monkeypatch.setattr(openvino, "visible_devices", lambda: seen)
    graphs = {"fp16": bundle.manifest.graphs["fp32"]}
    half = Bundle(bundle.path, bundle.manifest.model_copy(update={"graphs": graphs}))
    words = (
        f"bundle {bundle.path}: holds fp16 graphs only, which openvino:CPU doesn't compute in; export it with "
        "--precision fp32,fp16, or use device cpu"
    )
    for precision in ("auto", "fp16"):
        with pytest.raises(EngineError, match=f"^{re.escape(words)}$"):
            load_two_stage(half, "openvino", precision=precision)
    with pytest.raises(EngineError, match=r"^precision fp16: openvino:CPU doesn't compute in it; use fp32 or bf16$"):
        load_two_stage(bundle, "openvino", precision="fp16")
    with pytest.raises(EngineError, match=r"^device openvino:GPU: OpenVINO sees CPU \(EPYC\) here"):
        load_two_stage(bundle, "openvino:GPU")


@pytest.mark.parametrize("device", ["coreml", "directml:1"])
def test_stages_on_a_device_that_is_untried_say_so_and_keep_features_on_the_host(
    bundle: Bundle, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxrt, "PROVIDERS", onnxrt.PROVIDERS | {device.partition(":")[0]: "CPUExecutionProvider"})
    monkeypatch.setattr(onnxrt, "_providers", lambda *_: ["CPUExecutionProvider"])
    lines: list[str] = []
    poses = []
    for where, say in ((device, lines.append), ("cpu", pytest.fail)):
        stages = load_two_stage(bundle, where, threads=1, onnxruntime=OnnxRuntimeSettings(say=say))
        stages.crops[:2] = reference_crops(2, bundle.model.crop_size)
        stages.patches[:2] = 128
        coarse = stages.run_coarse(2).keypoints.copy()
        poses.append((coarse, stages.run_fine(np.arange(2, dtype=np.int32)).copy()))
        assert (stages.device, stages.precision) == (where, "fp32")
        stages.close()
    for found, expected in zip(*poses, strict=True):
        np.testing.assert_array_equal(found, expected)
    first, *nodes = lines
    compares = f"`sharpose-doctor --device {device}` compares its poses with the CPU's"
    assert first == f"ONNX Runtime on {device}, fp32 graphs; that device is untried: {compares}"
    assert len(nodes) == 2
    for stage, line in zip(("coarse", "fine"), nodes, strict=True):
        assert re.match(rf"{stage}\.onnx on {device}: (\d+) of \1 nodes run on the CPU", line)


@pytest.mark.parametrize("device", ["cpu", "coreml", "directml:1"])
def test_tf32_is_refused_where_no_device_has_it(device: str) -> None:
    result = CliRunner().invoke(command, ["scene", "--tf32", "--device", device], standalone_mode=False)
    assert isinstance(result.exception, click.UsageError)
    assert str(result.exception) == f"--tf32 is for NVIDIA's GPUs, got --device {device}"


def test_an_unknown_device_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="device: expected cpu"):
        load_two_stage(bundle, "gpu")


def test_a_graph_that_is_not_as_the_manifest_says_is_refused(bundle: Bundle) -> None:
    pair = bundle.manifest.graphs["fp32"]
    swapped = pair.model_copy(update={"fine": pair.fine.model_copy(update={"outputs": pair.coarse.outputs})})
    manifest = bundle.manifest.model_copy(update={"graphs": {"fp32": swapped}})
    with pytest.raises(EngineError, match=r"fine\.onnx: expected keypoints float32 \[N, 17, 3\]"):
        load_two_stage(Bundle(bundle.path, manifest), threads=1)


def test_settings_reach_onnx_runtime(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, OnnxRuntimeSettings]] = []

    def refuse(path: Path, device: Device, settings: OnnxRuntimeSettings, **_: object) -> None:
        asked.append((f"{path.name} on {device}", settings))
        raise EngineError("enough")

    monkeypatch.setattr(onnxrt, "create_session", refuse)
    arguments = ["scene", "--bundle", str(bundle.path), "--device", "ort-tensorrt:1", "--tf32", "--engine-cache"]
    with pytest.raises(EngineError, match="enough"):
        CliRunner().invoke(command, [*arguments, str(tmp_path)], standalone_mode=False, catch_exceptions=False)
    ((what, settings),) = asked
    assert (what, settings.tf32, settings.engine_cache) == ("coarse.onnx on ort-tensorrt:1", True, tmp_path)


def test_what_runs_on_a_gpu_is_said(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(onnxrt, "PROVIDERS", {"cpu": "CPUExecutionProvider", "cuda": "CPUExecutionProvider"})
    monkeypatch.setattr(onnxrt, "_providers", lambda *_: ["CPUExecutionProvider"])
    load_two_stage(bundle, "cpu", onnxruntime=OnnxRuntimeSettings(say=lines.append)).close()
    assert lines == []
    load_two_stage(bundle, "cuda:1", onnxruntime=OnnxRuntimeSettings(tf32=True, say=lines.append)).close()
    assert lines == ["ONNX Runtime on cuda:1, fp32 graphs, TF32 on"]


@pytest.mark.parametrize(
    ("arguments", "devices"),
    [
        ([], ("cpu",)),
        (["--device", "cuda:1"], ("cuda:1",)),
        (["--device", "ort-tensorrt"], ("ort-tensorrt:0",)),
        (["--device", "tensorrt"], ("tensorrt:0", "cuda:0", "cpu")),
        (["--device", "tensorrt:2"], ("tensorrt:2", "cuda:2", "cpu")),
        (["--device", "openvino"], ("openvino:CPU",)),
        (["--device", "openvino:GPU"], ("openvino:GPU.0", "openvino:CPU")),
        (["--device", "tensorrt", "--detector-device", "cuda:1"], ("cuda:1",)),
        (["--detector-device", "tensorrt", "--tf32", "--engine-cache", "folder"], ("tensorrt",)),
    ],
)
def test_a_detector_runs_beside_the_poses_unless_its_device_is_given(
    arguments: list[str], devices: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refuse(path: Path, **settings: object) -> None:
        asked.append(settings)
        raise EngineError("enough")

    estimator = PoseEstimator.from_bundle()
    device = dict(zip(arguments[::2], arguments[1::2], strict=False)).get("--device", "cpu")
    monkeypatch.setattr(PoseEstimator, "device", device)  # as if its engines ran there
    monkeypatch.setattr(assemble, "_make_estimator", lambda *_: estimator)
    monkeypatch.setattr(Detector, "from_onnx", refuse)
    video = str(Path(__file__).parents[2] / "examples" / "photographs")
    with pytest.raises(EngineError, match="enough"):
        CliRunner().invoke(
            command, [video, "--detector", "d.onnx", *arguments], standalone_mode=False, catch_exceptions=False
        )
    (settings,) = asked
    assert settings["device"] == devices
    tf32 = "--tf32" in arguments
    assert (settings["tensorrt"].tf32, settings["onnxruntime"].tf32) == (tf32, tf32)
    assert settings["tensorrt"].engine_cache == (Path("folder") if "folder" in arguments else None)

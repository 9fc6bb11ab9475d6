"""What both stages compute in: on each kind of device, of each kind of bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharpose.bundle import Bundle, Precision, open_bundle
from sharpose.engines.device import parse_device
from sharpose.engines.load import OnnxRuntimeSettings, load_two_stage
from sharpose.engines.precision import PRECISIONS, RunPrecision, choose_precision, graphs_of
from sharpose.engines.stages import open_stages
from sharpose.errors import BundleError, EngineError, InputError


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path) -> Bundle:
    return open_bundle(nano_bundle)


def _holding(bundle: Bundle, *precisions: Precision, failed: tuple[Precision, ...] = ()) -> Bundle:
    """The bundle as if it held its graphs in these precisions; the export of those in `failed` went wrong."""
    graphs, report = bundle.manifest.graphs["fp32"], bundle.manifest.parity["fp32"]
    wrong = report.model_copy(update={"failures": ("coarse heatmaps",)})
    update = {
        "graphs": dict.fromkeys(precisions, graphs),
        "parity": {precision: wrong if precision in failed else report for precision in precisions},
    }
    return Bundle(bundle.path, bundle.manifest.model_copy(update=update))


@pytest.mark.parametrize(
    ("held", "on_cpu", "on_gpu"),
    [
        (("fp32",), "fp32", "fp32"),
        (("fp32", "fp16"), "fp32", "fp16"),
        (("fp32", "fp16", "int8"), "fp32", "fp16"),
        (("fp32", "int8"), "fp32", "fp32"),
        (("fp16",), "fp16", "fp16"),
        (("fp16", "int8"), "int8", "fp16"),
        (("int8",), "int8", "int8"),
    ],
)
def test_auto_takes_what_the_bundle_holds(
    bundle: Bundle, held: tuple[Precision, ...], on_cpu: str, on_gpu: str
) -> None:
    holding = _holding(bundle, *held)
    assert choose_precision(holding, parse_device("cpu")) == on_cpu
    for device in ("cuda", "tensorrt:1", "ort-tensorrt"):
        assert choose_precision(holding, parse_device(device)) == on_gpu


def test_half_graphs_run_on_a_gpu_where_their_export_verified_them(bundle: Bundle) -> None:
    cuda = parse_device("cuda")
    assert choose_precision(_holding(bundle, "fp32", "fp16", failed=("fp16",)), cuda) == "fp32"
    assert choose_precision(_holding(bundle, "fp16", failed=("fp16",)), cuda) == "fp16"  # there is no other


def test_what_is_asked_for_is_taken(bundle: Bundle) -> None:
    holding = _holding(bundle, "fp32", "fp16", "int8")
    for precision in ("fp32", "fp16", "int8"):
        for device in ("cpu", "cuda", "tensorrt"):
            assert choose_precision(holding, parse_device(device), precision) == precision


def test_bf16_runs_the_float32_graphs() -> None:
    asked: tuple[RunPrecision, ...] = ("fp32", "fp16", "bf16", "int8")
    assert [graphs_of(precision) for precision in asked] == ["fp32", "fp16", "fp32", "int8"]
    assert ("auto", *asked) == PRECISIONS


def test_what_the_bundle_lacks_is_refused(bundle: Bundle) -> None:
    cpu, half = parse_device("cpu"), _holding(bundle, "fp16")
    words = rf"^bundle {bundle.path}: holds fp32 graphs, not int8; export it with --precision fp32,int8$"
    with pytest.raises(BundleError, match=words):
        choose_precision(bundle, cpu, "int8")
    with pytest.raises(BundleError, match=r"holds fp16 graphs, not fp32; export it with --precision fp32,fp16$"):
        choose_precision(half, cpu, "fp32")
    for load in (load_two_stage, open_stages):
        with pytest.raises(BundleError, match="holds fp32 graphs, not fp16"):
            load(bundle, precision="fp16")


def test_what_the_device_lacks_is_refused(bundle: Bundle) -> None:
    for device in ("cpu", "cuda:0", "tensorrt:0"):
        with pytest.raises(EngineError, match=rf"^precision bf16: device {device} has none; expected --"):
            choose_precision(bundle, parse_device(device), "bf16")


@pytest.mark.parametrize("asked", ["FP32", "half", "", "fp32,fp16"])
def test_anything_else_is_no_precision(bundle: Bundle, asked: str) -> None:
    with pytest.raises(InputError, match=rf"^precision: expected auto, fp32, fp16, bf16 or int8, got '{asked}'$"):
        choose_precision(bundle, parse_device("cpu"), asked)


def test_what_is_not_float32_is_said(two_precisions: Bundle) -> None:
    lines: list[str] = []
    settings = OnnxRuntimeSettings(say=lines.append)
    for asked, taken in (("auto", "fp32"), ("fp16", "fp16")):
        stages = load_two_stage(two_precisions, precision=asked, threads=1, onnxruntime=settings)
        assert stages.precision == taken
        stages.close()
    slower = "ONNX Runtime on cpu, fp16 graphs, which it computes in float32, slower than fp32 graphs"
    assert lines == [slower]

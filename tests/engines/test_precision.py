"""What both stages compute in: on each kind of device, of each kind of bundle."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from sharpose.bundle import BatchTime, Bundle, OutputParity, ParityReport, Precision, Verified, open_bundle
from sharpose.engines import gpu as gpus
from sharpose.engines import openvino
from sharpose.engines.device import Device, hardware_of, parse_device
from sharpose.engines.gpu import Gpu
from sharpose.engines.load import OnnxRuntimeSettings, load_two_stage
from sharpose.engines.openvino import OpenVinoDevice
from sharpose.engines.precision import (
    PRECISIONS,
    RunPrecision,
    ap_lost,
    choose_precision,
    failures,
    graphs_for,
    graphs_of,
    strict_failures,
    tolerance_for,
    withheld,
)
from sharpose.engines.stages import open_stages
from sharpose.errors import BundleError, EngineError, InputError


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path) -> Bundle:
    """As if it were trained."""
    bundle = open_bundle(nano_bundle)
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"source": "checkpoint nano.pth"}))


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


@pytest.mark.parametrize(
    ("held", "on_gpu", "on_npu"),
    [
        (("fp32",), "fp32", "fp16"),
        (("fp32", "fp16"), "fp16", "fp16"),
        (("fp32", "int8"), "fp32", "fp16"),
        (("int8",), "int8", "int8"),
    ],
)
def test_openvino_rounds_float32_graphs_where_there_are_no_half_ones(
    bundle: Bundle, held: tuple[Precision, ...], on_gpu: str, on_npu: str
) -> None:
    holding = _holding(bundle, *held)
    gpu, npu, cpu = (parse_device(f"openvino:{target}") for target in ("GPU", "NPU", "CPU"))
    assert choose_precision(holding, cpu) == held[0]
    assert (choose_precision(holding, gpu), choose_precision(holding, npu)) == (on_gpu, on_npu)
    if "fp32" in held:
        assert choose_precision(holding, gpu, "fp16") == "fp16"
        assert graphs_for(holding, gpu, "fp16") == ("fp16" if "fp16" in held else "fp32")
    else:
        with pytest.raises(BundleError, match="holds int8 graphs, not fp32"):
            choose_precision(holding, gpu, "fp16")


def test_half_graphs_run_on_a_gpu_where_their_export_verified_them(bundle: Bundle) -> None:
    cuda = parse_device("cuda")
    assert choose_precision(_holding(bundle, "fp32", "fp16", failed=("fp16",)), cuda) == "fp32"
    assert choose_precision(_holding(bundle, "fp16", failed=("fp16",)), cuda) == "fp16"  # there is no other


def test_a_device_that_is_untried_computes_in_float32_unless_asked(two_precisions: Bundle) -> None:
    for device in (Device("coreml"), Device("directml", 1)):
        assert choose_precision(two_precisions, device) == "fp32"
        assert choose_precision(two_precisions, device, "fp16") == "fp16"
        with pytest.raises(EngineError, match="bf16"):
            choose_precision(two_precisions, device, "bf16")
    assert choose_precision(two_precisions, Device("cuda")) == "fp16"


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


def test_bf16_needs_float32_graphs(bundle: Bundle) -> None:
    words = rf"^bundle {bundle.path}: holds fp16 graphs, but bf16 runs fp32 ones; export it with --precision fp32,fp16$"
    with pytest.raises(BundleError, match=words):
        choose_precision(_holding(bundle, "fp16"), parse_device("openvino"), "bf16")


def test_what_the_device_lacks_is_refused(bundle: Bundle) -> None:
    for device in ("cpu", "cuda:0", "tensorrt:0"):
        with pytest.raises(EngineError, match=rf"^precision bf16: device {device} has none; expected device openvino"):
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


def _verified(bundle: Bundle, precision: RunPrecision, milliseconds: float, **changes: Any) -> Verified:
    """A result on this machine's CPU, of 16 crops within the limits."""
    report = bundle.manifest.parity["fp32"].model_copy(update={"crops": 16, "failures": ()})
    values = {
        "device": "cpu",
        "hardware": hardware_of(Device("cpu")),
        "engine": "onnxruntime",
        "engine_version": "1.0",
        "precision": precision,
        "graphs_sha256": bundle.graphs_sha256("fp32"),  # that of all graphs here
        "parity": report,
        "average_precision_change": None,
        "times": (BatchTime(people=1, coarse=milliseconds, fine=milliseconds),),
    }
    return Verified.model_validate(values | changes)


def _auto(bundle: Bundle, *entries: Verified, device: str = "cpu") -> str:
    manifest = bundle.manifest.model_copy(update={"verified": entries})
    return choose_precision(Bundle(bundle.path, manifest), parse_device(device))


def test_auto_takes_the_fastest_that_was_verified_here(bundle: Bundle) -> None:
    holding = _holding(bundle, "fp32", "fp16", "int8")
    fp32, fp16 = _verified(holding, "fp32", 4.0), _verified(holding, "fp16", 6.0)
    int8 = _verified(holding, "int8", 2.0)
    assert _auto(holding, fp32, fp16) == "fp32"
    assert _auto(holding, fp16, int8, fp32) == "int8"
    assert _auto(holding, fp32, _verified(holding, "fp16", 1.0)) == "fp32"  # which the CPU computes in float32
    assert _auto(holding, int8) == "fp32"  # faster than what?
    assert _auto(holding, fp32, _verified(holding, "int8", 3.9)) == "fp32"  # by chance, perhaps
    assert _auto(holding, fp32, int8, _verified(holding, "int8", 5.0)) == "fp32"  # the latest counts


def test_auto_compares_the_times_of_batches_that_both_were_timed_in(bundle: Bundle) -> None:
    """Engines that were built for fewer people are timed in smaller batches."""
    holding = _holding(bundle, "fp32", "int8")

    def timed(precision: RunPrecision, **milliseconds: float) -> Verified:
        times = tuple(BatchTime(people=int(people[1:]), coarse=ms, fine=ms) for people, ms in milliseconds.items())
        return _verified(holding, precision, 1.0, times=times)

    fp32 = timed("fp32", _1=4.0, _8=2.0)
    assert _auto(holding, fp32, timed("int8", _1=4.4)) == "fp32"
    assert _auto(holding, fp32, timed("int8", _1=4.4, _4=0.1)) == "fp32"
    assert _auto(holding, fp32, timed("int8", _1=3.0, _4=9.0)) == "int8"
    assert _auto(holding, fp32, timed("int8", _1=4.4, _8=1.0)) == "int8"
    assert _auto(holding, fp32, timed("int8", _4=0.1)) == "fp32"


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cuda"},
        {"hardware": "x86_64 avx"},
        {"engine": "openvino"},
        {"graphs_sha256": "0" * 64},
        {"parity": {"failures": ("coarse heatmaps",)}},
        {"parity": {"crops": 15}},
        {"parity": {"keypoint_pixels_median": 1.01}},  # beyond the limits of now, with or without a word about it
        {"parity": {"region_slot_agreement": 0.94}},
        {"parity": {"keypoint_pixels_p99": 32.1}},
        {"parity": {"keypoint_pixels_p99": math.nan}},
        {"average_precision_change": -0.0051},
    ],
)
def test_auto_takes_nothing_that_was_verified_elsewhere_or_is_wrong(bundle: Bundle, changes: dict[str, Any]) -> None:
    holding = _holding(bundle, "fp32", "int8")
    fp32, int8 = _verified(holding, "fp32", 4.0), _verified(holding, "int8", 2.0)
    assert _auto(holding, fp32, int8) == "int8"
    if "parity" in changes:
        changes = {"parity": int8.parity.model_copy(update=changes["parity"])}
    assert _auto(holding, fp32, int8.model_copy(update=changes)) == "fp32"


@pytest.mark.parametrize(
    ("change", "interval", "line"),
    [
        (None, None, None),
        (-0.005, (-0.02, 0.01), None),
        (0.02, (-0.02, 0.04), None),
        (-0.0053, None, "AP lost 0.53 points (limit 0.5)"),
        (-0.02, (-0.03, -0.011), "AP lost 2.00 points (limit 0.5)"),
        (
            -0.0053,
            (-0.021, 0.0104),
            "AP lost 0.53 points (limit 0.5); "
            "with so few labels chance makes it -2.1 to +1.0 (95 %): give more to tell",
        ),
    ],
)
def test_ap_that_is_lost_is_told_from_chance(
    change: float | None, interval: tuple[float, float] | None, line: str | None
) -> None:
    assert ap_lost(change, interval) == ([] if line is None else [line])


@pytest.mark.parametrize(("precision", "limit"), [("bf16", 8), ("int8", 32), ("fp16", 4)])
def test_auto_takes_no_precision_whose_keypoints_jump(bundle: Bundle, precision: RunPrecision, limit: int) -> None:
    holding = _holding(bundle, "fp32", "fp16", "int8")
    here = {"device": "openvino:CPU", "engine": "openvino"}
    fp32 = _verified(holding, "fp32", 4.0, **here)

    def faster(pixels: float) -> Verified:
        return _verified(holding, precision, 2.0, **here, parity=_moved(fp32, pixels))

    assert _auto(holding, fp32, faster(limit), device="openvino") == precision
    assert _auto(holding, fp32, faster(limit + 0.1), device="openvino") == "fp32"
    measured = faster(310.4).model_copy(update={"average_precision_change": -0.004})
    assert _auto(holding, fp32, measured, device="openvino") == precision  # AP says what that costs
    lost = faster(310.4).model_copy(update={"average_precision_change": -0.006})
    assert _auto(holding, fp32, lost, device="openvino") == "fp32"
    manifest = holding.manifest.model_copy(update={"verified": (fp32, faster(310.4))})
    line = f"keypoints moved 310 px at the 99th percentile (limit {limit})"
    assert withheld(Bundle(bundle.path, manifest), parse_device("openvino")) == {precision: line}
    if precision == "fp16":
        gpu = {"device": "openvino:GPU", "hardware": "Arc", "engine": "openvino"}
        jumping = _verified(holding, "fp16", 2.0, **gpu, parity=_moved(fp32, 5.0))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(openvino, "visible_devices", lambda: [OpenVinoDevice("GPU", "Arc", ("fp32", "fp16"))])
            assert _auto(holding, jumping, device="openvino:GPU") == "fp32"  # the usual one jumps


def _moved(entry: Verified, pixels: float) -> ParityReport:
    return entry.parity.model_copy(update={"keypoint_pixels_p99": pixels})


def test_of_random_weights_nothing_is_right(bundle: Bundle) -> None:
    random = Bundle(bundle.path, bundle.manifest.model_copy(update={"source": "random weights, seed 0"}))
    holding = _holding(random, "fp32", "int8")
    fp32, int8 = _verified(holding, "fp32", 4.0), _verified(holding, "int8", 1.0)
    assert (random.has_random_weights, bundle.has_random_weights) == (True, False)
    assert _auto(holding, fp32, int8) == "fp32"
    assert _auto(holding, fp32.model_copy(update={"parity": _moved(fp32, 95.9)}), int8) == "fp32"  # nor wrong
    manifest = holding.manifest.model_copy(update={"verified": (fp32, int8)})
    reasons = withheld(Bundle(bundle.path, manifest), parse_device("cpu"))
    assert reasons == {"int8": "weights are random, so nothing is right or wrong"}


def test_why_what_was_verified_is_withheld(bundle: Bundle) -> None:
    holding = _holding(bundle, "fp32", "fp16", "int8")
    fp32, int8 = _verified(holding, "fp32", 4.0), _verified(holding, "int8", 1.0)
    few = int8.model_copy(update={"parity": int8.parity.model_copy(update={"crops": 3})})
    failed = int8.model_copy(update={"parity": int8.parity.model_copy(update={"failures": ("quality",)})})
    for entries, reasons in (
        ((fp32, int8), {}),  # taken
        ((fp32, _verified(holding, "int8", 9.0)), {}),  # slower
        ((fp32, failed), {}),  # an error of its own
        ((_verified(holding, "fp16", 1.0),), {}),  # which the CPU computes in float32
        ((int8,), {"int8": "verify fp32 as well, to compare with"}),
        ((fp32, few), {"int8": "3 crops were compared, at least 16 must be"}),
    ):
        manifest = holding.manifest.model_copy(update={"verified": entries})
        assert withheld(Bundle(bundle.path, manifest), parse_device("cpu")) == reasons


def test_auto_leaves_what_was_verified_to_be_wrong_here(bundle: Bundle) -> None:
    holding = _holding(bundle, "fp32", "int8")
    failed = holding.manifest.parity["fp32"].model_copy(update={"failures": ("fine heatmaps",)})
    assert _auto(holding, _verified(holding, "fp32", 4.0, parity=failed)) == "int8"
    assert _auto(_holding(bundle, "fp32"), _verified(bundle, "fp32", 4.0, parity=failed)) == "fp32"  # there is no other
    halves = _holding(bundle, "fp32", "fp16")
    wrong, half = _verified(halves, "fp32", 4.0, parity=failed), _verified(halves, "fp16", 6.0)
    assert _auto(halves, wrong, half) == "fp16"  # never faster than float32, but right


def test_a_gpu_that_was_not_verified_keeps_to_halves(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    holding = _holding(bundle, "fp32", "fp16", "int8")
    gpu = {"device": "cuda", "hardware": "compute capability 9.0"}
    entries = [_verified(holding, "fp16", 2.0, **gpu), _verified(holding, "int8", 1.0, **gpu)]
    known = Gpu(0, "NVIDIA H100", "9.0", "CUDA 13.0", 132, False)
    monkeypatch.setattr(gpus, "probe_gpu", lambda index: known)
    assert _auto(holding, *entries, device="cuda") == "int8"
    monkeypatch.setattr(gpus, "probe_gpu", lambda index: dataclasses.replace(known, compute_capability="8.6"))
    assert _auto(holding, *entries, device="cuda") == "fp16"

    def missing(index: int) -> Gpu:
        raise EngineError("no GPU driver")

    monkeypatch.setattr(gpus, "probe_gpu", missing)
    assert _auto(holding, *entries, device="cuda") == "fp16"  # loading says what is wrong


def test_why_auto_takes_another_than_float32_is_said(two_precisions: Bundle) -> None:
    lines: list[str] = []
    both = two_precisions.manifest
    graphs = {"fp32": both.graphs["fp32"], "int8": both.graphs["fp16"]}
    bundle = Bundle(two_precisions.path, both.model_copy(update={"graphs": graphs}))
    quick = _verified(bundle, "int8", 1.0, graphs_sha256=bundle.graphs_sha256("int8"))
    update = {"verified": (_verified(bundle, "fp32", 2.0), quick)}
    bundle = Bundle(bundle.path, bundle.manifest.model_copy(update=update))
    load_two_stage(bundle, threads=1, onnxruntime=OnnxRuntimeSettings(say=lines.append)).close()
    assert lines == ["ONNX Runtime on cpu, int8 graphs, verified as the fastest that is right on this kind of CPU"]


def _report(**changes: object) -> ParityReport:
    heatmaps = OutputParity(
        graph="fine", output="heatmaps", max_abs_difference=1e-6, mean_abs_difference=1e-7, reference_range=2.0
    )
    values: dict[str, object] = {
        "pictures": "none",
        "crops": 16,
        "batch_sizes": (1,),
        "outputs": (heatmaps,),
        "region_set_agreement": 1.0,
        "gate_agreement": 1.0,
        "keypoint_pixels_median": 0.0,
        "keypoint_pixels_p99": 0.0,
        "keypoint_pixels_max": 0.0,
        "tolerance": 1e-3,
    }
    return ParityReport.model_validate(values | changes)


def _off_by(difference: float, output: str = "heatmaps") -> ParityReport:
    item = OutputParity(
        graph="coarse", output=output, max_abs_difference=difference, mean_abs_difference=0.0, reference_range=2.0
    )
    return _report(outputs=(item,))


def test_a_good_report_passes_even_strictly() -> None:
    assert failures(_report(), tolerance_for("fp32")) == []
    assert strict_failures(_report(), tolerance_for("fp32")) == []


@pytest.mark.parametrize(
    ("precision", "device", "within", "beyond"),
    [
        ("fp32", "cpu", 0.0019, 0.0021),
        ("fp32", "openvino:CPU", 0.0019, 0.0021),
        ("fp32", "cuda:0", 0.019, 0.021),
        ("fp16", "cpu", 0.039, 0.041),
    ],
)
def test_heatmaps_may_be_off_by_a_share_of_their_range(
    precision: str, device: str, within: float, beyond: float
) -> None:
    tolerance = tolerance_for("fp16" if precision == "fp16" else "fp32", device)
    assert failures(_off_by(within), tolerance) == []
    (line,) = failures(_off_by(beyond), tolerance)
    assert line.startswith("coarse heatmaps off by")


def test_nan_is_beyond_every_tolerance() -> None:
    assert failures(_off_by(math.nan, "quality"), tolerance_for("fp16"))
    assert failures(_report(keypoint_pixels_median=math.nan), tolerance_for("fp16"))


def test_outputs_that_are_not_poses_are_only_reported() -> None:
    assert failures(_off_by(47.0, "region_order"), tolerance_for("fp32")) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_lost_regions_and_moved_keypoints_fail(precision: str) -> None:
    tolerance = tolerance_for("fp16" if precision == "fp16" else "fp32")
    assert failures(_report(region_set_agreement=0.5), tolerance)[0].startswith("region sets agree on 50.0%")
    assert failures(_report(keypoint_pixels_median=2.0), tolerance)[0].startswith("keypoints moved 2 px")


def test_strict_adds_small_moves_and_keeps_what_failed_already() -> None:
    report = _report(
        region_set_agreement=0.9, keypoint_pixels_median=0.04, keypoint_pixels_p99=0.5, failures=("in ONNX Runtime: x",)
    )
    lines = strict_failures(report, tolerance_for("fp32"))
    assert lines[0] == "in ONNX Runtime: x"
    assert len(lines) == 4
    assert len(strict_failures(report, tolerance_for("fp16"))) == 2  # the regions: 95 % must agree


def test_gates_may_flip_near_the_threshold_in_half_only() -> None:
    near = _report(gate_flips=2, gate_flips_near_threshold=2, gate_near_threshold=3)
    far = _report(gate_flips=2, gate_flips_near_threshold=1, gate_near_threshold=3)
    assert strict_failures(near, tolerance_for("fp16")) == []
    assert strict_failures(near, tolerance_for("fp32")) == ["2 gate decisions flipped"]
    assert strict_failures(far, tolerance_for("fp16")) == [
        "1 gate decisions flipped further than 0.02 from the threshold"
    ]


def test_int8_is_held_to_limits_of_its_own() -> None:
    tolerance = tolerance_for("int8")
    good = _report(region_set_agreement=0.2, region_slot_agreement=0.96, gate_flips=2, crops=128)
    assert failures(good, tolerance) == []
    assert failures(good.model_copy(update={"gate_flips": 3}), tolerance) == [
        "3 gate decisions of 128 flipped (limit 2% of the crops)"
    ]
    assert failures(good.model_copy(update={"region_slot_agreement": 0.94}), tolerance) == [
        "94.0% of the selected regions are the same (at least 95% must be)"
    ]
    assert failures(good.model_copy(update={"keypoint_pixels_median": 1.1}), tolerance)[0].startswith("keypoints moved")
    assert failures(_off_by(0.29), tolerance) == []
    assert failures(_off_by(0.31), tolerance)[0].startswith("coarse heatmaps off by 0.31")
    few = _report(region_slot_agreement=1.0, gate_flips=2, crops=32)
    assert failures(few, tolerance) == []  # chance
    assert len(failures(few.model_copy(update={"gate_flips": 3}), tolerance)) == 1

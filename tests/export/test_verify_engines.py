"""`--verify` where engines can't be loaded, fail as they run, or take fewer people than the bundle."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from reference_model import reference_crops
from rich.console import Console

from sharpose.bundle import Bundle, ParityReport, Precision
from sharpose.engines.load import STAGES
from sharpose.engines.onnxrt import OnnxRuntimeRunner
from sharpose.engines.precision import RunPrecision
from sharpose.engines.stages import EngineStages, open_stages
from sharpose.engines.two_stage import HostTwoStage, TwoStage
from sharpose.errors import EngineError
from sharpose.export import verify as verify_engines
from sharpose.export.parity import compare_stages
from sharpose.export.pictures import ParityPictures
from sharpose.export.verify import print_verification, verify_bundle

ONLY_FP32: tuple[RunPrecision, ...] = ("fp32",)
pytestmark = pytest.mark.usefixtures("few_turns")


@pytest.fixture(scope="module")
def pictures(two_precisions: Bundle) -> ParityPictures:
    return ParityPictures(reference_crops(4, two_precisions.model.crop_size), "blocks of colour")


def test_a_listed_device_that_cannot_run_is_reported_not_hidden(
    two_precisions: Bundle, pictures: ParityPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_engines, "_other_devices", lambda: ["cuda"])

    def refuse(bundle: Bundle, device: str, precision: Precision, **options: object) -> EngineStages:
        if device == "cuda":
            raise EngineError("no cuDNN")
        return open_stages(bundle, device, precision)

    monkeypatch.setattr(verify_engines, "open_stages", refuse)
    result = verify_bundle(two_precisions, pictures)
    assert result.unusable == ("cuda, fp32: no cuDNN", "cuda, fp16: no cuDNN")
    assert len(result.engines) == 2


def _for_tensorrt(bundle: Bundle, max_batch: int) -> HostTwoStage:
    """What stands in for TensorRT engines that were built with another `--max-batch` than the bundle's."""
    coarse, fine = (OnnxRuntimeRunner(*bundle.graph(stage, "fp32"), max_batch) for stage in STAGES)
    return HostTwoStage(coarse, fine, "fp32")


def test_engines_of_a_smaller_batch_are_timed_in_what_they_take(
    two_precisions: Bundle, pictures: ParityPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert two_precisions.manifest.max_batch == 6
    monkeypatch.setattr(verify_engines, "_other_devices", lambda: ["tensorrt"])
    monkeypatch.setattr(verify_engines, "open_stages", lambda bundle, device, precision, **_: open_stages(bundle))
    monkeypatch.setattr(verify_engines, "load_two_stage", lambda bundle, *_, **__: _for_tensorrt(bundle, 4))
    result = verify_bundle(two_precisions, pictures, precisions=ONLY_FP32)
    timed = {item.device: [time.people for time in item.times] for item in result.engines}
    assert timed == {"cpu": [1, 6], "tensorrt": [1, 4]}
    cpu, tensorrt = result.engines
    out = io.StringIO()
    print_verification(result, Console(file=out, width=200))
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in _cells(out.getvalue())}
    own, other = (f"{item.times[1].coarse:.1f} + {item.times[1].fine:.1f}" for item in (cpu, tensorrt))
    assert rows["ms a person in a batch of 4"] == ["", other]
    assert rows["ms a person in a batch of 6"] == [own, ""]


def _cells(table: str) -> list[list[str]]:
    return [line.strip("│").split("│") for line in table.splitlines() if line.startswith("│")]


def test_an_engine_that_fails_as_it_runs_takes_no_others_result_with_it(
    two_precisions: Bundle, pictures: ParityPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: dict[str, EngineStages] = {}

    def open_it(bundle: Bundle, device: str, precision: Precision, **options: object) -> EngineStages:
        opened[device] = open_stages(bundle, "cpu", precision)
        if device == "cuda":
            opened[device].close()  # so that its first run fails
        return opened[device]

    def refuse(*arguments: object, **options: object) -> TwoStage:
        raise EngineError("out of memory")

    monkeypatch.setattr(verify_engines, "_other_devices", lambda: ["cuda", "tensorrt"])
    monkeypatch.setattr(verify_engines, "open_stages", open_it)
    monkeypatch.setattr(verify_engines, "load_two_stage", refuse)  # for its times
    result = verify_bundle(two_precisions, pictures, precisions=ONLY_FP32)
    assert [(item.device, len(item.times)) for item in result.engines] == [("cpu", 2)]
    assert result.unusable == ("cuda, fp32: this engine was closed", "tensorrt, fp32: out of memory")
    for stages in opened.values():
        with pytest.raises(EngineError, match="this engine was closed"):
            stages.coarse(pictures.crops)


@pytest.mark.usefixtures("on_cpu_alone")
@pytest.mark.parametrize("is_beyond", [False, True])
def test_a_precision_that_fails_while_it_is_timed_takes_no_other_with_it(
    two_precisions: Bundle, pictures: ParityPictures, monkeypatch: pytest.MonkeyPatch, is_beyond: bool
) -> None:
    measure = verify_engines.measure_times

    def measure_all(bundle: Bundle, devices: Sequence[str], engines: Sequence[EngineStages], *rest: Any) -> Any:
        if any(stages.precision == "fp16" for stages in engines):
            raise EngineError("out of memory")
        return measure(bundle, devices, engines, *rest)

    def compare_all(outputs: Any, stages: EngineStages, *rest: Any) -> ParityReport:
        report = compare_stages(outputs, stages, *rest)
        return report.model_copy(update={"failures": ("keypoints jump",)}) if is_beyond else report

    monkeypatch.setattr(verify_engines, "measure_times", measure_all)
    monkeypatch.setattr(verify_engines, "compare_stages", compare_all)
    result = verify_bundle(two_precisions, pictures)
    found = [(item.precision, len(item.times)) for item in result.engines]
    assert found == [("fp32", 2), *([("fp16", 0)] if is_beyond else [])]
    assert result.unusable == ("cpu, fp16: out of memory",)
    assert result.failures == (["cpu fp32: keypoints jump", "cpu fp16: keypoints jump"] if is_beyond else [])


@pytest.mark.usefixtures("on_cpu_alone")
def test_nothing_that_can_be_verified_is_an_error(
    two_precisions: Bundle, pictures: ParityPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> dict[str, object]:
        raise EngineError("out of memory")

    monkeypatch.setattr(verify_engines, "compare_stages", refuse)
    with pytest.raises(EngineError, match=r"^no engine could be verified: cpu, fp32: out of memory$"):
        verify_bundle(two_precisions, pictures, precisions=ONLY_FP32)

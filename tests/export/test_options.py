"""The command line of `sharpose-export`: what goes together and what doesn't, refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from sharpose.cli import main as run_command
from sharpose.engines.tensorrt import library as tensorrt_flavour
from sharpose.errors import EngineError, ExportError
from sharpose.export import tensorrt as tensorrt_command
from sharpose.export.cli import BuildChoices, command, parse_precisions
from sharpose.export.tensorrt import build_options, engine_precision


def _error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        run_command(command, arguments)
    assert exit_info.value.code == 2
    message: str = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --output DIR, or --bundle DIR"),
        (["--output", "x"], "expected --checkpoint FILE; or --random-weights"),
        (["--bundle", "x"], "--bundle needs --tensorrt, to build engines, or --verify"),
        (["--bundle", "x", "--verify", "--output", "y"], "--output and --bundle exclude each other"),
        (["--bundle", "x", "--verify", "--checkpoint", "y"], "--checkpoint and --bundle exclude each other"),
        (["--bundle", "x", "--verify", "--random-weights"], "--random-weights and --bundle exclude each other"),
        (["--bundle", "x", "--verify", "--seed", "0"], "--seed and --bundle exclude each other"),
        (["--bundle", "x", "--verify", "--precision", "fp16"], "--precision and --max-batch need --tensorrt"),
        (["--bundle", "x", "--verify"], "bundle x: expected a folder written by sharpose-export, found nothing there"),
        (["--bundle", "x", "--verify", "--labels", "y"], "--labels needs --verify and the pictures' folder"),
        (["--output", "x", "--labels", "y", "--images", "z"], "--labels needs --verify"),
        (["--output", "x", "--workspace", "64"], "--workspace needs --tensorrt"),
        (["--output", "x", "--version-compatible"], "--version-compatible needs --tensorrt"),
        (["--output", "x", "--precision", "fp64"], "expected one or more of fp32, fp16, int8"),
        (
            ["--output", "x", "--precision", "fp16", "--verify", "--checkpoint", "c"],
            "--verify compares with fp32 graphs",
        ),
        (["--output", "x", "--tensorrt", "--optimization-level", "6"], "6 is not in the range 0<=x<=5"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in _error(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


def test_precisions_come_in_the_toolkits_order() -> None:
    context, parameter = click.Context(command), click.Option(["--precision"])
    assert parse_precisions(context, parameter, "fp16, fp32") == ("fp32", "fp16")
    assert parse_precisions(context, parameter, "fp16") == ("fp16",)
    assert parse_precisions(context, parameter, None) is None
    for wrong in ("", "fp16,", "fp16,fp16", "FP32"):
        with pytest.raises(click.BadParameter, match="expected one or more of"):
            parse_precisions(context, parameter, wrong)


def test_engines_are_fp16_where_the_bundle_is() -> None:
    assert engine_precision(("fp32", "fp16"), None) == "fp16"
    assert engine_precision(("fp32",), None) == "fp32"
    assert engine_precision(("fp32", "fp16"), ("fp32",)) == "fp32"
    with pytest.raises(ExportError, match="engines are built in one precision; give one"):
        engine_precision(("fp32", "fp16"), ("fp32", "fp16"))


def test_the_builder_is_told_what_was_asked(tmp_path: Path) -> None:
    choices = BuildChoices(
        tensorrt=True, opt_batch=2, workspace=64, optimization_level=0, timing_cache=tmp_path, hardware_compatible=True
    )
    options = build_options(choices, 8)
    assert (options.min_batch, options.opt_batch, options.max_batch) == (1, 2, 8)
    assert (options.workspace_mib, options.optimization_level) == (64, 0)
    assert options.timing_cache == tmp_path
    assert (options.hardware_compatible, options.version_compatible) == (True, False)
    with pytest.raises(EngineError, match="min 9"):
        build_options(BuildChoices(tensorrt=True, min_batch=9), 8)


def test_without_tensorrt_an_export_with_engines_stops_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_flavour, "installed_flavours", lambda names=(): ((), ("TensorRT is not installed",)))
    arguments = ["--config", "sharpose_tiny_coco_256x192", "--random-weights", "--output", str(tmp_path / "bundle")]
    message = _error([*arguments, "--tensorrt"], capsys)
    assert "TensorRT can't be used (TensorRT is not installed)" in message
    assert list(tmp_path.iterdir()) == []


def test_the_early_check_asks_for_a_gpu_where_the_build_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    flavour = tensorrt_flavour.TensorRtFlavour("tensorrt", "10.13.0", None)
    monkeypatch.setattr(tensorrt_flavour, "find_flavour", lambda name=None: flavour)

    def no_gpu(index: int = 0) -> None:
        raise EngineError("no GPU driver")

    monkeypatch.setattr("sharpose.engines.tensorrt.build.probe_gpu", no_gpu)
    with pytest.raises(EngineError, match=r"TensorRT 10\.13\.0 needs a GPU to build engines: no GPU driver"):
        tensorrt_command.check_tensorrt(BuildChoices(tensorrt=True), 8)

"""`sharpose-export` on the command line: exports, mistakes, and what goes together."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from reference_model import reference_state
from rich.console import Console

from sharpose.bundle import Bundle, open_bundle
from sharpose.cli import main
from sharpose.engines.tensorrt import build as tensorrt_build
from sharpose.engines.tensorrt import library as tensorrt_flavour
from sharpose.errors import BundleError, EngineError, ExportError, how_to_install
from sharpose.export import bundle as bundle_export
from sharpose.export import cli as export_cli
from sharpose.export.cli import command
from sharpose.export.options import CommandOptions
from sharpose.model import SHaRPose
from sharpose.serving.contract import ServedModel

TINY = ["--random-weights", "--config", "sharpose_tiny_coco_256x192"]


@pytest.fixture(autouse=True)
def keep_signal_handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def export(capsys):
    """Runs the command in this process; returns its exit code and what it wrote."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(command, [str(argument) for argument in arguments])
        return stop.value.code, capsys.readouterr()

    return run


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        blocks = rng.integers(0, 255, (12, 9, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(blocks, (180, 240), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.fixture
def released(tmp_path, nano_config):
    """A released-format file of the nano model, with an mlp as its head, of seeded random values."""
    state = SHaRPose(nano_config.replace({"head": "mlp"})).state_dict()
    values = reference_state({key: tuple(value.shape) for key, value in state.items()})
    path = tmp_path / "released.pth"
    torch.save(
        {"meta": {"epoch": 210}, "state_dict": {key: torch.from_numpy(value) for key, value in values.items()}}, path
    )
    return path


@pytest.mark.soak
def test_a_released_checkpoint_without_a_configuration(export, released, pictures, tmp_path):
    """Opset 18 at once, to trace only one model here."""
    output = tmp_path / "bundle"
    code, streams = export(
        "--checkpoint", released, "--output", output, "--images", pictures, "--opset", 18, "--max-batch", 4,
        "--alpha", 0.25, "--strict-parity",
    )  # fmt: skip
    assert code == 0, streams.err
    said = " ".join(streams.out.split())
    assert "sharpose_c24_d2_128x96 was read off the checkpoint" in said
    warnings = [line for line in streams.err.splitlines() if line.startswith("warning: checkpoint released.pth")]
    assert len(warnings) == 2  # before the export and after it
    assert "doesn't say heads 12, quality threshold 0.99, which are assumed" in warnings[1]
    assert streams.err.rstrip().endswith(warnings[1])
    assert "3 pictures of pictures" in said or "3 crops from" in said
    assert "fine heatmaps" in said
    assert f"--bundle {output}" in said
    manifest = open_bundle(output).manifest
    assert manifest.source == "checkpoint released.pth"
    assert (manifest.max_batch, manifest.model.alpha, manifest.model.num_selected) == (4, 0.25, 3)
    assert manifest.gate.chosen_by == "the model's configuration"
    assert manifest.parity["fp32"].crops == 3
    for stage in ("coarse", "fine"):
        path, entry = open_bundle(output).graph(stage)
        model = onnx.load(str(path), load_external_data=False)
        kinds = {node.op_type for node in model.graph.node}
        assert entry.opset == 18
        assert "Gelu" not in kinds
        assert {"Erf", "LayerNormalization"} <= kinds
        onnx.checker.check_model(str(path), full_check=True)


@pytest.fixture
def nano(tmp_path):
    """The arguments for the nano model with random weights."""
    values = "crop_size: [128, 96]\nwidth: 24\ndepth: 2\nheads: 12\nalpha: 0.5\nquality_threshold: 0.99\n"
    (tmp_path / "nano.yaml").write_text(f"name: nano\nskeleton: coco17\n{values}")
    return ["--random-weights", "--config", tmp_path / "nano.yaml"]


@pytest.fixture
def traced(nano_bundle, monkeypatch):
    """Spares the tracing: the nano bundle's graphs come out, with a weight negated if `corrupt`."""

    def prepare(corrupt=False):
        graphs = [onnx.load(str(nano_bundle / f"{stage}.onnx")) for stage in ("coarse", "fine")]
        if corrupt:
            tensor = max(graphs[1].graph.initializer, key=lambda item: len(item.raw_data))
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
        monkeypatch.setattr(bundle_export, "export_graphs", lambda *arguments, **options: tuple(graphs))

    return prepare


def test_what_a_build_says_at_its_end_fits_the_engines(capsys, monkeypatch, two_precisions):
    monkeypatch.setattr(tensorrt_build, "build_bundle_engines", lambda *arguments: None)

    def said(*arguments):
        options = _options("--bundle", str(two_precisions.path), "--tensorrt", *arguments)
        export_cli._build(two_precisions, options, Console(soft_wrap=True))
        return capsys.readouterr().out.strip()

    command = f"sharpose-run SOURCE --bundle {two_precisions.path} --device tensorrt"
    built = f"engines in {two_precisions.path / 'engines'}: run them with  {command}"
    assert said() == said("--precision", "fp16") == said("--tf32") == f"built fp16 {built}"
    assert said("--precision", "fp32") == f"built fp32 {built} --precision fp32"
    assert said("--precision", "fp32", "--tf32") == f"built fp32 {built} --precision fp32 --tf32"


def test_failed_parity_prints_the_table_and_one_line_and_leaves_nothing(export, traced, nano, pictures, tmp_path):
    traced(corrupt=True)
    code, streams = export(*nano, "--output", tmp_path / "out" / "bundle", "--images", pictures)
    assert code == 1
    assert streams.err.startswith("error: parity of fp32 with PyTorch failed: fine heatmaps off by")
    assert streams.err.count("\n") == 1
    assert "fine heatmaps" in streams.out
    assert list((tmp_path / "out").iterdir()) == []


def test_too_few_pictures_for_int8(export, released, pictures, tmp_path):
    asked = ("--checkpoint", released, "--precision", "int8", "--images", pictures, "--output", tmp_path / "bundle")
    code, streams = export(*asked)
    assert code == 2
    assert streams.err.splitlines(keepends=True)[-1] == (
        "error: precision int8: expected at least 64 people, half to calibrate on and half to compare on; "
        "3 pictures of pictures gives 3\n"
    )
    assert not (tmp_path / "bundle").exists()


def test_int8_beyond_its_limits_is_refused(export, traced, nano, tmp_path, monkeypatch):
    traced(corrupt=True)
    code, streams = export(*nano, "--output", tmp_path / "out" / "bundle", "--precision", "int8")
    assert code == 1
    assert streams.err.startswith("error: parity of int8 with PyTorch failed: fine heatmaps off by")
    assert streams.err.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_random_weights_are_said_and_overwrite_replaces(export, traced, nano, pictures, tmp_path):
    output = tmp_path / "bundle"
    for extra in ((), ("--overwrite", "--quality-threshold", "0.5")):
        traced()
        code, streams = export(*nano, "--output", output, "--images", pictures, *extra)
        assert code == 0, streams.err
        assert "weights: random, so the poses mean nothing" in streams.out
    manifest = json.loads((output / "bundle.json").read_text())
    assert manifest["source"] == "random weights, seed 0"
    assert manifest["gate"] == {"quality_threshold": 0.5, "chosen_by": "--quality-threshold", "gain": None}
    code, streams = export(*TINY, "--output", output)
    assert code == 2
    assert "already exists" in streams.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected --checkpoint FILE"),
        (["--checkpoint", "a.pth", "--random-weights"], "exclude each other"),
        (["--random-weights"], "--random-weights needs --config"),
        ([*TINY, "--size", "256"], "expected HEIGHTxWIDTH as in 720x1280, got '256'"),
        ([*TINY, "--size", "-256x192"], "HEIGHTxWIDTH"),
        ([*TINY, "--size", "250x192"], "multiples of 32, got 250x192"),
        ([*TINY, "--size", "0x0"], "expected 1 to 32768 pixels a side, got '0x0'"),
        (["--checkpoint", "absent.pth"], "absent.pth: expected a .pth or .safetensors file or a bundle, found nothing"),
        (["--checkpoint", "."], "found a folder"),
        (["--checkpoint", "notes.pth"], "notes.pth"),
        (["--random-weights", "--config", "sharpose_huge"], "no configuration 'sharpose_huge'"),
        (["--random-weights", "--config", "notes.pth"], "configuration notes.pth"),
        ([*TINY, "--precision", "fp13"], "fp13"),
        ([*TINY, "--max-batch", "0"], "0"),
        ([*TINY, "--alpha", "0"], "alpha"),
        ([*TINY, "--alpha", "1.5"], "alpha"),
        ([*TINY, "--quality-threshold", "nan"], "expected a finite number, got 'nan'"),
        ([*TINY, "--quality-threshold", "high"], "high"),
        ([*TINY, "--opset", "17", "--images", "pictures"], "expected 18 to 22, got '17'"),
        ([*TINY, "--opset", "23", "--images", "pictures"], "expected 18 to 22, got '23'"),
        ([*TINY, "--images", "absent"], "--images absent: expected a folder of pictures"),
        ([*TINY, "--images", "empty"], "empty"),
        ([*TINY, "--colour", "red"], "--colour"),
        ([*TINY, "extra"], "extra"),
    ],
)
def test_a_mistake_is_one_line_and_2_and_leaves_nothing(export, monkeypatch, pictures, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("notes.pth").write_text("only words\n")
    before = sorted(tmp_path.iterdir())
    code, streams = export(*arguments, "--output", "bundle")
    assert code == 2, streams
    assert streams.err.startswith("error: ")
    assert streams.err.count("\n") == 1
    assert words in streams.err
    assert "Traceback" not in streams.err
    assert sorted(tmp_path.iterdir()) == before


def test_no_output_and_a_file_in_its_place(export, tmp_path):
    code, streams = export(*TINY)
    assert code == 2
    assert "--output" in streams.err
    (tmp_path / "file").write_text("")
    for extra in ((), ("--overwrite",)):
        code, streams = export(*TINY, "--output", tmp_path / "file", *extra)
        assert code == 2
        assert streams.err.count("\n") == 1
    assert (tmp_path / "file").read_text() == ""


def test_debug_shows_the_traceback(export, tmp_path):
    code, streams = export("--checkpoint", tmp_path / "absent.pth", "--output", tmp_path / "bundle", "--debug")
    assert code == 2
    assert "Traceback" in streams.err
    assert streams.err.splitlines()[-1].startswith("error: checkpoint ")


def test_the_installed_command_fails_in_one_line(tmp_path):
    tool = "import sys; from sharpose.export.cli import main; sys.argv[0] = 'sharpose-export'; main()"
    done = subprocess.run(
        [sys.executable, "-c", tool, "--output", str(tmp_path / "bundle")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: expected --checkpoint FILE")


def test_help_needs_no_torch(tmp_path):
    tool = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; from sharpose.export.cli import main; "
        "sys.argv = ['sharpose-export', '--help']; main()"
    )
    done = subprocess.run([sys.executable, "-c", tool], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for option in ("--checkpoint", "--config", "--output", "--size", "--max-batch", "--opset", "--strict-parity"):
        assert option in done.stdout


def test_what_is_not_installed_is_named(export, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "yaml", None)
    code, streams = export(*TINY, "--output", tmp_path / "bundle")
    assert code == 2
    assert streams.err == f"error: sharpose-export needs onnxscript and yaml: {how_to_install('cpu,export')}\n"


def _error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        main(command, arguments)
    assert exit_info.value.code == 2
    message: str = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --output DIR, or --bundle DIR"),
        (["--output", "x"], "expected --checkpoint FILE; or --random-weights"),
        (
            ["--output", "x", "--checkpoint", "a.pth", "--precision", "int8"],
            "--precision int8 needs pictures of people as --images, at least 64 of them",
        ),
        (["--bundle", "x"], "--bundle needs --tensorrt, to build engines, --verify, to compare them, or --triton"),
        (["--bundle", "x", "--verify", "--overwrite"], "--overwrite and --bundle exclude each other"),
        (["--bundle", "x", "--triton", "x"], "--triton: expected a folder of its own, not the bundle's"),
        (["--bundle", "x", "--triton", "y", "--precision", "fp32,fp16"], "--triton serves one precision"),
        (["--bundle", "x", "--triton", "y", "--images", "z"], "--images needs --verify where nothing is exported"),
        (["--bundle", "x", "--verify", "--triton-layout", "graphs"], "--triton-layout needs --triton"),
        (["--bundle", "x", "--triton", "x/../x/served"], "not the bundle's, in it or around it"),
        (["--bundle", "x/bundle", "--triton", "x", "--overwrite"], "not the bundle's, in it or around it"),
        (["--output", "x/y/bundle", "--triton", "x"], "not the bundle's, in it or around it"),
        (["--bundle", "x", "--triton", "y", "--tensorrt", "--tf32"], "--tf32 and --triton exclude each other"),
        (["--bundle", "x", "--verify", "--device", "cuda"], "--device is for --triton, in the layout product"),
        (
            ["--bundle", "x", "--triton", "y", "--triton-layout", "graphs", "--device", "cuda"],
            "--device is for --triton, in the layout product",
        ),
        (["--bundle", "x", "--verify", "--output", "y"], "--output and --bundle exclude each other"),
        (["--bundle", "x", "--verify", "--checkpoint", "y"], "--checkpoint and --bundle exclude each other"),
        (["--bundle", "x", "--verify", "--random-weights"], "--random-weights and --bundle exclude each other"),
        (["--bundle", "x", "--verify", "--seed", "0"], "--seed and --bundle exclude each other"),
        (["--bundle", "x", "--verify", "--max-batch", "2"], "--max-batch needs --tensorrt where nothing is exported"),
        (["--bundle", "x", "--verify"], "bundle x: expected a folder written by sharpose-export, found nothing there"),
        (["--bundle", "x", "--verify", "--labels", "y"], "--labels needs --verify and the pictures' folder"),
        (["--output", "x", "--labels", "y", "--images", "z"], "--labels needs --verify"),
        (["--output", "x", "--workspace", "64"], "--workspace needs --tensorrt"),
        (["--output", "x", "--optimization-level", "0"], "--optimization-level needs --tensorrt"),
        (["--output", "x", "--version-compatible"], "--version-compatible needs --tensorrt"),
        (["--output", "x", "--precision", "fp64"], "expected one or more of fp32, fp16, bf16, int8"),
        (
            ["--output", "x", "--precision", "fp16", "--verify", "--checkpoint", "c"],
            "--verify compares with fp32 graphs",
        ),
        (["--output", "x", "--tensorrt", "--optimization-level", "6"], "expected 0 to 5, got '6'"),
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


def _options(*arguments: str) -> CommandOptions:
    return CommandOptions(**command.make_context("sharpose-export", list(arguments)).params)


def test_precisions_come_in_the_toolkits_order() -> None:
    given = ("--output", "x", "--checkpoint", "y")
    assert _options(*given, "--precision", "fp16, fp32").exported == ("fp32", "fp16")
    assert _options(*given, "--precision", "fp16").exported == ("fp16",)
    assert _options(*given).exported == ("fp32",)
    for wrong in (",", "fp16,", "FP32"):
        with pytest.raises(click.BadParameter, match="expected one or more of"):
            _options(*given, "--precision", wrong)
    with pytest.raises(click.BadParameter, match="'fp16,fp16' repeats a precision"):
        _options(*given, "--precision", "fp16,fp16")


def test_engines_are_fp16_where_the_bundle_is(two_precisions: Bundle, nano_bundle: Path) -> None:
    build, one = ("--bundle", "x", "--tensorrt"), open_bundle(nano_bundle)
    assert _options(*build).engine_precision(two_precisions) == "fp16"
    assert _options(*build).engine_precision(one) == "fp32"
    assert _options(*build, "--precision", "fp32").engine_precision(two_precisions) == "fp32"
    exported = _options("--output", "x", "--checkpoint", "y", "--tensorrt", "--precision", "fp32,fp16")
    assert exported.engine_precision(two_precisions) == "fp16"
    with pytest.raises(ExportError, match="engines are built in one precision; give one"):
        _options(*build, "--precision", "fp32,fp16").engine_precision(two_precisions)
    with pytest.raises(BundleError, match=r"holds fp32 graphs, not fp16; export it with --precision fp32,fp16$"):
        _options(*build, "--precision", "fp16").engine_precision(one)


def test_the_builder_is_told_what_was_asked() -> None:
    build = ("--bundle", "x", "--tensorrt")
    words = "--opt-batch 1,2 --tf32 --workspace 64 --optimization-level 0 --timing-cache file --hardware-compatible"
    options = _options(*build, *words.split()).build_options(8)
    assert (options.min_batch, options.opt_batch, options.max_batch) == (1, (1, 2), 8)
    assert (options.workspace_mib, options.optimization_level) == (64, 0)
    assert options.timing_cache == Path("file")
    assert (options.hardware_compatible, options.version_compatible, options.tf32) == ("ampere-plus", False, True)
    exact = _options(*build, "--hardware-compatible", "same-compute-capability").build_options(8)
    assert (exact.hardware_compatible, exact.tf32, exact.opt_batch) == ("same-compute-capability", False, None)
    with pytest.raises(EngineError, match="min 9"):
        _options(*build, "--min-batch", "9").build_options(8)


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
        export_cli._check_tensorrt(_options("--bundle", "x", "--tensorrt"), 8)


def test_a_repository_for_triton_is_written_whole_or_not_at_all(export, nano_bundle, tmp_path):
    folder = tmp_path / "repository"
    code, streams = export("--bundle", nano_bundle, "--triton", folder, "--precision", "fp32", "--device", "auto")
    assert code == 0, streams.err
    assert streams.out.startswith("sharpose: both stages on auto, ")
    assert streams.out.splitlines()[-1] == (
        f"wrote {folder}: serve it with  tritonserver --model-repository {shlex.quote(str(folder))}"
    )
    bundle = open_bundle(nano_bundle)
    version = str(ServedModel.of(bundle).version)
    assert open_bundle(folder / "sharpose" / version / "bundle").manifest == bundle.manifest
    assert '"precision" value { string_value: "fp32" }' in (folder / "sharpose" / "config.pbtxt").read_text()

    code, streams = export("--bundle", nano_bundle, "--triton", folder)
    assert (code, streams.err) == (
        2,
        f"error: --triton {folder}: already exists; give another folder or --overwrite\n",
    )
    code, streams = export(
        "--bundle", nano_bundle, "--triton", folder, "--triton-layout", "graphs", "--overwrite"
    )  # fmt: skip
    assert code == 0, streams.err
    assert sorted(path.name for path in folder.iterdir()) == ["sharpose", "sharpose_coarse", "sharpose_fine"]
    code, streams = export("--bundle", nano_bundle, "--triton", folder, "--precision", "int8", "--overwrite")
    assert code == 2
    assert "not int8; export it with --precision" in streams.err
    assert (folder / "sharpose_fine" / "1" / "model.onnx").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("dear")
    code, streams = export("--bundle", nano_bundle, "--triton", tmp_path / "photos", "--overwrite")
    assert code == 2
    assert "is not a model repository, so --overwrite won't replace it" in streams.err
    (folder / "yolo").mkdir()
    code, streams = export("--bundle", nano_bundle, "--triton", folder, "--overwrite")
    assert (code, streams.err) == (
        2,
        f"error: --triton {folder}: holds yolo too, which --overwrite would remove; move it elsewhere\n",
    )
    assert (folder / "yolo").is_dir()


def test_an_export_may_be_served_at_once(export, traced, nano, pictures, tmp_path):
    traced()
    folder = tmp_path / "repository"
    code, streams = export(*nano, "--output", tmp_path / "bundle", "--images", pictures, "--triton", folder)
    assert code == 0, streams.err
    version = str(ServedModel.of(open_bundle(tmp_path / "bundle")).version)
    assert (folder / "sharpose" / version / "bundle" / "weights.bin").is_file()

"""What `sharpose-run` refuses: command lines, outputs, bundles, devices; in one line, with exit code 2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
from cli_files import SCENE, Run


def test_torch_is_not_there(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import torch"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "import of torch halted" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "SOURCE"),
        (["a.mp4"], "a.mp4"),
        (["a.mp4", "b.mp4", "--json", "o.jsonl"], "put {source} into its name"),
        (
            ["a.mp4", "--bundle", "b", "--boxes", "x.json", "--full-frame"],
            "--boxes and --full-frame exclude each other",
        ),
        (
            ["a.mp4", "--bundle", "b", "--boxes", "x.json", "--detector", "d.onnx"],
            "--boxes and --detector exclude each other",
        ),
        (["a.mp4", "--bundle", "b", "--refine", "sometimes"], "'sometimes'"),
        (["a.mp4", "--bundle", "b", "--max-people", "0"], "--max-people"),
        (["a.mp4", "--bundle", "b", "--threads", "0"], "--threads"),
        (["a.mp4", "--bundle", "b", "--kpt-thr", "high"], "--kpt-thr"),
        (["a.mp4", "--bundle", "b", "--quality-threshold", "high"], "--quality-threshold"),
        (["a.mp4", "--bundle", "b", "--fast"], "--fast"),
    ],
)
def test_a_wrong_command_line(refused: Callable[..., str], arguments: list[str], words: str) -> None:
    assert words in refused(*arguments, bundle=None, to=[])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["in.mp4", "--output", "in.mp4"], "would overwrite the source"),
        (["in.mp4", "--output", "sub/../link.mp4"], "would overwrite the source"),
        (["file://{here}/in.mp4", "--output", "in.mp4"], "would overwrite the source"),
        (["in.mp4", "--json", "out", "--coco", "out"], "are the same; give each its own"),
        (["in.mp4", "--boxes", "boxes.json", "--coco", "boxes.json"], "would overwrite the input boxes.json"),
        (["in.mp4", "--detector", "d.onnx", "--json", "d.onnx"], "would overwrite the input d.onnx"),
        (["in.mp4", "--json", "bundle/bundle.json"], "lies in the bundle's folder"),
        (["in.mp4", "--json", "sub"], "is a folder"),
    ],
)
def test_outputs_never_overwrite_inputs(
    refused: Callable[..., str], tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "in.mp4").write_bytes(b"the user's only copy")
    (tmp_path / "link.mp4").symlink_to("in.mp4")
    (tmp_path / "sub").mkdir()
    arguments = [argument.format(here=tmp_path) for argument in arguments]
    assert words in refused(*arguments, "--bundle", "bundle", bundle=None, to=[])
    assert (tmp_path / "in.mp4").read_bytes() == b"the user's only copy"


def bundle_with(change: Callable[[Path], object]) -> Callable[[Path, Path], Path]:
    def make(tiny: Path, folder: Path) -> Path:
        shutil.copytree(tiny, folder)
        change(folder)
        return folder

    return make


def flip_a_byte(folder: Path) -> None:
    with (folder / "weights.bin").open("r+b") as file:
        file.seek(10_000_000)
        byte = file.read(1)[0]
        file.seek(10_000_000)
        file.write(bytes([byte ^ 1]))


def point_outside(folder: Path) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["weights"] = "../../x"
    manifest["files"]["../../x"] = manifest["files"].pop("weights.bin")
    (folder / "bundle.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda tiny, folder: folder, "found nothing there", id="missing"),
        pytest.param(lambda tiny, folder: tiny / "bundle.json", "found a file there", id="a file"),
        pytest.param(lambda tiny, folder: tiny.parent, "no bundle.json in it", id="a directory"),
        pytest.param(bundle_with(flip_a_byte), "weights.bin is damaged or was changed", id="one byte"),
        pytest.param(bundle_with(point_outside), "'../../x' leaves the bundle's folder", id="outside"),
        pytest.param(
            bundle_with(lambda folder: (folder / "fine.onnx").unlink()), "fine.onnx is missing", id="a file less"
        ),
        pytest.param(
            bundle_with(lambda folder: shutil.copy(folder / "fine.onnx", folder / "bundle.json")),
            "can't be read as JSON",
            id="broken json",
        ),
    ],
)
def test_a_bundle_that_is_none(
    refused: Callable[..., str],
    tiny_bundle: Path,
    tmp_path: Path,
    make: Callable[[Path, Path], Path],
    words: str,
) -> None:
    message = refused(SCENE, bundle=make(tiny_bundle, tmp_path / "copy"))
    assert message.startswith("error: bundle ")
    assert words in message


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "", "tensorrt"])
def test_a_device_that_is_none(refused: Callable[..., str], device: str) -> None:
    if device == "tensorrt" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there may be one here")
    message = refused(SCENE, "--device", device)
    if device != "tensorrt":
        assert "device: expected cpu, cuda[:i]" in message
        assert repr(device) in message


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there")
def test_a_device_that_is_not_there(refused: Callable[..., str]) -> None:
    message = refused(SCENE, "--device", "cuda:1")
    assert message.startswith("error: device cuda:1: ")
    assert 'pip install "sharpose[gpu]"' in message


def test_a_threshold_that_is_no_number(refused: Callable[..., str]) -> None:
    assert "quality_threshold: expected a number, got NaN" in refused(SCENE, "--quality-threshold", "nan")


def test_an_output_that_cannot_be_written(sharpose_run: Run, refused: Callable[..., str], tmp_path: Path) -> None:
    assert ".mp4" in refused(SCENE, to=["--output", "o.gif"])
    (tmp_path / "file").write_text("no folder")
    assert "file/o.jsonl" in refused(SCENE, to=["--json", "file/o.jsonl"])
    assert (tmp_path / "file").read_text() == "no folder"


def test_debug_shows_where(sharpose_run: Run) -> None:
    done = sharpose_run("nowhere.mp4", "--full-frame", "--debug")
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("error: nowhere.mp4: no such file")

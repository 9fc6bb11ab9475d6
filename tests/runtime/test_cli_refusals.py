"""What `sharpose-run` refuses, in one line and with exit code 2: options, outputs, bundles, devices, sources, boxes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from cli_files import SCENE, Run, write_boxes, write_detector, write_video

from sharpose.errors import how_to_install


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
        (
            ["a.mp4", "--full-frame", "--detector-device", "cuda"],
            "--detector-device is for --detector FILE or NAME, which isn't given",
        ),
        (
            ["a.mp4", "--detector", "motion", "--detector-device", "cpu"],
            "--detector-device is for --detector FILE or NAME, got --detector motion",
        ),
        (
            ["a.mp4", "--detector", "motion", "--detector-mean", "1,2,3"],
            "--detector-mean is for --detector FILE or NAME, got --detector motion",
        ),
        (
            ["a.mp4", "--detector", "d.onnx", "--engine-cache", "folder"],
            "--engine-cache is for --device tensorrt or ort-tensorrt, got --device cpu",
        ),
        (["a.mp4", "--bundle", "b", "--refine", "sometimes"], "'sometimes'"),
        (["a.mp4", "--alpha", "0"], "--alpha': expected above 0 to 1, got '0'"),
        (["a.mp4", "--alpha", "nan"], "--alpha"),
        (["a.mp4", "--alpha", "1.1"], "--alpha"),
        (["a.mp4", "--alpha", "0.3", "--refine", "never"], "--alpha is for --refine auto or always"),
        (["a.mp4", "--bundle", "b", "--max-people", "0"], "--max-people"),
        (["a.mp4", "--bundle", "b", "--threads", "0"], "--threads"),
        (["a.mp4", "--bundle", "b", "--kpt-thr", "high"], "--kpt-thr"),
        (["a.mp4", "--output", "o.mp4", "--kpt-thr", "2"], "expected 0 to 1, got '2'"),
        (["a.mp4", "--bundle", "b", "--quality-threshold", "high"], "--quality-threshold"),
        (["a.mp4", "--bundle", "b", "--fast"], "--fast"),
    ],
)
def test_a_wrong_command_line(refused: Callable[..., str], arguments: list[str], words: str) -> None:
    assert words in refused(*arguments, bundle=None, to=[])


@pytest.mark.parametrize(
    "option", ["--json", "--coco", "--csv", "--angles", "--openpose", "--frames", "--boxes", "--detector", "--bundle"]
)
@pytest.mark.parametrize("url", ["rtmp://127.0.0.1:1/live/hunter2", "file:///tmp/hunter2"])
def test_an_address_where_a_file_is_expected(
    refused: Callable[..., str], tmp_path: Path, option: str, url: str
) -> None:
    line = refused(SCENE, option, url, bundle=None, to=[])
    assert line == f"error: {option}: expected a path on this machine, got an address\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--stride", "1" + "0" * 400),
        ("--device", "cuda:" + "9" * 5000),
        ("--kpt-thr", "nan"),
        ("--stdin-size", "99999999x99999999"),
    ],
)
def test_values_beyond_all_limits(refused: Callable[..., str], option: str, value: str) -> None:
    line = refused("scene:frames=1,size=64x64", option, value)
    assert "defect" not in line


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("RTSP://me:hunter2@127.0.0.1:1/", "can't be opened as one: Connection refused"),
        ("rtsp://me:hunter2#x@127.0.0.1:1/", "write # as %23, / as %2F and ? as %3F"),
        ("rtsp://me:1/hunter2@127.0.0.1:1/", "write # as %23, / as %2F and ? as %3F"),
        ("rtmp://127.0.0.1:1/live/hunter2", "error: rtmp://127.0.0.1:1/live/***: expected a stream"),
    ],
)
def test_secrets_of_a_source_that_is_not_there(refused: Callable[..., str], source: str, words: str) -> None:
    line = refused(source, "--full-frame", "--timeout", 2)
    assert words in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["in.mp4", "--output", "in.mp4"], "would overwrite the source"),
        (["in.mp4", "--output", "sub/../link.mp4"], "would overwrite the source"),
        (["file://{here}/in.mp4", "--output", "in.mp4"], "would overwrite the source"),
        (["in.mp4", "--output", "sub/hard.mp4", "--overwrite"], "would overwrite the source"),
        (["in.mp4", "--output", "/proc/self/cwd/in.mp4"], "would overwrite the source"),
        (["a[b].mp4", "--json", "a[b].mp4"], "would overwrite the source"),
        (["pictures", "--json", "pictures/1.png", "--overwrite"], "would overwrite the source"),
        (["pictures/*.png", "--json", "{here}/pictures/1.png", "--overwrite"], "would overwrite the source"),
        (["pictures", "--frames", "pictures"], "would overwrite the source"),
        (["pictures/1.png", "--frames", "./pictures", "--overwrite"], "is the folder of the source's pictures"),
        (["pictures/*", "--frames", "pictures", "--overwrite"], "is the folder of the source's pictures"),
        (["in.mp4", "--csv", "{name}.csv"], "--csv {name}.csv: {name}: expected no word in braces but {source}"),
        (["in.mp4", "--boxes", "{name}.json"], "{name}: expected no word in braces but {source}"),
        (["in.mp4", "--json", "out", "--coco", "out"], "are the same; give each its own"),
        (["in.mp4", "--json", "folder/new/out", "--coco", "sub/new/out"], "are the same; give each its own"),
        (["in.mp4", "--json", "one", "--coco", "sub/one"], "are the same; give each its own"),
        (["in.mp4", "--json", "one"], "one already exists; give another name, or --overwrite"),
        (
            ["in.mp4", "--detector", "x", "--detector-table", "one", "--json", "sub/one"],
            "would overwrite the input one",
        ),
        (["in.mp4", "--json", "new/../one"], "output new/../one: there is no folder new; leave out the .."),
        (["in.mp4", "--json", "a" * 300], "File name too long"),
        (["in.mp4", "--json", f"new/{'a' * 300}"], "File name too long"),
        (["in.mp4", "--json", "broken/new/o.jsonl"], "expected a folder, found the broken link broken; give another"),
        (["in.mp4", "--coco", "-"], "--coco -: standard output takes --angles --csv --json --mot only"),
        (["in.mp4", "--json", "-", "--csv", "-"], "--csv - and --json - are the same; give each its own"),
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
    (tmp_path / "a[b].mp4").write_bytes(b"a name like a glob's")
    (tmp_path / "sub").mkdir()
    (tmp_path / "folder").symlink_to("sub")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "sub" / "hard.mp4").hardlink_to(tmp_path / "in.mp4")
    (tmp_path / "one").write_text("result")
    (tmp_path / "sub" / "one").hardlink_to(tmp_path / "one")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.png").write_bytes(b"a picture")
    arguments = [argument.replace("{here}", str(tmp_path)) for argument in arguments]
    assert words in refused(*arguments, "--bundle", "bundle", bundle=None, to=[])
    assert (tmp_path / "in.mp4").read_bytes() == b"the user's only copy"
    assert (tmp_path / "one").read_text() == "result"
    assert (tmp_path / "pictures" / "1.png").read_bytes() == b"a picture"


def bundle_with(change: Callable[[Path], object]) -> Callable[[Path, Path], Path]:
    def make(nano: Path, folder: Path) -> Path:
        shutil.copytree(nano, folder)
        change(folder)
        return folder

    return make


def flip_a_byte(folder: Path) -> None:
    with (folder / "weights.bin").open("r+b") as file:
        file.seek(100_000)
        byte = file.read(1)[0]
        file.seek(100_000)
        file.write(bytes([byte ^ 1]))


def point_outside(folder: Path) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["weights"] = "../../x"
    manifest["files"]["../../x"] = manifest["files"].pop("weights.bin")
    (folder / "bundle.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda nano, folder: folder, "found nothing there", id="missing"),
        pytest.param(lambda nano, folder: nano / "bundle.json", "found a file there", id="a file"),
        pytest.param(lambda nano, folder: nano.parent, "no bundle.json in it", id="a directory"),
        pytest.param(bundle_with(flip_a_byte), "weights.bin is damaged or was changed", id="one byte"),
        pytest.param(bundle_with(point_outside), "'../../x' leaves the bundle's folder", id="outside"),
        pytest.param(
            bundle_with(lambda folder: (folder / "fine.onnx").unlink()), "fine.onnx is missing", id="a file less"
        ),
        pytest.param(
            bundle_with(lambda folder: shutil.copy(folder / "fine.onnx", folder / "bundle.json")),
            "bundle.json: not JSON",
            id="broken json",
        ),
    ],
)
def test_a_bundle_that_is_none(
    refused: Callable[..., str],
    nano_bundle: Path,
    tmp_path: Path,
    make: Callable[[Path, Path], Path],
    words: str,
) -> None:
    message = refused(SCENE, bundle=make(nano_bundle, tmp_path / "copy"))
    assert message.startswith("error: bundle ")
    assert words in message


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "cuda:١", "tensorrt"])
def test_a_device_that_is_none(refused: Callable[..., str], device: str) -> None:
    if device == "tensorrt" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there may be one here")
    message = refused(SCENE, "--device", device)
    if device != "tensorrt":
        expected = (
            "auto, cpu, cuda[:i], tensorrt[:i], ort-tensorrt[:i], openvino[:CPU|GPU[.i]|NPU], coreml or directml[:i]"
        )
        assert f"'--device': expected {expected}, got {device!r}" in message


def test_a_detectors_device_that_is_none_before_anything_is_downloaded(refused: Callable[..., str]) -> None:
    message = refused("a.mp4", "--detector-device", "AUTO")
    assert "'--detector-device': expected auto, cpu, " in message


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there")
def test_a_device_that_is_not_there(refused: Callable[..., str]) -> None:
    message = refused(SCENE, "--device", "cuda:1")
    assert message.startswith("error: device cuda:1: ")
    assert how_to_install("gpu") in message


def test_a_threshold_that_is_no_number(refused: Callable[..., str]) -> None:
    assert "expected a finite number, got 'nan'" in refused(SCENE, "--quality-threshold", "nan")


@pytest.mark.parametrize("encoder", ["h264", "h265"])
def test_a_preset_that_is_none(refused: Callable[..., str], encoder: str) -> None:
    message = refused(SCENE, "--encoder", encoder, "--preset", "nope")
    assert f"video encoder {encoder}: not usable here (it doesn't open with preset nope)" in message


@pytest.mark.parametrize("arguments", [[SCENE, "--start", "100"], ["video.mp4", "--full-frame", "--duration", "1e-9"]])
def test_a_part_without_a_frame(refused: Callable[..., str], video: Path, arguments: list[str]) -> None:
    assert "ended without a frame; check --start and --duration" in refused(*arguments)


def test_an_output_that_cannot_be_written(sharpose_run: Run, refused: Callable[..., str], tmp_path: Path) -> None:
    assert ".mp4" in refused(SCENE, to=["--output", "o.gif"])
    (tmp_path / "file").write_text("no folder")
    for option, target in (("--json", "file/o.jsonl"), ("--trc", "file/new/markers")):
        message = refused(SCENE, to=[option, target])
        assert message == f"error: output {target}: expected a folder, found the file file; give another name\n"
    assert (tmp_path / "file").read_text() == "no folder"


def test_debug_shows_where(sharpose_run: Run) -> None:
    done = sharpose_run("nowhere.mp4", "--full-frame", "--debug")
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("error: nowhere.mp4: no such file")


def half_a_header(folder: Path) -> str:
    whole = write_video(folder / "whole.mp4", faststart=True).read_bytes()
    (folder / "half.mp4").write_bytes(whole[:300])
    return "half.mp4"


def made(name: str, content: bytes | None = None) -> Callable[[Path], str]:
    """Makes a file, or a folder where there is no content, and names it."""

    def make(folder: Path) -> str:
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
        return name

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda folder: "nowhere.mp4", "nowhere.mp4: no such file or folder", id="missing"),
        pytest.param(made("text.mp4", b"Dear diary,\n" * 400), "text.mp4", id="text as mp4"),
        pytest.param(made("text.txt", b"Dear diary,\n" * 400), "text.txt", id="text"),
        pytest.param(made("empty.mp4", b""), "found an empty file", id="empty file"),
        pytest.param(half_a_header, "half.mp4", id="half a header"),
        pytest.param(made("folder"), "the folder holds no file", id="empty folder"),
        pytest.param(lambda folder: "*.jpg", "the glob matches no file", id="empty glob"),
        pytest.param(
            made("bad.jpg", b"\xff\xd8\xff\xe0 no more"), "its content isn't that of a JPEG", id="damaged picture"
        ),
        pytest.param(lambda folder: "scene:cats=3", "unknown key 'cats'", id="scene"),
    ],
)
def test_a_source_that_is_none(
    refused: Callable[..., str], tmp_path: Path, make: Callable[[Path], str], words: str
) -> None:
    message = refused(make(tmp_path), "--full-frame")
    assert words in message
    assert not (tmp_path / "results").exists()


NEGATIVE = b'[{"image_id": 0, "category_id": 1, "bbox": [10, 10, -5, 20], "score": 1}]'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(NEGATIVE.replace(b"-5", b"NaN"), "finite numbers", id="nan"),
        pytest.param(NEGATIVE, "not negative", id="negative size"),
        pytest.param(b"[{", "expected JSON", id="no json"),
        pytest.param(None, "can't read the boxes file", id="missing"),
    ],
)
def test_a_boxes_file_that_is_none(
    refused: Callable[..., str], video: Path, tmp_path: Path, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "b.json").write_bytes(content)
    message = refused(video, "--boxes", "b.json")
    assert message.startswith("error: b.json: ")
    assert words in message


def test_boxes_of_another_video(refused: Callable[..., str], video: Path, tmp_path: Path) -> None:
    foreign = write_boxes(tmp_path / "foreign.json", [(500, (1, 1, 9, 9), 1.0), (501, (1, 1, 9, 9), 1.0)])
    message = refused(video, "--boxes", foreign)
    assert "none of its image ids occurs in the source: the file has 2 ids from 500 to 501" in message


def test_boxes_of_other_pictures(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "12.png"), np.zeros((40, 40, 3), np.uint8))
    foreign = write_boxes(tmp_path / "foreign.json", [(0, (1, 1, 9, 9), 1.0)])
    assert "the file has only 0, the source only 12" in refused("pictures", "--boxes", foreign)
    assert not (tmp_path / "results").exists()  # said before anything is run


@pytest.mark.parametrize("mirror", ["http://me:secret@localhost/x", "http://host/x", "ftp://host/x", "/folder"])
def test_a_mirror_that_is_none(refused: Callable[..., str], sharpose_run: Run, video: Path, mirror: str) -> None:
    done = sharpose_run(video, "--json", "o.jsonl", SHARPOSE_DETECTOR_MIRROR=mirror)
    (error,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert error.startswith("error: SHARPOSE_DETECTOR_MIRROR: expected the address of a folder")
    assert "secret" not in error


@pytest.mark.parametrize("detector", ["wrong size", "text", "missing"])
def test_a_detector_that_is_none(refused: Callable[..., str], video: Path, tmp_path: Path, detector: str) -> None:
    path = tmp_path / "d.onnx"
    if detector == "wrong size":  # as many anchors as at another input size
        write_detector(path, output=np.zeros((1, 8400, 85), np.float32))
    elif detector == "text":
        path.write_text("no graph")
    assert refused(video, "--detector", "d.onnx").startswith("error: detector d.onnx: ")

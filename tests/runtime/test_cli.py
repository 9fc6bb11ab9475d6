"""`sharpose-run` as a user meets it: a process of its own, on a machine where importing torch fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

PROGRAM = Path(sys.executable).with_name("sharpose-run")
STAGES = ["read", "boxes", "crop", "coarse", "gate", "gather", "fine", "map back", "write"]
SCENE = "scene:frames=4,size=240x320,people=3"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The process's own environment, but for torch: `import torch` fails as where it isn't installed."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    return os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "100"}


@pytest.fixture
def sharpose_run(environment: dict[str, str], tiny_bundle: Path, tmp_path: Path) -> Run:
    """Runs the program in a folder of its own; `bundle` stands for the tiny bundle's folder."""

    def run(
        *arguments: object, bundle: Path | None = tiny_bundle, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        given = [] if bundle is None else ["--bundle", bundle, "--threads", 1]
        return subprocess.run(
            [PROGRAM, *map(str, (*arguments, *given))],
            cwd=tmp_path,
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run


def outputs(folder: Path) -> list[object]:
    return ["--output", folder / "o.mp4", "--json", folder / "o.jsonl", "--coco", folder / "o.json"]


@pytest.fixture
def refused(sharpose_run: Run, tiny_bundle: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs what must be refused: one line, exit code 2, and nothing that could be taken for a result."""

    def run(*arguments: object, bundle: Path | None = tiny_bundle, to: Sequence[object] | None = None) -> str:
        folder = tmp_path / "results"
        done = sharpose_run(*arguments, *(outputs(folder) if to is None else to), bundle=bundle)
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert done.stderr.endswith("\n")
        assert "Traceback" not in done.stderr
        assert not [path for path in folder.glob("*") if ".partial." not in path.name]
        return done.stderr

    return run


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def people_of(path: Path) -> list[list[dict[str, Any]]]:
    return [line["people"] for line in lines_of(path)]


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return sum(1 for _ in container.decode(video=0))


def table_of(text: str) -> dict[str, list[float]]:
    """The numbers of the table that ends a run, by stage."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines()]
    return {row[0]: [float(cell) for cell in row[1:]] for row in rows if row[0] in STAGES}


def write_video(path: Path, frames: int = 6, *, faststart: bool = False) -> Path:
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for index in range(frames):
            noise = np.random.default_rng(index).integers(0, 256, (96, 128, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def write_boxes(path: Path, boxes: Sequence[tuple[int, Sequence[float], float]]) -> Path:
    entries = [{"image_id": i, "category_id": 1, "bbox": list(box), "score": score} for i, box, score in boxes]
    path.write_text(json.dumps(entries))
    return path


def write_detector(path: Path, **constants: np.ndarray) -> Path:
    """A graph of one input [1, 3, 96, 128] that says the same of every picture."""
    types = {"f": TensorProto.FLOAT, "i": TensorProto.INT64}
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_value"], [name]) for name in constants],
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 96, 128])],
        [helper.make_tensor_value_info(n, types[v.dtype.kind], v.shape) for n, v in constants.items()],
        [numpy_helper.from_array(value, f"{name}_value") for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "video.mp4")


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """Three people in frame 0, two in frame 2, one in a frame that never comes."""
    return write_boxes(
        tmp_path / "boxes.json",
        [
            (0, (5, 5, 40, 80), 0.5),
            (2, (-10, 20, 60.5, 90), 0.75),
            (0, (60, 10, 30, 60), 0.9),
            (0, (80, 50, 1, 1), 0.25),
            (2, (30, 30, 0, 0), 1.0),
            (77, (1, 1, 5, 5), 1.0),
        ],
    )


# -- What is refused ---------------------------------------------------------------------------------------------------


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
        (["a.mp4"], "--bundle"),
        (["a.mp4", "b.mp4", "--bundle", "b"], "b.mp4"),
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
        (["in.mp4", "--json", "out", "--coco", "out"], "would overwrite another output"),
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
        pytest.param(made("bad.jpg", b"\xff\xd8\xff\xe0 no more"), "can't be decoded", id="damaged picture"),
        pytest.param(lambda folder: "scene:cats=3", "unknown key 'cats'", id="scene"),
    ],
)
def test_a_source_that_is_none(
    refused: Callable[..., str], tmp_path: Path, make: Callable[[Path], str], words: str
) -> None:
    message = refused(make(tmp_path), "--full-frame")
    assert words in message
    assert not (tmp_path / "results").exists()


def test_a_video_that_breaks_in_the_middle(sharpose_run: Run, tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "broken.mp4", 60, faststart=True).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 6000] = bytes(6000)
    (tmp_path / "broken.mp4").write_bytes(data)
    done = sharpose_run("broken.mp4", "--full-frame", "--refine", "never", *outputs(tmp_path / "results"))
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert error.startswith("error: broken.mp4: broken near frame ")
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        "o.partial.mp4",
        "o.partial.jsonl",
        "o.partial.json",
    }
    lines = lines_of(tmp_path / "results" / "o.partial.jsonl")
    assert 0 < len(lines) < 60
    assert frames_of(tmp_path / "results" / "o.partial.mp4") == len(lines)
    assert f"the {len(lines)} frames before it are kept in " in error
    assert "o.partial.mp4" in error
    assert f"frames {len(lines)}, people {len(lines)}" in done.stdout
    assert "wrote" not in done.stdout


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


def test_no_boxes_at_all(refused: Callable[..., str], video: Path) -> None:
    message = refused(video)
    assert all(option in message for option in ("--boxes", "--detector", "--full-frame"))


@pytest.mark.parametrize("detector", ["wrong size", "text", "missing"])
def test_a_detector_that_is_none(refused: Callable[..., str], video: Path, tmp_path: Path, detector: str) -> None:
    path = tmp_path / "d.onnx"
    if detector == "wrong size":  # as many anchors as at another input size
        write_detector(path, output=np.zeros((1, 8400, 85), np.float32))
    elif detector == "text":
        path.write_text("no graph")
    assert refused(video, "--detector", "d.onnx").startswith("error: detector d.onnx: ")


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


# -- What works --------------------------------------------------------------------------------------------------------


def test_help(sharpose_run: Run) -> None:
    done = sharpose_run("--help", bundle=None)
    assert (done.returncode, done.stderr) == (0, "")
    assert "SOURCE" in done.stdout
    assert "--quality-threshold" in done.stdout


def test_the_scene(sharpose_run: Run, tmp_path: Path) -> None:
    done = sharpose_run(SCENE, *outputs(tmp_path / "[red]results"))  # no markup
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    folder = tmp_path / "[red]results"
    lines = lines_of(folder / "o.jsonl")
    assert [line["frame"] for line in lines] == [0, 1, 2, 3]
    assert [line["time"] for line in lines] == pytest.approx([0, 0.04, 0.08, 0.12])
    assert {(line["width"], line["height"]) for line in lines} == {(320, 240)}
    everybody = [person for line in lines for person in line["people"]]
    assert 1 <= len(everybody) <= 12
    for person in everybody:
        assert set(person) == {"bbox", "score", "keypoints", "quality", "refined"}
        assert np.shape(person["keypoints"]) == (17, 3)
        assert person["refined"] is (person["quality"] < 0.99)
        confident = [score for _, _, score in person["keypoints"] if score > 0.2]
        assert person["score"] == pytest.approx(np.mean(confident), abs=1e-4)
    assert frames_of(folder / "o.mp4") == 4
    assert len(json.loads((folder / "o.json").read_text())) == len(everybody)
    head = done.stdout.splitlines()[0]
    refined = sum(person["refined"] for person in everybody)
    assert head.startswith(f"frames 4, people {len(everybody)}, refined {refined} ({refined / len(everybody):.0%}), ")
    table = table_of(done.stdout)
    assert list(table) == STAGES
    assert all(p50 <= p95 <= p99 for p50, p95, p99 in table.values())
    assert table["coarse"][0] > table["gate"][0] > 0
    assert done.stdout.splitlines()[-3:] == [f"wrote {folder / name}" for name in ("o.mp4", "o.jsonl", "o.json")]


def test_a_video_with_a_boxes_file(sharpose_run: Run, tmp_path: Path, video: Path, boxes: Path) -> None:
    done = sharpose_run(video, "--boxes", boxes, *outputs(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    people = people_of(tmp_path / "o.jsonl")
    assert [len(frame) for frame in people] == [3, 0, 2, 0, 0, 0]
    assert [person["bbox"] for person in people[0]] == [[5, 5, 40, 80], [60, 10, 30, 60], [80, 50, 1, 1]]
    assert [person["bbox"] for person in people[2]] == [[-10, 20, 60.5, 90], [30, 30, 0, 0]]
    assert frames_of(tmp_path / "o.mp4") == 6
    results = json.loads((tmp_path / "o.json").read_text())
    assert [entry["image_id"] for entry in results] == [0, 0, 0, 2, 2]
    assert results[3]["keypoints"] == [value for point in people[2][0]["keypoints"] for value in point]

    best = sharpose_run(video, "--boxes", boxes, "--max-people", 1, "--json", "best.jsonl")
    assert best.returncode == 0
    assert [[person["bbox"] for person in frame] for frame in people_of(tmp_path / "best.jsonl")] == [
        [[60, 10, 30, 60]],
        [],
        [[30, 30, 0, 0]],
        [],
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("options", "refined"),
    [
        (["--refine", "never"], False),
        (["--refine", "always", "--quality-threshold", "-100"], True),
        (["--quality-threshold", "-100"], False),
        (["--quality-threshold", "100"], True),
    ],
)
def test_who_is_refined(sharpose_run: Run, tmp_path: Path, options: list[str], refined: bool) -> None:
    done = sharpose_run("scene:frames=1,size=240x320,people=3", *options, "--json", "o.jsonl")
    assert done.returncode == 0, done.stderr
    (people,) = people_of(tmp_path / "o.jsonl")
    assert people
    assert {person["refined"] for person in people} == {refined}
    assert f"refined {len(people) if refined else 0} " in done.stdout


def test_pictures_named_by_numbers(sharpose_run: Run, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    (tmp_path / "pictures").mkdir()
    sizes = {7: (90, 120), 12: (120, 90), 100: (61, 47)}
    for image_id, size in sizes.items():
        noise = np.random.default_rng(image_id).integers(0, 256, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{image_id:05d}.png"), noise)
    boxes = write_boxes(
        tmp_path / "b.json", [(100, (3, 4, 20, 30), 0.5), (7, (1, 2, 50, 60), 0.9), (7, (40, 0, 50, 80), 0.8)]
    )
    done = sharpose_run("pictures", "--boxes", boxes, *outputs(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    lines = lines_of(tmp_path / "o.jsonl")
    assert [(line["width"], line["height"]) for line in lines] == [(120, 90), (90, 120), (47, 61)]
    assert [line["time"] for line in lines] == [0, 1, 2]
    assert [len(line["people"]) for line in lines] == [2, 0, 1]
    assert frames_of(tmp_path / "o.mp4") == 3

    truth = coco.COCO()
    truth.dataset = {
        "images": [{"id": image_id} for image_id in sizes],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "o.json"))
    assert sorted(entry["image_id"] for entry in loaded.anns.values()) == [7, 7, 100]
    (only,) = (entry for entry in loaded.anns.values() if entry["image_id"] == 100)
    assert only["keypoints"] == [value for point in lines[2]["people"][0]["keypoints"] for value in point]
    assert only["score"] == lines[2]["people"][0]["score"]
    assert lines[2]["people"][0]["score"] == pytest.approx(
        0.5 * np.mean([p[2] for p in lines[2]["people"][0]["keypoints"]]), abs=1e-4
    )


def test_the_full_frame(sharpose_run: Run, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((60, 45, 3), np.uint8))
    # A name that the terminal's encoding can't show is no reason to fail.
    done = sharpose_run("picture.png", "--full-frame", "--json", "ø.jsonl", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    ((person,),) = people_of(tmp_path / "ø.jsonl")
    assert person["bbox"] == [0, 0, 45, 60]
    assert done.stdout.splitlines()[-1] == "wrote \\xf8.jsonl"


def test_nothing_to_write_is_said(sharpose_run: Run, tmp_path: Path) -> None:
    done = sharpose_run("scene:frames=1,size=128x128,people=1")
    assert done.returncode == 0
    assert done.stderr == "note: nothing will be written; add --output, --json or --coco\n"
    assert list(tmp_path.iterdir()) == []


def test_a_detector(sharpose_run: Run, tmp_path: Path, video: Path) -> None:
    detector = write_detector(
        tmp_path / "d.onnx",
        dets=np.array([[[10, 5, 50, 85, 0.5], [60, 20, 100, 90, 0.875], [0, 0, 9, 9, 0.9]]], np.float32),
        labels=np.array([[0, 0, 3]], np.int64),
    )
    done = sharpose_run(video, "--detector", detector, "--refine", "never", "--json", "o.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    people = people_of(tmp_path / "o.jsonl")
    assert [[person["bbox"] for person in frame] for frame in people] == [[[60, 20, 40, 70], [10, 5, 40, 80]]] * 6


def test_a_video_that_ends_early_is_a_warning(sharpose_run: Run, tmp_path: Path) -> None:
    data = write_video(tmp_path / "whole.mp4", 40, faststart=True).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    done = sharpose_run("cut.mp4", "--full-frame", "--refine", "never", *outputs(tmp_path))
    assert done.returncode == 0, done.stderr
    (warning,) = done.stderr.splitlines()
    frames = len(lines_of(tmp_path / "o.jsonl"))
    assert 10 < frames < 40
    assert warning == f"warning: cut.mp4: its header claims 40 frames, but it ends after {frames}"
    assert frames_of(tmp_path / "o.mp4") == frames


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_cleanly(
    environment: dict[str, str], tiny_bundle: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    source = "scene:frames=100000,size=128x128,people=1"
    arguments = ["--bundle", tiny_bundle, "--threads", "1", "--refine", "never", *outputs(tmp_path)]
    process = subprocess.Popen(
        [PROGRAM, source, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = tmp_path / "o.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (lines.exists() and lines.read_bytes().count(b"\n") >= 3):
            time.sleep(0.05)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, stderr) == (code, "")
    frames = len(lines_of(lines))
    assert 3 <= frames < 100_000
    assert stdout.startswith(f"frames {frames}, people ")
    assert list(table_of(stdout)) == STAGES
    assert frames_of(tmp_path / "o.mp4") == frames
    assert isinstance(json.loads((tmp_path / "o.json").read_text()), list)
    assert not list(tmp_path.glob("*.partial.*"))


# -- With the material beside the checkout -----------------------------------------------------------------------------


def thirty_boxes(path: Path, frames: int, size: tuple[int, int]) -> Path:
    height, width = size
    rng = np.random.default_rng(0)
    corners = rng.uniform((0, 0), (width - 60, height - 120), (frames, 30, 2)).round(1)
    return write_boxes(
        path,
        [(f, (*corners[f, i].tolist(), 50.0, 110.0), float(i + 1) / 30) for f in range(frames) for i in range(30)],
    )


@pytest.mark.slow
@pytest.mark.shared
def test_a_crowd(sharpose_run: Run, shared_dir: Path, tmp_path: Path) -> None:
    boxes = thirty_boxes(tmp_path / "b.json", 341, (720, 1280))
    done = sharpose_run(
        shared_dir / "media" / "crowd.avi", "--boxes", boxes, "--refine", "never", "--max-people", 2, *outputs(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert "header claims 682 frames, but it ends after 341" in done.stderr
    lines = lines_of(tmp_path / "o.jsonl")
    assert [line["frame"] for line in lines] == list(range(341))
    assert {len(line["people"]) for line in lines} == {2}
    assert frames_of(tmp_path / "o.mp4") == 341
    assert done.stdout.startswith("frames 341, people 682, refined 0 (0%)")


@pytest.mark.slow
@pytest.mark.shared
def test_thirty_people_a_frame(sharpose_run: Run, shared_dir: Path, tmp_path: Path) -> None:
    boxes = thirty_boxes(tmp_path / "b.json", 5, (540, 960))
    done = sharpose_run(shared_dir / "media" / "street.mp4", "--boxes", boxes, *outputs(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert [len(people) for people in people_of(tmp_path / "o.jsonl")] == [30] * 5
    assert [line["time"] for line in lines_of(tmp_path / "o.jsonl")] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert frames_of(tmp_path / "o.mp4") == 5


@pytest.mark.slow
@pytest.mark.shared
def test_coco_pictures_with_their_annotations(sharpose_run: Run, shared_dir: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    data = shared_dir / "data" / "coco_tiny"
    annotations = data / "annotations" / "person_keypoints_val2017.json"
    done = sharpose_run(data / "val2017", "--boxes", annotations, "--refine", "never", *outputs(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    truth = coco.COCO(str(annotations))
    loaded = truth.loadRes(str(tmp_path / "o.json"))
    expected = sorted(
        (a["image_id"], [round(v, 1) for v in a["bbox"]]) for a in truth.anns.values() if not a["iscrowd"]
    )
    found = sorted((a["image_id"], [round(v, 1) for v in a["bbox"]]) for a in loaded.anns.values())
    assert found == expected
    assert len(lines_of(tmp_path / "o.jsonl")) == frames_of(tmp_path / "o.mp4") == len(truth.imgs) == 49

"""The C++ programs of `examples/cpp`: built with CMake, their poses are those of Python; and the page they follow."""

from __future__ import annotations

import doctest
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from sharpose import PoseEstimator
from sharpose.bundle import change_manifest, open_bundle, shipped_bundle
from sharpose.runtime.result import Image, PoseResult
from sharpose.scene import Scene, SceneConfig, SceneFrame

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "examples" / "cpp"
PAGE = ROOT / "docs" / "bundle.md"
HEADERS = (Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime"))

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a release of ONNX Runtime is, with the library of the installed wheel."""
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    if not Path("/usr/include/jsoncpp").is_dir():
        pytest.skip("needs JsonCpp: apt install libjsoncpp-dev")
    headers = next((folder for folder in HEADERS if (folder / "onnxruntime_cxx_api.h").is_file()), None)
    libraries = list(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    if headers is None or not libraries:
        pytest.skip("needs ONNX Runtime's C++ headers, see .ci/onnxruntime_headers, and the library of its wheel")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "lib").mkdir()
    (folder / "include").symlink_to(headers)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(libraries[0])
    return folder


def check_call(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def program(release: Path) -> Path:
    """`sharpose_onnxruntime`."""
    build = release / "build"
    options = [f"-DONNXRUNTIME_ROOT={release}", "-DCMAKE_CXX_FLAGS_RELEASE=-O1", "-DCMAKE_CXX_FLAGS=-Werror"]
    check_call(["cmake", "-S", SOURCES, "-B", build, *options])
    check_call(["cmake", "--build", build, "--target", "sharpose_onnxruntime"])
    return build / "sharpose_onnxruntime"


@pytest.fixture
def run(program: Path) -> Run:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)

    return run


def check_same(printed: str, expected: PoseResult) -> None:
    """The program printed these poses."""
    people = re.findall(
        r"^person \d+: quality ([\d.]+), (refined|coarse), (?:confidence ([\d.]+)|raw scores)$", printed, re.MULTILINE
    )
    lines = re.findall(r"^  (\w+) (-?[\d.]+) (-?[\d.]+) ([\d.]+)$", printed, re.MULTILINE)
    assert len(people) + len(lines) == len(printed.splitlines())
    assert expected.skeleton is not None
    assert [name for name, *_ in lines] == list(expected.skeleton.keypoints) * len(people)
    keypoints = np.array([[float(number) for number in numbers] for _, *numbers in lines])
    keypoints = keypoints.reshape(expected.keypoints.shape)
    np.testing.assert_allclose(keypoints[:, :, :2], expected.keypoints[:, :, :2], rtol=0, atol=0.01)
    np.testing.assert_allclose(keypoints[:, :, 2], expected.keypoints[:, :, 2], rtol=0, atol=2e-3)
    np.testing.assert_allclose([float(item[0]) for item in people], expected.quality, rtol=0, atol=2e-4)
    assert [item[1] == "refined" for item in people] == expected.refined.tolist()
    confidence = [float(item[2]) for item in people if item[2]]
    if expected.confidence is None:
        assert confidence == []
    else:
        np.testing.assert_allclose(confidence, expected.confidence, rtol=0, atol=1e-3)


def halves(estimator: PoseEstimator, image: Image, boxes: npt.NDArray[np.float32]) -> PoseResult:
    """Poses where the threshold is such that half of the people are refined."""
    quality = np.sort(estimator(image, boxes).quality)
    middle = len(boxes) // 2
    estimator.quality_threshold = float(quality[middle - 1 : middle + 1].mean())
    result = estimator(image, boxes)
    assert result.refined.sum() == middle > 0
    return result


def words(boxes: npt.NDArray[np.float32]) -> list[str]:
    return [",".join(map(repr, box)) for box in boxes.tolist()]


def test_poses_of_a_photograph(run: Run, tmp_path: Path) -> None:
    image = np.asarray(cv2.imread(str(ROOT / "examples" / "photographs" / "astronaut.jpg")), np.uint8)
    assert image.ndim == 3
    # More than a batch; partly and wholly outside the picture, without area, of odd shapes.
    sides = [[60, 0, 420, 511], [18.25, 8.5, 500, 511], [-80, -40, 300, 380], [350, 200, 700, 660], [600, 0, 700, 99]]
    sides += [[200, 100, 200, 100], [100, 50, 400, 120]]
    sides += [[60 + 9.7 * step, 3.3 * step, 420 - 5.1 * step, 511 - 7.9 * step] for step in range(10)]
    boxes = np.array(sides, np.float32)
    picture = tmp_path / "picture.ppm"
    cv2.imwrite(str(picture), image)
    with PoseEstimator(precision="fp32", batch=16) as estimator:
        expected = halves(estimator, image, boxes)
        done = run(shipped_bundle(), picture, *words(boxes), "--threshold", estimator.quality_threshold)
    assert (done.returncode, done.stderr) == (0, "")
    check_same(done.stdout, expected)


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, SceneFrame]:
    """A drawn picture of four people, as a file and as it is."""
    frame = Scene(SceneConfig(seed=3, people=4, height=240, width=320)).frame(5)
    cv2.imwrite(str(tmp_path / "scene.ppm"), frame.image)
    return tmp_path / "scene.ppm", frame


def test_poses_of_a_scene_in_int8(run: Run, scene: tuple[Path, SceneFrame]) -> None:
    picture, frame = scene
    with PoseEstimator(precision="int8", batch=16) as estimator:
        expected = halves(estimator, frame.image, frame.boxes_xyxy)
        options = ("--precision", "int8", "--threshold", estimator.quality_threshold)
        done = run(shipped_bundle(), picture, *words(frame.boxes_xyxy), *options)
    assert (done.returncode, done.stderr) == (0, "")
    check_same(done.stdout, expected)


def test_poses_of_a_scene_without_score_tables_at_another_alpha(
    run: Run, scene: tuple[Path, SceneFrame], tmp_path: Path
) -> None:
    picture, frame = scene
    folder = tmp_path / "bundle"
    shutil.copytree(shipped_bundle(), folder)
    change_manifest(folder, lambda bundle: {"scores": None})
    with PoseEstimator(folder, precision="fp32", batch=16, alpha=0.3) as estimator:
        expected = halves(estimator, frame.image, frame.boxes_xyxy)
        options = ("--alpha", 0.3, "--threshold", estimator.quality_threshold)
        done = run(folder, picture, *words(frame.boxes_xyxy), *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert expected.confidence is None
    check_same(done.stdout, expected)


PPM = b"P6 # a comment\n# another\n4 3\n255\n" + bytes(36)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected BUNDLE PICTURE.ppm X1,Y1,X2,Y2 ..."),
        (["bundle", "a.ppm"], "expected BUNDLE PICTURE.ppm X1,Y1,X2,Y2 ..."),
        (["absent", "a.ppm", "0,0,9,9"], "absent/bundle.json: can't be read; expected a bundle written by"),
        (["bundle", "absent.ppm", "0,0,9,9"], "absent.ppm: can't be read"),
        (["bundle", "bundle", "0,0,9,9"], "bundle: can't be read"),
        (["bundle", "grey.ppm", "0,0,9,9"], "grey.ppm: expected a binary PPM picture (P6)"),
        (["bundle", "deep.ppm", "0,0,9,9"], "deep.ppm: expected 8 bits a sample (255), got 65535"),
        (["bundle", "short.ppm", "0,0,9,9"], "short.ppm: ends before its last pixel"),
        (["bundle", "huge.ppm", "0,0,9,9"], "huge.ppm: expected a PPM header of numbers from 1 to 65535"),
        (["bundle", "a.ppm", "0,0,9"], "box 0,0,9: expected X1,Y1,X2,Y2 in pixels"),
        (["bundle", "a.ppm", "0,0,9,"], "box 0,0,9,: expected a number, got ''"),
        (["bundle", "a.ppm", "0,0,9,nan"], "box 0,0,9,nan: expected a number, got 'nan'"),
        (["bundle", "a.ppm", "9,0,0,9"], "box 9,0,0,9: expected X1 <= X2 and Y1 <= Y2"),
        (["bundle", "a.ppm", "0,0,9,inf"], "box 0,0,9,inf: expected pixels within 1e12"),
        (["bundle", "a.ppm", "0,0,9,9", "--precision", "fp16"], "bundle.json: holds fp32, int8 graphs, not fp16"),
        (["bundle", "a.ppm", "0,0,9,9", "--threshold", "low"], "--threshold: expected a number, got 'low'"),
        (["bundle", "a.ppm", "0,0,9,9", "--threshold"], "--threshold: expected a value"),
        (["bundle", "a.ppm", "0,0,9,9", "--colour", "red"], "--colour: unknown option"),
        (["bundle", "a.ppm", "0,0,9,9", "--alpha", "0"], "--alpha: expected a share above 0, at most 1"),
        (["fixed", "a.ppm", "0,0,9,9", "--alpha", "0.25"], "--alpha: expected a share of 24 regions, which the fp32"),
        (["alpha", "a.ppm", "0,0,9,9"], "alpha/bundle.json: model.alpha: expected a share above 0, at most 1"),
        (["nan", "a.ppm", "0,0,9,9"], "nan/bundle.json: scores.person.probability: expected numbers from 0 to 1"),
        (["size", "a.ppm", "0,0,9,9"], "size: its graphs can't be run: "),
        (["cut", "a.ppm", "0,0,9,9"], "cut: its graphs can't be run: "),
        (["tables", "a.ppm", "0,0,9,9"], "tables/bundle.json: scores.coarse: none for left_eye"),
        (["text", "a.ppm", "0,0,9,9"], "text/bundle.json: not JSON"),
        (["later", "a.ppm", "0,0,9,9"], "later/bundle.json: schema_version: expected 1, got 2"),
        (["odd", "a.ppm", "0,0,9,9"], "odd/bundle.json: model.crop_size: expected multiples of 32, got 256 and 190"),
        (["lacking", "a.ppm", "0,0,9,9"], "lacking/bundle.json: gate.quality_threshold: missing"),
        (["other", "a.ppm", "0,0,9,9"], "the coarse graph isn't the one that bundle.json describes"),
        (["empty", "a.ppm", "0,0,9,9"], "error: empty: its graphs can't be run: "),
    ],
)
def test_errors_are_one_line(
    run: Run, arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "a.ppm": PPM,
        "grey.ppm": b"P5 4 3 255\n" + bytes(12),
        "deep.ppm": b"P6 4 3 65535\n" + bytes(72),
        "short.ppm": PPM[:-1],
        "huge.ppm": b"P6 70000 3 255\n",
    }.items():
        Path(name).write_bytes(content)
    shipped = shipped_bundle()
    manifest = json.loads((shipped / "bundle.json").read_text("utf-8"))
    model, gate = manifest["model"], {"chosen_by": "nobody"}
    fewer = model | {"skeleton": {"keypoints": model["skeleton"]["keypoints"][:5]}}
    scores = manifest["scores"]
    table = {"raw": [0.5], "probability": [0.5]}
    tables = [table | {"keypoints": ["nose"]}]
    graphs = json.loads(json.dumps(manifest["graphs"]))
    graphs["fp32"]["fine"]["inputs"][1]["shape"][1] = 96
    for name, text in {
        "bundle": json.dumps(manifest),
        "fixed": json.dumps(manifest | {"graphs": graphs}),
        "tables": json.dumps(manifest | {"scores": {"coarse": tables, "fine": tables, "person": table}}),
        "alpha": json.dumps(manifest | {"model": model | {"alpha": 9}}),
        "nan": json.dumps(manifest | {"scores": scores | {"person": table | {"probability": [float("nan")]}}}),
        "size": json.dumps(manifest | {"model": model | {"crop_size": [128, 96]}}),
        "cut": json.dumps(manifest),
        "text": "{",
        "later": json.dumps(manifest | {"schema_version": 2}),
        "odd": json.dumps(manifest | {"model": model | {"crop_size": [256, 190]}}),
        "lacking": json.dumps(manifest | {"gate": gate}),
        "other": json.dumps(manifest | {"model": fewer, "scores": None, "parity": {"fp32": float("nan")}}),
        "empty": json.dumps(manifest),
    }.items():
        if not arguments or name != arguments[0]:
            continue
        Path(name).mkdir()
        Path(name, "bundle.json").write_text(text)
        if name in ("other", "size", "cut"):
            for file in ("coarse.onnx", "fine.onnx", "weights.bin"):
                shutil.copy(shipped / file, name)
        if name == "cut":
            os.truncate("cut/weights.bin", 100)
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_help(run: Run) -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert " BUNDLE PICTURE.ppm X1,Y1,X2,Y2 ... [--precision " in done.stdout


def test_the_tensorrt_program_compiles(tmp_path: Path) -> None:
    """Against the headers of TensorRT or TensorRT-RTX in $TENSORRT_ROOT; its wheels have none."""
    root = os.environ.get("TENSORRT_ROOT", "/usr")
    folders = [Path(root, "include"), Path("/usr/local/cuda/include")]
    folders += Path("/usr/include").glob("*-linux-gnu")
    for header in ("NvInferRuntime.h", "cuda_runtime_api.h"):
        if not any((folder / header).is_file() for folder in folders):
            pytest.skip(f"needs {header}: an unpacked TensorRT in $TENSORRT_ROOT, and a CUDA toolkit")
    includes = [word for folder in folders for word in ("-isystem", str(folder)) if folder != Path("/usr/include")]
    command = ["g++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *includes]
    done = subprocess.run([*command, SOURCES / "tensorrt.cpp"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.soak
def test_the_tensorrt_program_on_a_stand_in(run: Run, release: Path, tmp_path: Path) -> None:
    """Batches, profiles, padding and buffers, with `fake_tensorrt_cpp` in TensorRT's place; and no leaks."""
    fake, program = ROOT / "tests" / "helpers" / "fake_tensorrt_cpp", tmp_path / "sharpose_tensorrt"
    includes: list[str | Path] = ["-I", fake, "-I", "/usr/include/jsoncpp", "-isystem", release / "include"]
    libraries: list[str | Path] = ["-L", release / "lib", f"-Wl,-rpath,{release / 'lib'}", "-lonnxruntime", "-ljsoncpp"]
    options = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    check_call(
        ["g++", *options, *includes, SOURCES / "tensorrt.cpp", SOURCES / "sharpose.cpp", *libraries, "-o", program]
    )
    folder = tmp_path / "bundle"
    shutil.copytree(shipped_bundle(), folder)
    bundle = open_bundle(folder)
    (folder / "engines").mkdir()
    for stage, batch in (("coarse", "image"), ("fine", "rows")):
        plan = f"{bundle.graph(stage)[0]} {batch} 2 3 5 {4 * bundle.model.num_selected}"
        (folder / "engines" / f"{stage}.plan").write_text(plan)
        sidecar = {"precision": "fp32", "weights_sha256": bundle.manifest.files[bundle.manifest.weights]}
        (folder / "engines" / f"{stage}.json").write_text(json.dumps(sidecar))
    image = cv2.imread(str(ROOT / "examples" / "photographs" / "astronaut.jpg"))
    cv2.imwrite(str(tmp_path / "picture.ppm"), np.asarray(image))
    boxes = [f"{60 + 9 * step},{7 * step},{420 - 40 * step},{511 - 30 * step}" for step in range(6)]
    coarse = run(folder, tmp_path / "picture.ppm", *boxes, "--threshold", "-1").stdout
    middle = float(np.median([float(quality) for quality in re.findall(r"quality ([\d.]+)", coarse)]))
    arguments: list[str | Path] = [folder, tmp_path / "picture.ppm", *boxes, "--threshold", str(middle)]
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    expected = run(*arguments)
    assert (done.returncode, expected.returncode) == (0, 0), done.stderr
    assert 0 < expected.stdout.count("refined") < 6
    assert done.stdout == expected.stdout
    assert "image: profile 1, batch 5\n" in done.stderr
    assert "image: profile 0, batch 2\n" in done.stderr  # the sixth person, padded
    (folder / "engines" / "fine.plan").write_text("damaged")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {folder}/engines/fine.plan: can't be loaded here (not a plan)\n"


def test_the_worked_example() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.attempted > 10
    assert found.failed == 0


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_the_tensors_are_those_of_a_bundle(stage: str) -> None:
    """The page's table of a graph, with the model's numbers for the letters."""
    bundle = open_bundle(shipped_bundle())
    model, entry = bundle.model, bundle.graph(stage)[1]
    text = PAGE.read_text("utf-8")
    (table,) = re.findall(rf"^\*\*`{stage}\.onnx`\*\*.*?\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    letters = {
        "H": model.crop_size[0],
        "W": model.crop_size[1],
        "J": model.num_keypoints,
        "R": model.num_regions,
        "C": model.width,
        "h": model.heatmap_size[0],
        "w": model.heatmap_size[1],
        "4K": 4 * model.num_selected,
    }
    described: dict[str, list[tuple[str, str, tuple[int | str, ...]]]] = {"input": [], "output": []}
    for way, name, dtype, shape in re.findall(r"^\| (\w+) `(\w+)` \| (\w+) `\[(.*?)\]` \|", table, re.MULTILINE):
        sizes = tuple(letters.get(size, int(size) if size.isdigit() else size) for size in shape.split(", "))
        described[way].append((name, dtype, sizes))
    assert described["input"] == [(item.name, item.dtype, item.shape) for item in entry.inputs]
    assert described["output"] == [(item.name, item.dtype, item.shape) for item in entry.outputs]

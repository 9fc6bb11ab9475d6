"""The example programs, in this process and on short sources; the default detector is a stand-in."""

from __future__ import annotations

import csv
import runpy
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import av
import cameras
import cv2
import knee_angles
import numpy as np
import picture
import pytest
import video
from rtsp_server import RtspServer
from served_detector import default_detector_served
from video_files import decoded

from sharpose import PoseEstimator
from sharpose.errors import EngineError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FRAMES = 8


@pytest.fixture(autouse=True)
def _detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Finds a person in the box from 30, 15 to 150, 255 of every picture of 288x384."""
    with default_detector_served(tmp_path) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """uint8 [288, 384, 3]: the astronaut where the detector finds a person."""
    astronaut = cv2.imread(str(EXAMPLES / "photographs" / "astronaut.jpg"))
    assert astronaut is not None
    canvas = np.zeros((288, 384, 3), np.uint8)
    canvas[15:255, 30:150] = cv2.resize(astronaut[:, 60:420], (120, 240), interpolation=cv2.INTER_AREA)
    return canvas


@pytest.fixture
def clip(tmp_path: Path, photo: np.ndarray) -> str:
    """A video in which the astronaut moves to the right by a pixel a frame."""
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.height, stream.width, stream.pix_fmt = 288, 384, "yuv420p"
        for index in range(FRAMES):
            moved = np.roll(photo, index, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="bgr24")))
        container.mux(stream.encode(None))
    return "clip.mp4"


def frames_of(path: Path) -> list[np.ndarray]:
    frames, _, header = decoded(path)
    assert header.rate == pytest.approx(20)
    return frames


def test_a_picture(photo: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite("photo.png", photo)
    picture.main(["photo.png", "--output", "out.png"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("PoseResult: 1 person, ")
    with PoseEstimator() as estimator:
        result = estimator(photo, [[30, 15, 150, 255]])
        (person,) = result.keypoints
        expected = [
            f"person 0: {name} at {x:.0f}, {y:.0f} (score {score:.2f})"
            for name, (x, y, score) in zip(estimator.skeleton.keypoints, person, strict=True)
            if score >= 0.3
        ]
    assert said[1:] == expected != []
    np.testing.assert_array_equal(cv2.imread("out.png"), result.plot(photo))


@pytest.mark.parametrize(("arguments", "words"), [(["absent.png"], "absent.png: expected a picture"), ([], "required")])
def test_a_picture_that_is_none(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        picture.main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("program", [picture, video])
def test_an_output_of_another_kind(
    program: ModuleType, clip: str, photo: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite("photo.png", photo)
    with pytest.raises(SystemExit) as ended:
        program.main(["photo.png" if program is picture else clip, "--output", "o/p.xyz"])
    assert ended.value.code == 2
    assert "error: --output o/p.xyz: expected a " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cameras.py", "jetson.py", "knee_angles.py", "video.py"])
def test_no_estimator_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise EngineError("no engine here")

    monkeypatch.setattr("sharpose.PoseEstimator", refuse)
    monkeypatch.setattr(sys, "argv", [name, "scene:frames=1"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "error: no engine here\n")


def test_supervision_that_is_missing_is_one_line(
    clip: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    monkeypatch.setattr(sys, "argv", ["supervision_annotators.py", clip])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / "supervision_annotators.py"), run_name="__main__")
    assert ended.value.code == 2
    said, error = capsys.readouterr()
    assert said == ""
    assert error.startswith("error: this example needs supervision: pip install ")
    assert error.endswith('[cpu,supervision]"\n')


def test_knee_angles_into_a_folder_that_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        knee_angles.main(["scene:frames=1", "--output", "none/knees.csv"])
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("error: --output none/knees.csv: expected a folder that is there, found none at none")


def test_a_video_with_tracks(clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video.main([clip, "--output", "out.mp4"])
    frames = frames_of(tmp_path / "out.mp4")
    assert [frame.shape for frame in frames] == [(288, 384, 3)] * FRAMES
    (line,) = capsys.readouterr().out.splitlines()
    results = [result for _, result in PoseEstimator().stream(clip, track=True, smooth=True)]
    tracked = sum(1 in result.track_ids.tolist() for result in results if result.track_ids is not None)
    assert line == f"person 1: {tracked} frames"
    assert 0 < tracked < FRAMES


def test_a_video_with_tracks_whose_pixels_are_not_square(tmp_path: Path) -> None:
    with av.open("wide.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.height, stream.width, stream.pix_fmt = 72, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((72, 48, 3), np.uint8), format="bgr24")))
        container.mux(stream.encode(None))
    video.main(["wide.mp4", "--output", "out.mp4"])
    assert [frame.shape for frame in frames_of(tmp_path / "out.mp4")] == [(72, 96, 3)]


def test_knee_angles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "scene:seed=3,people=2,frames=6,size=240x320"
    knee_angles.main([source, "--output", "knees.csv"])
    with (tmp_path / "knees.csv").open(newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    deepest: dict[int, list[float]] = {}
    expected = []
    for index, (_, result) in enumerate(PoseEstimator().stream(source, track=True, smooth=True)):
        assert result.track_ids is not None
        for person, track_id in enumerate(result.track_ids.tolist()):
            both = [float(result.angles()[name][person]) for name in ("left_knee", "right_knee")]
            expected.append([str(index), str(track_id or ""), *("" if a != a else str(round(a, 1)) for a in both)])
            deepest.setdefault(track_id, []).extend(angle for angle in both if angle == angle)
    assert [list(row.values()) for row in rows] == expected
    assert any(row["left_knee"] for row in rows)
    said = [f"person {i}: knees down to {min(a):.0f} degrees" for i, a in sorted(deepest.items()) if i and a]
    assert capsys.readouterr().out.splitlines() == said != []


def test_supervision_annotators(clip: str, photo: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("supervision")
    import supervision_annotators

    supervision_annotators.main([clip, "--output", "out.mp4"])
    frames = frames_of(tmp_path / "out.mp4")
    assert len(frames) == FRAMES
    for index, frame in enumerate(frames):
        changed = np.abs(frame.astype(int) - np.roll(photo, index, axis=1)).max(axis=2) > 100
        assert changed.sum() > 200  # limbs, joints and a label
        assert changed[:, 220:].sum() < changed.sum() / 20  # on the person


def test_cameras_of_which_one_is_missing(clip: str, capsys: pytest.CaptureFixture[str]) -> None:
    missing = RtspServer.missing()
    if missing:
        pytest.skip(missing)
    server = RtspServer()
    server.start()
    try:
        cameras.main([server.url, "rtsp://me:hunter2@127.0.0.1:1/none", clip, "--seconds", "0.5"])
    finally:
        server.kill()
    said = capsys.readouterr().out.splitlines()
    first, second, third = ([line for line in said if line.startswith(f"camera {n}: ")] for n in (1, 2, 3))
    assert first[-1] == "camera 1: ended"
    assert len(second) == 1
    assert "rtsp://***@127.0.0.1:1/none" in second[0]
    assert third == ["camera 3: people [1]", "camera 3: ended"]


def test_a_jetson_without_its_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, str(EXAMPLES / "jetson.py")]
    done = subprocess.run([*command, "scene:frames=2", "--frames", "2"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        assert done.stdout.count("frames per second") == 2
    else:
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert "GPU" in line or "TensorRT" in line
    monkeypatch.setattr(sys, "argv", ["jetson.py", "csi://0", "--frames", "few"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(command[1], run_name="__main__")
    assert ended.value.code == 2
    assert "argument --frames: invalid int value: 'few'" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_the_first_lines_say_how_to_run_it(path: Path) -> None:
    head = path.read_text("utf-8").split('"""')[1]
    assert f"python examples/{path.name} " in head

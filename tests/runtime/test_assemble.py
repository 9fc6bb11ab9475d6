"""`PoseEstimator.stream`: the frames and poses of `sharpose-run`, in Python."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cli_files import Run, lines_of, write_boxes, write_video
from served_detector import PERSON, default_detector_served
from video_files import saved, with_garbage

from sharpose.cli import main
from sharpose.errors import BoxesError, DetectorError, InputError, SourceError
from sharpose.runtime import PoseEstimator, assemble
from sharpose.runtime.cli import command
from sharpose.runtime.detectors.onnx import Detector
from sharpose.runtime.options import RunOptions, SourceOptions
from sharpose.runtime.result import FrameOrigin, PoseResult
from sharpose.runtime.sources.video import VideoSource

SCENE = "scene:frames=8,size=240x320,people=3"


@pytest.fixture(scope="module")
def estimator(nano_bundle: Path) -> Iterator[PoseEstimator]:
    with PoseEstimator(nano_bundle, threads=1) as made:
        yield made


@pytest.fixture
def people_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    with default_detector_served(tmp_path) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield variables


def origin_of(result: PoseResult) -> FrameOrigin:
    assert result.origin is not None
    return result.origin


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read ")]


def test_the_scene_has_the_poses_and_pictures_of_a_run(
    sharpose_run: Run, tmp_path: Path, estimator: PoseEstimator
) -> None:
    outputs = ["--json", "o.jsonl", "--frames", "drawn", "--frames-format", "png"]
    done = sharpose_run(SCENE, "--track", "--smooth", *outputs)
    assert done.returncode == 0, done.stderr
    streamed = [
        (result.to_dict()["people"], result.plot(frame), len(result))
        for frame, result in estimator.stream(SCENE, track=True, smooth=True)
    ]
    lines = lines_of(tmp_path / "o.jsonl")
    assert [people for people, _, _ in streamed] == [line["people"] for line in lines]
    assert any(person["id"] for line in lines for person in line["people"])
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert len(drawn) == len(streamed) == 8
    for (_, picture, _), file in zip(streamed, drawn, strict=True):
        written = cv2.imread(str(file))
        assert written is not None
        assert np.array_equal(picture, written)


def test_a_video_has_the_poses_of_a_run(
    sharpose_run: Run, tmp_path: Path, estimator: PoseEstimator, video: Path, people_served: dict[str, str]
) -> None:
    done = sharpose_run(video, "--stride", 2, "--json", "o.jsonl", **people_served)
    assert done.returncode == 0, done.stderr
    streamed = list(estimator.stream(video, reading=SourceOptions(stride=2)))
    assert [result.to_dict()["people"] for _, result in streamed] == [
        line["people"] for line in lines_of(tmp_path / "o.jsonl")
    ]
    assert [result.boxes_xyxy.tolist() for _, result in streamed] == [[PERSON]] * 3
    capture = cv2.VideoCapture(str(video))
    for index in range(6):
        _, picture = capture.read()
        if index % 2 == 0:  # two converters of colours
            assert np.abs(picture.astype(int) - streamed[index // 2][0]).mean() < 3
    assert all(frame.dtype == np.uint8 for frame, _ in streamed)


@pytest.mark.usefixtures("people_served")
def test_where_people_are(estimator: PoseEstimator, nano_bundle: Path, video: Path) -> None:
    whole = [result.boxes_xyxy.tolist() for _, result in estimator.stream(video, full_frame=True)]
    assert whole == [[[0, 0, 128, 96]]] * 6
    boxes = write_boxes(video.with_name("b.json"), [(0, (5, 5, 40, 80), 0.5), (2, (1, 2, 30, 40), 0.9)])
    given = [result.boxes_xyxy.tolist() for _, result in estimator.stream(video, boxes=boxes)]
    assert given == [[[5, 5, 45, 85]], [], [[1, 2, 31, 42]], [], [], []]
    with PoseEstimator(nano_bundle, threads=1, detector=Detector.from_name(conf=0.4)) as own:
        scene = "scene:frames=1,size=96x128,people=3"  # its boxes give way to a detector that was asked for
        ((_, result),) = own.stream(scene)
        assert result.boxes_xyxy.tolist() == [PERSON]
        ((_, result),) = estimator.stream(scene)
        assert result.boxes_xyxy.tolist() != [PERSON]


def test_what_nobody_asked_for_is_said(
    estimator: PoseEstimator, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in estimator.stream(video, motion=True):
        pass
    assert capsys.readouterr().err.startswith(f"warning: {video}: nobody was found in all its 6 frames")


def test_a_stream_that_is_left_early_is_closed(estimator: PoseEstimator, video: Path) -> None:
    frames = estimator.stream(video, full_frame=True)
    next(frames)
    assert reading_threads()
    frames.close()
    assert not reading_threads()
    assert len(list(estimator.stream(video, full_frame=True))) == 6  # the estimator goes on


def test_damage_is_said_where_a_stream_is_left_early(
    estimator: PoseEstimator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write_video(tmp_path / "whole.mp4", 20, faststart=True).read_bytes()
    damaged = saved(tmp_path / "damaged.mp4", with_garbage(whole, 0.2, 3000))
    frames = estimator.stream(damaged, full_frame=True)
    for _ in range(10):
        next(frames)
    assert capsys.readouterr().err == ""
    frames.close()
    assert "damaged.mp4: skipped damage once, near frame" in capsys.readouterr().err


def test_only_its_reader_closes_a_video(
    estimator: PoseEstimator, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that is closed by another thread while it decodes ends the process."""
    closed_by: list[str] = []
    close = VideoSource.close

    def noted(source: VideoSource) -> None:
        closed_by.append(threading.current_thread().name)
        close(source)

    monkeypatch.setattr(VideoSource, "close", noted)
    frames = estimator.stream(video, full_frame=True)
    next(frames)
    frames.close()
    assert set(closed_by) == {f"read {video}"}
    closed_by.clear()
    (tmp_path / "boxes.json").write_text("none")
    with pytest.raises(BoxesError):  # before anything reads the video
        next(estimator.stream(video, boxes=tmp_path / "boxes.json"))
    assert closed_by == ["MainThread"]


def test_videos_of_a_folder_are_streamed_one_after_another(estimator: PoseEstimator, video: Path) -> None:
    folder = video.parent
    alone = [result for _, result in estimator.stream(folder, full_frame=True)]
    write_video(folder / "more.mp4", 2)
    frames, results = zip(*estimator.stream(folder, full_frame=True, track=True), strict=True)
    assert all(np.array_equal(one, again) for one, again in zip(frames[:2], frames[2:], strict=False))
    assert [(origin_of(result).source, origin_of(result).index) for result in results] == [
        *((str(folder / "more.mp4"), index) for index in range(2)),
        *((str(video), index) for index in range(6)),
    ]
    assert [origin_of(result).time for result in results[2:]] == [origin_of(result).time for result in alone]
    assert origin_of(alone[-1]) == origin_of(results[-1])
    for one, again in zip(alone, results[2:], strict=True):
        assert np.array_equal(one.keypoints, again.keypoints)
    assert origin_of(results[0]).file_name is None
    assert not reading_threads()


def test_a_video_that_fails_is_said_after_the_others(
    estimator: PoseEstimator, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (video.parent / "broken.mp4").write_bytes(b"no video" * 100)
    stream = estimator.stream(video.parent, full_frame=True)
    seen = [origin_of(next(stream)[1]).source for _ in range(6)]
    with pytest.raises(SourceError, match=rf"^{video.parent}: 1 of 2 sources failed; the others are complete$"):
        next(stream)
    assert seen == [str(video)] * 6
    assert f"warning: {video.parent / 'broken.mp4'}: " in capsys.readouterr().err


def test_boxes_of_each_video_of_a_folder(estimator: PoseEstimator, video: Path, tmp_path: Path) -> None:
    write_video(video.parent / "more.mp4", 2)
    with pytest.raises(InputError, match="boxes"):
        next(estimator.stream(video.parent, boxes=tmp_path / "boxes.json"))
    for name, left in ((video.stem, 10), ("more", 20)):
        write_boxes(tmp_path / f"boxes_{name}.json", [(0, [left, 5, 20, 30], 1)])
    found = {
        origin_of(result).source: result.boxes_xyxy[0, 0]
        for _, result in estimator.stream(video.parent, boxes=tmp_path / "boxes_{source}.json")
        if len(result)
    }
    assert found == {str(video): 10, str(video.parent / "more.mp4"): 20}


def test_pictures_say_their_file(estimator: PoseEstimator, tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((48, 64, 3), np.uint8))
    origins = [origin_of(result) for _, result in estimator.stream(tmp_path, full_frame=True)]
    assert origins == [FrameOrigin(str(tmp_path), 0, 0.0, "a.png"), FrameOrigin(str(tmp_path), 1, 1.0, "b.png")]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"smooth": True}, InputError, "^smooth follows people from frame to frame: give track=True as well$"),
        ({"full_frame": True, "boxes": "b.json"}, InputError, "^boxes and full_frame exclude each other: give one$"),
        ({"full_frame": True, "motion": True}, InputError, "^motion and full_frame exclude each other: give one$"),
        ({"full_frame": True, "detect_every": 2}, InputError, "^detect_every is for a detector, which isn't given$"),
        ({"max_people": -1}, InputError, "^max_people: expected 1 to 1000000000, got -1$"),
        ({"max_people": 0}, InputError, "^max_people: expected 1 to 1000000000, got 0$"),
        ({"max_people": "x"}, InputError, "^max_people: expected a whole number, got 'x'$"),
        ({"detect_every": 0}, InputError, "^detect_every: expected 1 to 1000000000, got 0$"),
        ({"detect_every": None}, InputError, "^detect_every: expected a whole number, got None$"),
        ({"detect_every": 1.5}, InputError, "^detect_every: expected a whole number, got 1.5$"),
        ({"track": "no"}, InputError, "^track: expected True or False, got 'no'$"),
        ({"boxes": 3}, InputError, "^boxes: expected a file's path, got 3$"),
        ({"reading": 2}, InputError, "^reading: expected SourceOptions, got 2$"),
        ({"source": None}, InputError, "^source: expected a path, an address or a camera's index, got None$"),
        ({"boxes": "none.json"}, BoxesError, "none.json"),
        ({"source": "none.mp4"}, SourceError, "none.mp4: no such file"),
        ({"reading": SourceOptions(stdin_size=(4, 4)), "full_frame": True}, InputError, "^stdin_size is for"),
    ],
)
def test_what_can_not_be_streamed(
    estimator: PoseEstimator, video: Path, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        next(estimator.stream(**({"source": video} | arguments)))
    assert not reading_threads()


@pytest.mark.usefixtures("people_served")
def test_a_detector_that_does_not_come(nano_bundle: Path, tmp_path: Path, video: Path) -> None:
    (tmp_path / "served" / "tiny.onnx").unlink()
    with PoseEstimator(nano_bundle, threads=1) as fresh, pytest.raises(DetectorError, match="can't be downloaded"):
        next(fresh.stream(video))
    assert not reading_threads()


def test_the_options_have_the_defaults_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[RunOptions] = []
    monkeypatch.setattr(assemble, "run_with", parsed.append)
    with pytest.raises(SystemExit):
        main(command, ["video.mp4"])
    assert parsed == [RunOptions(sources=("video.mp4",))]

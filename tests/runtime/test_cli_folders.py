"""`sharpose-run` on folders and globs: pictures as one source, each video as one of its own, the rest counted."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_files import PROGRAM, Run, frames_of, lines_of, write_long_video, write_video


@pytest.fixture
def holiday(tmp_path: Path) -> Path:
    """Two pictures, two videos, one that is none, and files that are neither."""
    folder = tmp_path / "holiday"
    folder.mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((40, 30, 3), 90, np.uint8))
    write_video(folder / "clip10.mp4", 3)
    write_video(folder / "clip2.MP4", 2)
    (folder / "broken.avi").write_bytes(b"no video" * 99)
    (folder / "notes.txt").write_text("Monday")
    (folder / "._clip2.mp4").write_bytes(b"macOS's")
    return folder


def test_each_video_of_a_folder_has_its_own_results(sharpose_run: Run, tmp_path: Path, holiday: Path) -> None:
    done = sharpose_run(
        holiday, "--full-frame", "--refine", "never", "--json", "out/{source}.jsonl", "--output", "out/{source}.mp4"
    )
    assert done.returncode == 3, done.stderr
    names = {"holiday": 2, "clip2": 2, "clip10": 3}
    assert {path.stem: len(lines_of(path)) for path in (tmp_path / "out").glob("*.jsonl")} == names
    assert {path.stem: frames_of(path) for path in (tmp_path / "out").glob("*.mp4")} == names
    assert [line["file_name"] for line in lines_of(tmp_path / "out" / "holiday.jsonl")] == ["a.png", "b.png"]
    broken, left_out = sorted(line.removeprefix("warning: ") for line in done.stderr.splitlines())
    assert broken.startswith(f"{holiday}/broken.avi: ")
    assert broken.endswith("; the other streams go on")
    assert left_out == f"{holiday}: left out 1 file that is neither a picture nor a video: .txt"
    lines = done.stdout.splitlines()
    order = [line.partition(": frames ")[0] for line in lines if ": frames " in line]
    assert order == [str(holiday), f"{holiday}/clip2.MP4", f"{holiday}/clip10.mp4"]
    assert lines[3].startswith("frames 7, people 7, refined 0 (0%), ")
    assert sum(line.startswith("wrote out/") for line in lines) == 6


def test_a_damaged_video_of_a_folder_fails_the_run(sharpose_run: Run, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("a", "b"):
        write_video(tmp_path / "videos" / f"{name}.mp4", 30, faststart=True)
    data = bytearray((tmp_path / "videos" / "a.mp4").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 6000] = bytes(6000)
    (tmp_path / "videos" / "a.mp4").write_bytes(data)
    done = sharpose_run("videos", "--full-frame", "--refine", "never", "--json", "{source}.jsonl")
    assert done.returncode == 3, done.stderr
    assert done.stderr.endswith("error: videos/a.mp4: damaged; the results are those of what could be read\n")
    assert len(lines_of(tmp_path / "b.jsonl")) == 30 > len(lines_of(tmp_path / "a.jsonl")) > 0


def test_a_glob_of_videos_and_a_folder_of_one(sharpose_run: Run, tmp_path: Path, holiday: Path) -> None:
    done = sharpose_run("holiday/clip*", "--full-frame", "--refine", "never", "--json", "{source}.jsonl", "--stride", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert [len(lines_of(tmp_path / f"{name}.jsonl")) for name in ("clip2", "clip10")] == [1, 2]
    (tmp_path / "one").mkdir()
    shutil.copy(holiday / "clip10.mp4", tmp_path / "one")
    (tmp_path / "one" / "notes.txt").write_text("Monday")
    done = sharpose_run("one", "--full-frame", "--refine", "never", "--json", "o.jsonl")
    expected = "warning: one: left out 1 file that is neither a picture nor a video: .txt\n"
    assert (done.returncode, done.stderr) == (0, expected)
    assert len(lines_of(tmp_path / "o.jsonl")) == 3
    shutil.copy(holiday / "clip2.MP4", tmp_path / "one" / "видео.mp4")
    sources = ("one/clip10.mp4", "holiday/clip10.mp4", "one/видео.mp4")
    done = sharpose_run(*sources, "--full-frame", "--refine", "never", "--json", "n/{source}.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    written = {line for line in done.stdout.splitlines() if line.startswith("wrote")}
    assert written == {"wrote n/clip10.jsonl", "wrote n/clip10-2.jsonl, of holiday/clip10.mp4", "wrote n/видео.jsonl"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["holiday", "--json", "o.jsonl"], "--json o.jsonl: 4 sources can't share one output; put {source} into"),
        (["holiday/clip*", "--json", "{source}.jsonl", "--boxes", "b"], "--boxes b: 2 sources can't share one file of"),
        (
            ["holiday/*.[mM][pP]4", "--output", "holiday/{source}_poses.mp4"],
            "output holiday/clip2_poses.mp4 lies among the source's videos, where another run would take it for one",
        ),
        (["holiday/*.txt", "--json", "o.jsonl"], "or videos, but the glob matches 1 other file (.txt)"),
    ],
)
def test_what_several_files_need(refused: Callable[..., str], holiday: Path, arguments: list[str], words: str) -> None:
    assert words in refused(*arguments, *([] if "--boxes" in arguments else ["--full-frame"]), to=[])


def test_an_interrupted_folder_says_what_was_not_begun(
    environment: dict[str, str], nano_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    write_long_video(tmp_path / "videos" / "a.mp4", 50_000)
    for name in "bc":
        write_video(tmp_path / "videos" / f"{name}.mp4", 1)
    options = ["--full-frame", "--refine", "never", "--json", "{source}.jsonl", "--quiet", "--threads", "1"]
    process = subprocess.Popen(
        [PROGRAM, "videos", "--bundle", nano_bundle, *options],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and not (tmp_path / "a.jsonl").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    frames = len(lines_of(tmp_path / "a.jsonl"))
    assert process.returncode == 130
    held = f"warning: interrupted after {frames} frame{'s' * (frames != 1)}; a.jsonl holds those; 2 sources not begun\n"
    assert stderr == held
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {"a.jsonl"}


def test_of_many_videos_one_that_is_none_is_passed_over(sharpose_run: Run, tmp_path: Path) -> None:
    videos = [write_video(tmp_path / f"v{index}.mp4", 2) for index in range(9)]
    videos[3].write_bytes(b"no video" * 99)
    done = sharpose_run(*videos, "--full-frame", "--refine", "never", "--json", "{source}.jsonl", "--quiet")
    assert done.returncode == 3
    assert done.stderr.startswith(f"warning: {videos[3]}: ")
    written = {path.stem: len(lines_of(path)) for path in tmp_path.glob("*.jsonl")}
    assert written == {video.stem: 2 for video in videos if video != videos[3]}

"""The CPU time of a run is taken apart, and the report says how much more it is than its engines and FFmpeg."""

from __future__ import annotations

import functools
import json
import re
import signal
from contextlib import nullcontext
from pathlib import Path

import overhead
import pytest
from cli_files import write_boxes, write_video
from overhead import Overhead, Round, Setup, command, make_video

from sharpose.cli import main
from sharpose.runtime.sources.video import VideoSource


def test_more_is_what_remains_beside_engines_and_ffmpeg() -> None:
    found = Overhead(10, 2.0, 1.0, [Round(9.0, whole, 6.0, 2.0, 4.0, 12.6) for whole in (15.0, 13.2, 12.0)])
    assert [one.necessary for one in found.rounds] == [12.0] * 3
    assert found.interval("more") == pytest.approx((0.1, 0.0, 0.25))
    assert found.interval("sharing") == pytest.approx((0.05,) * 3)
    assert (found.median("whole"), found.median("necessary"), len(found)) == (13.2, 12.0, 3)


def test_a_video_is_taken_apart(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overhead, "run_once", functools.cache(overhead.run_once))  # the first frame's, which run twice
    video = write_video(tmp_path / "video.mp4")
    boxes = write_boxes(tmp_path / "b.json", [(index, (1, 2, 50, 60), 0.5) for index in range(3)])
    options = ["--boxes", str(boxes), "--bundle", str(nano_bundle), "--refine", "always", "--threads", "1"]
    with pytest.raises(SystemExit) as ended:
        main(command, [str(video), *options, "--frames", "3", "--rounds", "1", "--output", str(tmp_path / "out")])
    assert ended.value.code == 0
    page = (tmp_path / "out" / "overhead.md").read_text()
    assert page in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "overhead.json").read_text())
    assert (report["frames"], report["people"], report["refined"]) == (3, 1.0, 1.0)
    assert min(report["engines"], report["decode"], report["encode"], report["at_once"]) > 0
    necessary = report["engines"] + report["decode"] + report["encode"]
    assert report["more"] == pytest.approx([report["whole"] / necessary - 1] * 3)
    assert list(report["parts"]) == ["to BGR", "crops", "patches", "map back", "drawing", "to YUV", "JSON"]
    rows = dict(re.findall(r"^\| \**([^|*]+?)\** \| (-?[0-9.]+) \|$", page, re.MULTILINE))
    rest = [float(rows[f"the rest: {name}"]) for name in (*report["parts"], "other")]
    rest.append(float(rows["the three at once: more than alone"]))
    assert sum(rest) + necessary == pytest.approx(report["whole"], abs=0.1)


def test_a_signal_keeps_the_rounds_that_are_done(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def run_once(setup: Setup, frames: int, annotated: Path, lines: Path) -> tuple[float, float]:
        people = [{"refined": True}, {"refined": False}]
        lines.write_text("".join(json.dumps({"people": people}) + "\n" for _ in range(frames)))
        order.append(f"run of {frames}")
        return 0.1 * frames, 0.2 * frames

    def decode_alone(video: Path, frames: int) -> float:
        order.append("decode")
        if order.count("decode") == 3:
            signal.raise_signal(signal.SIGINT)
        return 0.01

    monkeypatch.setattr(overhead, "run_once", run_once)
    monkeypatch.setattr(overhead, "engine_steps", lambda setup, counts: nullcontext())
    monkeypatch.setattr(overhead, "engines_alone", lambda run, frames: 0.15)
    monkeypatch.setattr(overhead, "decode_alone", decode_alone)
    monkeypatch.setattr(overhead, "pictures_of", lambda video, frames: [])
    monkeypatch.setattr(overhead, "encode_alone", lambda pictures, folder: 0.02)
    monkeypatch.setattr(overhead, "at_once", lambda run, video, pictures, folder: 0.189)
    words = ["v.mp4", "--boxes", "b.json", "--bundle", str(nano_bundle), "--frames", "3", "--output", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(command, words)
    said, error = capsys.readouterr()
    assert ended.value.code == 130
    assert error == f"error: interrupted after 2 rounds; {tmp_path} holds them\n"
    pair = ["run of 1", "run of 3"]
    assert order == [*pair, *pair, "decode", "decode", *pair, *pair, "decode"]
    report = json.loads((tmp_path / "overhead.json").read_text())
    one = {"elapsed": 100.0, "whole": 200.0, "engines": 150.0, "decode": 10.0, "encode": 20.0, "at_once": 189.0}
    assert report["rounds"] == [pytest.approx(one)] * 2
    assert report["more"] == pytest.approx([200 / 180 - 1] * 3)
    assert report["sharing"] == pytest.approx([0.05] * 3)
    assert (report["frames"], report["people"], report["refined"], report["parts"]) == (3, 2.0, 1.0, {})
    page = (tmp_path / "overhead.md").read_text()
    assert page in said
    assert "+11.1% of CPU time more than its engines and FFmpeg alone (median of 2 rounds" in page
    rows = [line for line in page.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        "| **whole run** | 200.00 |",
        "| engines | 150.00 |",
        "| FFmpeg: decoding | 10.00 |",
        "| FFmpeg: encoding | 20.00 |",
        "| the three at once: more than alone | 9.00 |",
    ]


def test_video_and_boxes_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command, ["v.mp4", "--output", str(tmp_path)])
    assert ended.value.code == 2
    assert "VIDEO and --boxes go together: give both, or neither" in capsys.readouterr().err


def test_the_scene_is_one_person_at_1080p(tmp_path: Path) -> None:
    video, boxes = make_video(tmp_path, 2)
    source = VideoSource(str(video))
    assert [frame.image.shape for frame in source] == [(1080, 1920, 3)] * 2
    source.close()
    assert {entry["image_id"] for entry in json.loads(boxes.read_text())} <= {0, 1}
